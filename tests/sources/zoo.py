"""Specimens of bad and odd files, made by code: what each must end as."""

from __future__ import annotations

import io
import os
import socket
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

ITEM = "item"
Outcomes = dict[str, str]
"""Name → `ITEM`, or a regular expression that the reason matches."""

DAMAGED = "^damaged: |^not a picture"
EITHER = "item|damaged: |not a picture"
"""Where decoders of different versions may do either."""
NAME = "^the name is not valid UTF-8"
"""The picture may be looked for, but not be named in an index."""


def make_zoo(folder: Path) -> Outcomes:
    """Make every specimen in an empty folder."""
    outcomes: Outcomes = {}
    for specimens in (healthy, odd_pictures, damaged, liars, strangers):
        for name, data, outcome in specimens():
            (folder / name).write_bytes(data)
            outcomes[name] = outcome
    for place in (odd_files, odd_names):
        outcomes |= place(folder)
    return outcomes


def picture(size=(96, 64), seed=0) -> Image.Image:
    """Smooth colours that no two seeds share."""
    corners = np.random.default_rng(seed).integers(0, 256, (2, 3, 3), dtype=np.uint8)
    return Image.fromarray(corners).resize(size, Image.Resampling.BILINEAR)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    if kind == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener()
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def healthy() -> Iterator[tuple[str, bytes, str]]:
    """Every format that is read, in its kinds."""
    frames = [picture(seed=n) for n in range(1, 4)]
    animated = {"save_all": True, "append_images": frames}
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, kind, options in [
        ("plain.jpg", "JPEG", {}),
        ("progressive.jpg", "JPEG", {"progressive": True}),
        ("turned.jpg", "JPEG", {"exif": exif}),
        ("plain.png", "PNG", {}),
        ("lossy.webp", "WEBP", {}),
        ("lossless.webp", "WEBP", {"lossless": True}),
        ("animated.webp", "WEBP", animated),
        ("animated.gif", "GIF", animated),
        ("animated.png", "PNG", animated),
        ("several.avif", "AVIF", animated),
        ("pages.tif", "TIFF", animated),
        ("lzw.tiff", "TIFF", {"compression": "tiff_lzw"}),
        ("jpeg.tif", "TIFF", {"compression": "jpeg"}),
        ("turned.tif", "TIFF", {"exif": exif}),
        ("plain.bmp", "BMP", {}),
        ("plain.avif", "AVIF", {}),
        ("turned.heic", "HEIF", {"exif": exif.tobytes()}),
        ("several.mpo", "MPO", animated),
    ]:
        yield name, encoded(picture(seed=len(name)), kind, **options), ITEM
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    ink = picture(seed=40).convert("CMYK")
    yield "cmyk.jpg", encoded(ink, "JPEG"), ITEM
    yield "cmyk, wrong profile.jpg", encoded(ink, "JPEG", icc_profile=srgb), ITEM
    yield "cmyk, no profile at all.jpg", encoded(ink, "JPEG", icc_profile=b"\0" * 500), ITEM
    yield "rle.bmp", rle_bmp(), ITEM
    deep = np.random.default_rng(0).integers(0, 65536, (40, 30), dtype=np.uint16)
    yield "sixteen bits.png", encoded(Image.fromarray(deep), "PNG"), ITEM
    yield "sixteen bits, big-endian.tif", tiff(deep.astype(">u2").tobytes(), 30, 40, bits=16, order=">"), ITEM
    floating = deep.astype(np.float32) * 5e33
    floating[:4] = [[np.nan], [np.inf], [-np.inf], [-3e38]]
    yield "floating point.tif", encoded(Image.fromarray(floating), "TIFF"), ITEM


