"""Seeded damage to valid pictures, and a process that reads them: ``python -m tests.sources.mutations SEED COUNT``.

It prints the number of each mutant before reading it, so that a crash or a hang names its mutant, and then a line
of JSON.
"""

from __future__ import annotations

import faulthandler
import functools
import json
import random
import struct
import sys
import time
import zlib

from mmrag.errors import ItemError
from mmrag.sources.image import read_image
from tests.memory import peak_bytes
from tests.sources.zoo import healthy, odd_pictures

MAX_PIXELS = 1_000_000
EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 20)


@functools.cache
def originals() -> tuple[bytes, ...]:
    return tuple(data for specimens in (healthy, odd_pictures) for _, data, _ in specimens())


def mutant(seed: int, number: int) -> bytes:
    """One valid picture, damaged in up to three ways."""
    chance = random.Random(f"{seed} {number}")  # noqa: S311
    data = bytearray(chance.choice(originals()))
    for _ in range(chance.randint(1, 3)):
        chance.choice(DAMAGES)(data, chance)
    return with_checksums(bytes(data)) if chance.random() < 0.5 else bytes(data)


def flip_bits(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice([1, 1, 3, 30])):
        if data:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def overwrite(data: bytearray, chance: random.Random) -> None:
    at, length = chance.randint(0, len(data)), chance.choice([1, 4, 50, 1000])
    filling = chance.randbytes(length) if chance.random() < 0.5 else chance.choice([b"\0", b"\xff"]) * length
    data[at : at + length] = filling


def truncate(data: bytearray, chance: random.Random) -> None:
    del data[chance.randint(0, len(data)) :]


def drop(data: bytearray, chance: random.Random) -> None:
    at = chance.randint(0, len(data))
    del data[at : at + chance.choice([1, 2, 8, 100])]


def repeat(data: bytearray, chance: random.Random) -> None:
    at, length = chance.randint(0, len(data)), chance.choice([2, 12, 100, 2000])
    data[at:at] = data[at : at + length] * chance.randint(1, 5)


def splice(data: bytearray, chance: random.Random) -> None:
    other = chance.choice(originals())
    data[chance.randint(0, len(data)) :] = other[chance.randint(0, len(other)) :]


def set_field(data: bytearray, chance: random.Random) -> None:
    """A number in a header, of any width and order."""
    width, order = chance.choice("BHI"), chance.choice("<>")
    size = struct.calcsize(width)
    near = min(len(data), chance.choice([32, 200, 2000])) - size
    if near > 0:
        value = chance.choice(EXTREMES) & ((1 << 8 * size) - 1)
        struct.pack_into(order + width, data, chance.randint(0, near), value)


DAMAGES = (flip_bits, overwrite, truncate, drop, repeat, splice, set_field, set_field)


def with_checksums(data: bytes) -> bytes:
    """Mend the checksums of a PNG, so that what is behind them is reached."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    mended, at = bytearray(data), 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            break
        struct.pack_into(">I", mended, end, zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(mended)


def read_all(seed: int, count: int) -> dict[str, float]:
    """Read mutants; anything but a picture within bounds or an ItemError is raised."""
    read_image(originals()[0])
    before = peak_bytes()
    found = {"pictures": 0, "refused": 0, "slowest": 0.0}
    for number in range(count):
        print(number, flush=True)
        data, start = mutant(seed, number), time.perf_counter()
        try:
            image = read_image(data, max_pixels=MAX_PIXELS, at_least=16 if number % 2 else None)
            assert image.mode == "RGB"
            assert 0 < image.width * image.height <= MAX_PIXELS
            assert len(image.tobytes()) == 3 * image.width * image.height
            found["pictures"] += 1
        except ItemError as refused:
            found["refused"] += len(str(refused).splitlines()) == 1
        found["slowest"] = max(found["slowest"], time.perf_counter() - start)
    return found | {"grown": peak_bytes() - before}


if __name__ == "__main__":
    faulthandler.enable()
    print(json.dumps(read_all(int(sys.argv[1]), int(sys.argv[2]))))
