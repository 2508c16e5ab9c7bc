"""Words and facts out of pictures' own metadata."""

import io
import struct
import time

import pytest
from PIL import Image, PngImagePlugin

from mmrag.sources.facts import Embedded, read_embedded
from mmrag.sources.image import read_image

XMP = """<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:exif="http://ns.adobe.com/exif/1.0/"
 xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" {attributes}>
{elements}
</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""

LANGUAGES = (
    '<dc:title><rdf:Alt><rdf:li xml:lang="x-default">The old harbour</rdf:li>'
    '<rdf:li xml:lang="de">Der alte Hafen</rdf:li></rdf:Alt></dc:title>'
    "<dc:subject><rdf:Bag><rdf:li>boats</rdf:li><rdf:li>夕日</rdf:li></rdf:Bag></dc:subject>"
)


def saved(image=None, kind="JPEG", **options):
    file = io.BytesIO()
    (image or Image.new("RGB", (40, 30))).save(file, kind, **options)
    return file.getvalue()


def exif(tags=(), details=(), gps=()):
    found = Image.Exif()
    found.update(dict(tags))
    found.get_ifd(0x8769).update(dict(details))
    found.get_ifd(0x8825).update(dict(gps))
    return found


def xmp(elements="", attributes=""):
    return XMP.format(elements=elements, attributes=attributes).encode()


def iptc(*records):
    return b"".join(b"\x1c" + bytes(kind) + struct.pack(">H", len(value)) + value for kind, value in records)


def with_iptc(block):
    resource = b"8BIM" + struct.pack(">HH", 0x0404, 0) + struct.pack(">I", len(block)) + block
    segment = b"Photoshop 3.0\0" + resource
    jpeg = saved()
    return jpeg[:2] + b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


def place(latitude, north, longitude, east, **more):
    return {1: north, 2: latitude, 3: east, 4: longitude, **more}


def test_exif_tells_when_where_and_with_what_a_picture_was_taken():
    tags = {0x10F: "FUJIFILM", 0x110: "X100V", 0x010E: "A harbour at dusk"}
    details = {0x9003: "2023:06:01 12:30:00", 0x9011: "+02:00", 0xA434: "XF 23mm"}
    gps = place((48.0, 51.0, 30.0), "S", (2.0, 21.0, 0.0), "W") | {5: b"\x01", 6: 35.25}
    assert read_embedded(saved(exif=exif(tags, details, gps))) == Embedded(
        "A harbour at dusk",
        "EXIF",
        {
            "camera": "FUJIFILM X100V",
            "lens": "XF 23mm",
            "taken_at": "2023-06-01T12:30:00+02:00",
            "latitude": -48.858333,
            "longitude": -2.35,
            "altitude": -35.2,
            "width": 40,
            "height": 30,
            "format": "JPEG",
        },
    )


@pytest.mark.parametrize(
    ("make", "model", "camera"),
    [
        ("Canon", "Canon EOS 5D", "Canon EOS 5D"),
        ("NIKON CORPORATION", "NIKON D850", "NIKON D850"),
        ("Apple", "iPhone 15", "Apple iPhone 15"),
        ("", "X-Pro2", "X-Pro2"),
        ("SONY", "", "SONY"),
    ],
)
def test_a_camera_bears_its_make_once(make, model, camera):
    assert read_embedded(saved(exif=exif({0x10F: make, 0x110: model}))).facts["camera"] == camera


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_width_and_height_are_those_of_the_upright_picture(kind, orientation):
    if kind == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener()
    data = saved(kind=kind, exif=exif({0x112: orientation, 0x110: "X"}))
    facts = read_embedded(data).facts
    assert (facts["width"], facts["height"]) == read_image(data).size
    assert facts["format"] == kind


def test_the_size_is_that_of_the_whole_picture_however_it_will_be_decoded():
    facts = read_embedded(saved(Image.new("RGB", (1600, 900)))).facts
    assert (facts["width"], facts["height"]) == (1600, 900)


@pytest.mark.parametrize("words", ["OLYMPUS DIGITAL CAMERA", "SONY DSC", "   ", "\0\0", "Exif_JPEG_PICTURE", "DCIM"])
def test_what_a_camera_wrote_is_no_word(words):
    assert read_embedded(saved(exif=exif({0x010E: words}))).tags is None


@pytest.mark.parametrize(
    ("comment", "text"),
    [
        (b"ASCII\0\0\0seen from the pier", "seen from the pier"),
        (b"ASCII\0\0\0\0\0\0", None),
        (b"UNICODE\0" + "Möwen".encode("utf-16-le"), "Möwen"),
        (b"UNICODE\0" + "Möwen".encode("utf-16-be"), "Möwen"),
        (b"\0" * 8 + "Möwen".encode(), "Möwen"),
        (b"\0" * 40, None),
    ],
)
def test_comments_of_users_come_in_many_codes(comment, text):
    assert read_embedded(saved(exif=exif(details={0x9286: comment}))).tags == text


def test_windows_writes_utf_16_into_tags_of_its_own():
    tags = {0x9C9B: "Hafen".encode("utf-16-le"), 0x9C9E: "Boote;Möwen\0".encode("utf-16-le")}
    assert read_embedded(saved(exif=exif(tags))).tags == "Hafen\nBoote, Möwen"


def test_utf_8_in_a_tag_for_ascii_is_read_as_what_it_is():
    raw = exif({0x010E: "x" * 5}).tobytes().replace(b"xxxxx", "ääx".encode())
    assert read_embedded(saved(exif=raw)).tags == "ääx"


@pytest.mark.parametrize(("charset", "code"), [([((1, 90), b"\x1b%G")], "utf-8"), ([], "latin-1"), ([], "utf-8")])
def test_iptc_has_titles_captions_and_keywords(charset, code):
    records = [((2, 5), "Fähre"), ((2, 120), "Die Fähre legt ab"), ((2, 25), "Fähre"), ((2, 25), "See")]
    block = iptc(*charset, *((kind, text.encode(code)) for kind, text in records))
    found = read_embedded(with_iptc(block))
    assert (found.tags, found.origin) == ("Fähre\nDie Fähre legt ab\nSee", "IPTC")


def test_iptc_that_is_cut_short_gives_what_stands_before():
    block = iptc(((2, 5), b"Ferry"), ((2, 120), b"The ferry leaves"))
    assert read_embedded(with_iptc(block[:-4])).tags == "Ferry"


def test_xmp_has_words_in_all_languages():
    found = read_embedded(saved(xmp=xmp(LANGUAGES)))
    assert (found.tags, found.origin) == ("The old harbour\nDer alte Hafen\nboats, 夕日", "XMP")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_xmp_is_found_in_every_format_that_pillow_writes_it_into(kind):
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp(LANGUAGES).decode())
        data = saved(kind=kind, pnginfo=info)
    elif kind == "TIFF":
        data = saved(kind=kind, tiffinfo={700: xmp(LANGUAGES)})
    else:
        data = saved(kind=kind, xmp=xmp(LANGUAGES))
    assert read_embedded(data).tags == "The old harbour\nDer alte Hafen\nboats, 夕日"


def test_xmp_within_xmp_is_read_in_linear_time():
    deep = "<dc:title>" * 40_000 + "</dc:title>" * 40_000
    start = time.process_time()
    read_embedded(saved(kind="WEBP", xmp=xmp(deep)))
    assert time.process_time() - start < 5  # it took minutes


def test_xmp_tells_what_exif_does_not():
    written = xmp(
        "<tiff:Make>Leica</tiff:Make><tiff:Model>Q2</tiff:Model>",
        'photoshop:DateCreated="2021-05-04" exif:GPSLatitude="48,30.5N" exif:GPSLongitude="2,30,36W"',
    )
    facts = read_embedded(saved(xmp=written)).facts
    assert facts["taken_at"] == "2021-05-04"
    assert facts["camera"] == "Leica Q2"
    assert (facts["latitude"], facts["longitude"]) == (48.508333, -2.51)
    both = saved(xmp=written, exif=exif(details={0x9003: "2020:01:02 03:04:05"}))
    assert read_embedded(both).facts["taken_at"] == "2020-01-02T03:04:05"


def test_the_same_words_in_several_places_are_told_once():
    data = saved(xmp=xmp(LANGUAGES), exif=exif({0x010E: "the OLD harbour", 0x9C9E: "Boats".encode("utf-16-le")}))
    found = read_embedded(data)
    assert (found.tags, found.origin) == ("the OLD harbour\nDer alte Hafen\nBoats, 夕日", "EXIF, XMP")


def test_png_has_texts_of_its_own():
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "A chart")
    info.add_itxt("Description", "売上")
    found = read_embedded(saved(kind="PNG", pnginfo=info))
    assert (found.tags, found.origin) == ("A chart\n売上", "PNG")


BOMB = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>' + xmp("<dc:title>&b;</dc:title>").decode()
FILE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + xmp("<dc:title>&a;</dc:title>").decode()


@pytest.mark.parametrize(
    "block",
    [
        BOMB.encode(),
        FILE.encode(),
        BOMB.encode("utf-16"),
        xmp(LANGUAGES)[:300],
        xmp(LANGUAGES).replace(b"boats", b"\xff\xfe"),
        b"<a>" * 2000,
        b"",
        b"\0\1\2",
        b'<?xml version="1.0" encoding="nonsense"?><a/>',
    ],
)
def test_xmp_that_is_damaged_or_an_attack_says_nothing(block):
    found = read_embedded(saved(xmp=block))
    assert found.tags is None
    assert found.facts == {"width": 40, "height": 30, "format": "JPEG"}


@pytest.mark.parametrize(
    "details",
    [{0x9003: "0000:00:00 00:00:00"}, {0x9003: "    :  :     :  :  "}, {0x9003: "yesterday"}, {0x9003: b"\xff\0"}],
)
def test_a_time_that_is_none_is_left_out(details):
    assert "taken_at" not in read_embedded(saved(exif=exif(details=details))).facts


@pytest.mark.parametrize(
    "gps",
    [
        place((1000.0, 0.0, 0.0), "N", (2.0, 0.0, 0.0), "E"),
        place((48.0, 0.0, 0.0), "N", (), ""),
        {2: (48.0, 0.0, 0.0), 4: (2.0, 0.0, 0.0)},
    ],
)
def test_a_place_that_is_none_is_left_out(gps):
    assert not {"latitude", "longitude"} & set(read_embedded(saved(exif=exif(gps=gps))).facts)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # as the library does, unless a test run says otherwise
def test_every_truncation_of_exif_costs_at_most_the_metadata():
    whole = exif({0x10F: "FUJIFILM", 0x010E: "A harbour"}, {0x9003: "2023:06:01 12:30:00"}).tobytes()
    for length in range(6, len(whole), 3):
        data = saved(exif=whole[:length])
        assert read_embedded(data).facts["width"] == 40
        assert read_image(data).size == (40, 30)


def test_what_is_no_picture_says_nothing():
    assert read_embedded(b"no picture") == Embedded()