def odd_pictures() -> Iterator[tuple[str, bytes, str]]:
    """Valid, but of sizes and modes that are seldom met."""
    yield "1 x 1.png", encoded(Image.new("RGB", (1, 1), "teal"), "PNG"), ITEM
    yield "1 x 1.gif", encoded(Image.new("P", (1, 1)), "GIF"), ITEM
    yield "1 x 20000.png", encoded(picture((1, 20_000), 50), "PNG"), ITEM
    yield "20000 x 1.jpg", encoded(picture((20_000, 1), 51), "JPEG"), ITEM
    yield "60000 x 2.bmp", encoded(picture((60_000, 2), 52), "BMP"), ITEM
    for n, mode in enumerate(["1", "L", "LA", "P", "RGBA"]):
        yield f"mode {mode}.png", encoded(picture(seed=60 + n).convert(mode), "PNG"), ITEM
    for n, mode in enumerate(["1", "L", "LA", "P", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "I", "F", "I;16"]):
        yield f"mode {mode.replace(';', '')}.tif", encoded(in_mode(mode, 70 + n), "TIFF"), ITEM
    clear = picture(seed=90).convert("RGBA")
    clear.putalpha(0)
    yield "all clear.webp", encoded(clear, "WEBP", lossless=True, exact=True), ITEM
    yield "all clear.avif", encoded(clear, "AVIF"), ITEM
    yield "frame outside.gif", moved_frame(encoded(picture((20, 20), 91), "GIF"), 30, 30), ITEM
    yield "many scans.jpg", encoded(picture((640, 480), 92), "JPEG", progressive=True, optimize=True), ITEM
    yield "no end marker.jpg", encoded(picture(seed=93), "JPEG")[:-2], EITHER
    yield "more after the end.jpg", encoded(picture(seed=94), "JPEG") + b"\0" * 5000, ITEM


def in_mode(mode: str, seed: int) -> Image.Image:
    image = picture(seed=seed)
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        converted = ImageCms.profileToProfile(image, srgb, lab, outputMode="LAB")
        assert converted is not None
        return converted
    if mode == "PA":
        return image.convert("P").convert("PA")
    if mode in ("I;16", "I"):
        deep = np.asarray(image.convert("L"), dtype=np.uint16 if mode == "I;16" else np.int32) * 200
        return Image.fromarray(deep)
    return image.convert(mode)


def damaged() -> Iterator[tuple[str, bytes, str]]:
    """Broken on the way: cut, overwritten, empty."""
    yield "zero bytes.jpg", b"", "^the file is empty$"
    yield "zeros.jpg", bytes(5000), "^not a picture"
    yield "text.jpg", b"This is no picture.\n" * 50, "^not a picture"
    whole = {
        "jpg": encoded(picture((320, 240), 100), "JPEG"),
        "progressive.jpg": encoded(picture((320, 240), 101), "JPEG", progressive=True),
        "png": encoded(picture((320, 240), 102), "PNG"),
        "webp": encoded(picture((320, 240), 103), "WEBP"),
        "gif": encoded(picture((320, 240), 104), "GIF"),
        "tif": encoded(picture((320, 240), 105), "TIFF", compression="tiff_lzw"),
        "bmp": encoded(picture((320, 240), 106), "BMP"),
        "avif": encoded(picture((320, 240), 107), "AVIF"),
        "heic": encoded(picture((320, 240), 108), "HEIF"),
    }
    for suffix, data in whole.items():
        for tenth in range(1, 10):
            yield f"cut at {tenth} tenths.{suffix}", data[: len(data) * tenth // 10], DAMAGED
        hole = len(data) // 2
        yield f"hole.{suffix}", data[:hole] + bytes(20) + data[hole + 20 :], EITHER
    yield "only a head.jpg", b"\xff\xd8\xff", DAMAGED
    yield "corrupt EXIF.jpg", encoded(picture(seed=110), "JPEG", exif=b"Exif\0\0" + bytes(range(64))), ITEM
    yield "looping EXIF.jpg", encoded(picture(seed=111), "JPEG", exif=b"Exif\0\0" + looping_ifd()), ITEM
    yield "greedy EXIF.png", encoded(picture(seed=112), "PNG", exif=greedy_ifd(1000, 100_000)), ITEM
    yield "EXIF of another kind.webp", encoded(picture(seed=113), "WEBP", exif=b"what?" * 9), ITEM


def liars() -> Iterator[tuple[str, bytes, str]]:
    """Files that claim more, or other things, than they hold."""
    yield "bomb.png", png(50_000, 50_000), "limit of 178,000,000"
    yield "half a bomb.png", png(15_000, 11_800), "^damaged"
    yield "bomb.gif", b"GIF89a" + struct.pack("<HH", 65535, 65535) + encoded(picture(seed=120), "GIF")[10:], "limit of"
    yield "bomb.bmp", bmp_of_size(1 << 30, 1 << 30), "limit of|^damaged"
    yield "minus.bmp", bmp_of_size(-5, -5), "limit of|^damaged|^not a picture"
    yield "bomb.tif", tiff(b"\0" * 8, 60_000, 60_000), "limit of"
    yield "nothing by nothing.png", png(0, 0), "^damaged|^not a picture"
    yield "huge comment.png", png(8, 8, (b"zTXt", b"a\0\0" + zlib.compress(bytes(20_000_000), 9))), "^damaged"
    yield "huge profile.png", png(8, 8, (b"iCCP", b"a\0\0" + zlib.compress(bytes(20_000_000), 9))), EITHER
    yield "huge words.png", png(8, 8, (b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(20_000_000), 9))), EITHER
    yield "many comments.png", png(8, 8, *[(b"tEXt", b"key%d\0" % n + b"x" * 100) for n in range(5000)]), ITEM
    yield "one huge strip.tif", tiff(b"\0" * 64, 8, 8, tags={278: 0xFFFFFFFF}), ITEM
    yield "absurd strips.tif", tiff(b"\0" * 64, 8, 8, tags={279: 0xFFFFFFF0}), EITHER
    yield "strips beyond the end.tif", tiff(b"\0" * 64, 8, 8, tags={273: 0x7FFFFFFF}), DAMAGED
    yield "absurd samples.tif", tiff(b"\0" * 64, 8, 8, tags={277: 60_000}), DAMAGED
    yield "bomb of tiles.tif", tiff(bytes(64), 8, 8, tags={322: 40_000, 323: 40_000}), "limit of"
    yield "many values.tif", tiff(bytes(64), 8, 8, counts={258: 1 << 21}), "^damaged: 2,097,152 values in its tag 258"
    yield "huge EXIF.png", encoded(picture(seed=125), "PNG", exif=greedy_ifd(1, 5 << 20)), ITEM
    yield "looping pages.tif", looping_ifd(), DAMAGED
    yield "greedy tags.tif", greedy_ifd(2000, 100_000), DAMAGED
    for suffix in ("jpg", "png", "gif", "webp", "tif", "bmp", "avif", "heic"):
        yield f"really a png.{suffix}", encoded(picture(seed=len(suffix) + ord(suffix[0])), "PNG"), ITEM
    yield "really a jpeg.png", encoded(picture(seed=131), "JPEG"), ITEM


