"""A run keeps to its limits of time and memory, whatever the files are."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import zlib

import pytest
from PIL import Image

import mmrag
from mmrag.errors import RecipeError
from mmrag.ingest.recipe import IndexRecipe, SourceOptions
from mmrag.sources import rooms
from mmrag.sources.limits import MAX_BYTES, MAX_PIXELS, WORKING_BYTES
from tests.sources.zoo import chunk

HASTY = IndexRecipe(source=SourceOptions(max_seconds=0.3))


@pytest.fixture
def slow(monkeypatch):
    """Reading 'red.png' takes two seconds."""
    real = rooms.read_file

    def read_file(path, **options):
        if path.endswith("red.png"):
            time.sleep(2)
        return real(path, **options)

    monkeypatch.setattr(rooms, "read_file", read_file)
    return monkeypatch


def test_a_file_that_takes_too_long_is_a_failure_until_the_next_run(colours, slow):
    index = mmrag.create(".", model="toy:1")
    changes = index.add("images", recipe=HASTY)
    assert changes.added == 5
    (failure,) = changes.failed
    assert (failure.uri, failure.reason) == ("images/red.png", "took longer than 0.3 seconds")
    assert index.search("red", k=1)[0].item.uri != "images/red.png"
    slow.undo()
    slow.chdir(colours.parent)
    again = index.update(recipe=HASTY)
    assert (again.added, again.unchanged, again.failed, again.still_failing) == (1, 5, (), 0)


def test_an_item_that_takes_too_long_is_a_failure_too(colours, slow):
    index = mmrag.create(".", model="toy:1")
    items = [mmrag.Item(uri=f"images/{name}.png", metadata={"n": 1}) for name in ("blue", "red")]
    changes = index.add(items, recipe=HASTY)
    assert (changes.added, [failure.uri for failure in changes.failed]) == (1, ["images/red.png"])


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_time_limit_is_above_nothing(seconds):
    with pytest.raises(RecipeError, match="max_seconds is a number above 0"):
        IndexRecipe(source=SourceOptions(max_seconds=seconds))


def test_the_row_has_the_time_of_the_bytes_that_were_read(colours, monkeypatch):
    real = rooms.read_file

    def read_file(path, **options):  # the file changes after the walk
        if path.endswith("red.png"):
            Image.new("RGB", (9, 9), "blue").save(path)
            os.utime(path, (1_000_000, 1_000_000))
        return real(path, **options)

    index = mmrag.create(".", model="toy:1")
    with monkeypatch.context() as patched:
        patched.setattr(rooms, "read_file", read_file)
        index.add("images")
    assert {hit.item.uri for hit in index.search("blue", k=2)} == {"images/blue.png", "images/red.png"}
    assert index.update().unchanged == 6


def large_png(width: int, height: int) -> bytes:
    """RGBA, half clear, made a row at a time."""
    packer = zlib.compressobj(1)
    row = b"\0" + bytes([200, 30, 40, 128]) * width
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x06\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


THREADS = 6
KEPT = THREADS * 64_000_000
"""What the allocator of the C library may keep of what was freed."""

SCRIPT = f"""
import sys
import mmrag
from mmrag.ingest import write
from mmrag.sources import rooms
from mmrag.models import registry
from tests.memory import peak_bytes
from tests.toy import open_toy
registry.register("toy", open_toy)
index = mmrag.create(".", model="toy:1")
index.add("small")
before = peak_bytes()
write.usable_cores = lambda: {THREADS}
rooms.MAX_PIXELS = int(sys.argv[1])
changes = index.add("large")
assert changes.added == len(list(index.home.glob("large/*"))), changes
print(peak_bytes() - before)
"""


def grown(home, pixels_at_once: int) -> int:
    """Index `large` with six threads: how many bytes that takes at most, beyond a small picture."""
    (home / "small").mkdir()
    Image.new("RGB", (50, 50)).save(home / "small" / "a.png")
    command = [sys.executable, "-c", SCRIPT, str(pixels_at_once)]
    return int(subprocess.run(command, cwd=home, capture_output=True, check=True, text=True, timeout=300).stdout)


@pytest.fixture
def large(tmp_path, monkeypatch):
    root = os.path.dirname(mmrag.__path__[0])
    monkeypatch.setenv("PYTHONPATH", root)
    (tmp_path / "large").mkdir()
    return tmp_path / "large"


def test_what_is_decoded_at_once_is_bounded(large):
    for n in range(6):
        (large / f"{n}.png").write_bytes(large_png(5000, 3000 + n))
    pixels = 16_000_000  # one at a time; six at once take 1,100 MB
    assert 15_000_000 * 4 < grown(large.parent, pixels) < pixels * WORKING_BYTES + KEPT


HUGE_WEBP = bytes.fromhex("524946461a000000574542505650384c0d0000002ffeff9a1a071011118888fe0700")
"""16,383 × 10,860 clear pixels."""


@pytest.mark.soak
@pytest.mark.skipif(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") < 8 << 30, reason="needs 8 GB of memory")
def test_the_stated_bound_holds_for_the_worst(large):
    for n in range(4):
        (large / f"{n}.webp").write_bytes(HUGE_WEBP)
        (large / f"{n}.png").write_bytes(large_png(13_340, 13_340 - n))
    assert 2 << 30 < grown(large.parent, MAX_PIXELS) < MAX_PIXELS * WORKING_BYTES + MAX_BYTES + KEPT