def strangers() -> Iterator[tuple[str, bytes, str]]:
    """Real pictures of formats that are not read, and other files, named as if they were."""
    for kind in ("JPEG2000", "ICO", "TGA", "PCX", "PPM", "ICNS", "DDS", "EPS", "PDF", "SGI"):
        yield f"{kind}.jpg", encoded(picture((64, 64), 140), kind), "^not a picture"
    yield "svg.jpg", b"<svg xmlns='http://www.w3.org/2000/svg'><rect width='9' height='9'/></svg>", "^not a picture"
    yield (
        "psd.jpg",
        b"8BPS\0\1" + bytes(6) + b"\0\3" + struct.pack(">II", 8, 8) + b"\0\x08\0\3" + bytes(300),
        "^not a pict",
    )
    yield "zip.jpg", b"PK\x03\x04" + bytes(100), "^not a picture"
    yield "html.jpg", b"<!doctype html><title>404</title>", "^not a picture"
    yield "film.heic", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(500), "^not a picture"
    yield "no boxes.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500), DAMAGED
    yield "mp3.png", b"ID3\x04\0\0" + bytes(500), "^not a picture"


def odd_files(folder: Path) -> Outcomes:
    """What is no ordinary file."""
    os.mkfifo(folder / "fifo.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(folder)  # a socket's path is short
        server.bind("socket.jpg")
        os.chdir(here)
    (folder / "folder.jpg").mkdir()
    (folder / "folder.jpg" / "inside.png").write_bytes(encoded(picture(seed=150), "PNG"))
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "round.jpg").symlink_to("about.jpg")
    (folder / "about.jpg").symlink_to("round.jpg")
    (folder / "nowhere.jpg").symlink_to("nowhere at all.jpg")
    (folder / "circle").symlink_to(".", target_is_directory=True)
    (folder / "null.jpg").symlink_to(os.devnull)
    os.link(folder / "plain.jpg", folder / "hard link.jpg")
    (folder / "soft link.jpg").symlink_to("plain.jpg")
    with (folder / "sparse.jpg").open("wb") as sparse:
        sparse.truncate(5 << 30)
    locked = folder / "locked.jpg"
    locked.write_bytes(encoded(picture(seed=151), "PNG"))
    locked.chmod(0)
    outcomes = dict.fromkeys(("fifo.jpg", "socket.jpg", "null.jpg"), "^not a regular file$")
    outcomes |= dict.fromkeys(("loop.jpg", "round.jpg", "about.jpg"), "symbolic link")
    outcomes |= dict.fromkeys(("folder.jpg/inside.png", "hard link.jpg", "soft link.jpg"), ITEM)
    if os.path.exists("/proc/self/status"):  # says that it has no bytes, and has some
        (folder / "proc.jpg").symlink_to("/proc/self/status")
        outcomes["proc.jpg"] = "^not a picture"
    return outcomes | {
        "nowhere.jpg": "No such file",
        "sparse.jpg": "limit of 1,073,741,824 bytes",
        "locked.jpg": ITEM if os.geteuid() == 0 else "Permission denied",
    }


def odd_names(folder: Path) -> Outcomes:
    """Good pictures under names that are hard to handle."""
    names = [
        "new\nline.png", "tab\t.png", "quote'.png", 'double".png', "back\\slash.png", "$HOME `ls`.png", "-rf.png",
        "%s%n.png", "a" * 251 + ".png", "ü" * 125 + ".png", "\u202egnp.png", "emoji 🐶.png", "e\u0301.png", " .png",
        "[1].png", "*.png", "semi;colon.png", "CAPITAL.PNG", "two.dots..png", "\x01\x7f.png",
    ]  # fmt: skip
    for n, name in enumerate(names):
        (folder / name).write_bytes(encoded(picture(seed=200 + n), "PNG"))
    with open(os.fsencode(folder) + b"/latin \xe9.png", "wb") as file:
        file.write(encoded(picture(seed=199), "PNG"))
    return dict.fromkeys(names, ITEM) | {"latin \\udce9.png": NAME}


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *extra: tuple[bytes, bytes]) -> bytes:
    """A header for RGB of any size, more chunks, and the content of 8 × 8 pixels."""
    header = struct.pack(">II", width, height) + b"\x08\x02\0\0\0"
    parts = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(bytes(25 * 8))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in parts)


def tiff(data: bytes, width: int, height: int, *, bits: int = 8, order: str = "<", tags=None, counts=None) -> bytes:
    """A grey TIFF of one strip; `tags` and `counts` override what its tags say."""
    said = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(data)}
    said |= tags or {}
    many = counts or {}
    entries = b"".join(
        struct.pack(f"{order}HHII", tag, 4, many.get(tag, 1), value) for tag, value in sorted(said.items())
    )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(data))
    return head + data + struct.pack(f"{order}H", len(said)) + entries + bytes(4)


def looping_ifd() -> bytes:
    """A directory whose sub-directory and successor are itself."""
    entries = struct.pack("<HHII", 0x8769, 4, 1, 8) + struct.pack("<HHII", 0x8825, 4, 1, 8)
    return b"II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<I", 8)


def greedy_ifd(count: int, size: int) -> bytes:
    """Many tags whose values are the same bytes: `count` × `size` of them if all were kept."""
    start = 8 + 2 + 12 * count + 4
    entries = b"".join(struct.pack("<HHII", 40_000 + n, 7, size, start) for n in range(count))
    return b"II*\0" + struct.pack("<IH", 8, count) + entries + bytes(4) + bytes(size)


def rle_bmp() -> bytes:
    """Two rows of four pixels, run-length encoded."""
    palette = bytes([0, 0, 255, 0, 255, 0, 0, 0])  # red, blue
    data = b"\x04\x00\x00\x00\x02\x00\x02\x01\x00\x00\x00\x01"
    info = struct.pack("<IiiHHIIiiII", 40, 4, 2, 1, 8, 1, len(data), 2835, 2835, 2, 2)
    offset = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + info + palette + data


def bmp_of_size(width: int, height: int) -> bytes:
    data = encoded(Image.new("RGB", (4, 4)), "BMP")
    return data[:18] + struct.pack("<ii", width, height) + data[26:]


def moved_frame(gif: bytes, left: int, top: int) -> bytes:
    """A GIF whose frame lies elsewhere than its screen."""
    at = gif.index(b",\0\0\0\0")
    return gif[: at + 1] + struct.pack("<HH", left, top) + gif[at + 5 :]
