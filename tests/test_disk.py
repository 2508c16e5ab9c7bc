"""A disk that is full and a folder that may not be written: one clear line, and the last good state stays."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from contextlib import contextmanager

import pytest

import mmrag
from mmrag.errors import StoreError
from tests.fresh import assert_like_new
from tests.ingest.test_killed import picture
from tests.test_company import MAIN

MEGABYTE = 1 << 20


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid():
        pytest.skip("needs root, to mount a file system")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def files_at_most(size):
    """Let this process write no file beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def disk_with(folder, free):
    """Leave `free` bytes on a disk."""
    filler = folder / "filler"
    with open(filler, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize - free)
    try:
        yield
    finally:
        filler.unlink()


def command(*arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *arguments], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert "Traceback" not in done.stderr
    return done


def many_pictures(folder, first=0, end=300):
    for n in range(first, end):
        picture(folder / f"{n}.png", n)


def items(home):
    index = mmrag.open(home)
    found = sum(1 + len(hit.duplicates) for hit in index.search("red", k=1000))
    assert found == len(index)
    return found


def add_at_every_size(home, images, room, sizes):
    """Add with ever more room until it works; give what was told before."""
    told = []
    before = items(home)
    for size in sizes:
        try:
            with room(size):
                mmrag.open(home).add(images)
        except StoreError as error:
            told.append(str(error))
            assert before <= items(home)
            before = items(home)
        else:
            assert told
            return told
    raise AssertionError(f"it never worked: {told}")


def assert_clear(told):
    for line in told:
        assert "\n" not in line
        assert ".rs" not in line
        assert "committed" in line  # and what becomes of it
        assert line.startswith(("cannot write to", "the table in", "what was written last"))


def test_files_that_may_not_grow(colours):
    many_pictures(colours)
    mmrag.create(".", model="toy:1").add("images")
    many_pictures(colours, 300, 460)  # the view's segment takes in the older one: it is larger than the table's part
    sizes = (0, 10, 300, 1000, 3000, *range(5000, 150_000, 2500))
    told = add_at_every_size(colours.parent, "images", files_at_most, sizes)
    assert_clear(told)
    assert all("File too large" in line or "taken back" in line for line in told)
    assert {"cannot", "the", "what"} == {line.split()[0] for line in told}  # the view, the table, half a file of it
    assert_like_new(colours.parent, "images")


def test_a_full_disk(disk, colours):
    mmrag.create(disk, model="toy:1").add(colours)
    many_pictures(colours)
    sizes = range(0, MEGABYTE, 12 << 10)
    told = add_at_every_size(disk, colours, lambda free: disk_with(disk, free), sizes)
    assert_clear(told)
    assert all("No space left on device" in line or "taken back" in line for line in told)
    assert_like_new(disk, colours)


def test_a_full_disk_by_the_command(disk, colours):
    command("index", str(colours), "--index", str(disk), "--model", "toy:1")
    many_pictures(colours)
    with disk_with(disk, 0):
        done = command("index", "--index", str(disk))
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert "No space left on device" in done.stderr
        assert command("search", "red", "-k", "1", "--index", str(disk)).stdout.endswith("red.png\n")
        new = command("index", str(colours), "--index", str(disk / "new"), "--model", "toy:1")
        assert (new.returncode, new.stdout, new.stderr.count("\n")) == (1, "", 1)
    done = command("index", "--index", str(disk))
    assert (done.returncode, done.stdout.split()[0]) == (0, "300")


def test_a_read_only_disk(disk, colours):
    command("index", str(colours), "--index", str(disk), "--model", "toy:1")
    (disk / "cache").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    cache = str(disk / "cache")
    done = command("search", "red", "-k", "1", "--index", str(disk), XDG_CACHE_HOME=cache)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("red.png\n")
    assert command("info", "--index", str(disk), XDG_CACHE_HOME=cache).returncode == 0
    picture(colours / "new.png", 7)
    for arguments in (["index"], ["remove", str(colours / "red.png")], ["check"]):
        done = command(*arguments, "--index", str(disk), XDG_CACHE_HOME=cache)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert "Read-only file system" in done.stderr
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    assert command("index", "--index", str(disk)).stdout.startswith("1 added")


def test_the_built_in_model_searches_where_nothing_may_be_written(disk, colours):
    command("index", str(colours), "--index", str(disk))
    (disk / "cache").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    done = command("search", "something red", "--all", "--index", str(disk), XDG_CACHE_HOME=str(disk / "cache"))
    assert (done.returncode, done.stdout.count("\n")) == (0, 6), done.stderr


def test_a_read_only_view_that_is_behind_serves(disk, colours):
    index = mmrag.create(disk, model="toy:1")
    index.add(colours)
    view = (index.folder / "views" / "exact" / "view.json").read_text()
    before = {path.name for path in (index.folder / "views" / "exact").iterdir()}
    picture(colours / "new.png", 7)
    kept = {name: (index.folder / "views" / "exact" / name).read_bytes() for name in before}
    index.add(colours)
    for name, data in kept.items():  # as if the writer had died between the table and the view
        (index.folder / "views" / "exact" / name).write_bytes(data)
    (index.folder / "views" / "exact" / "view.json").write_text(view)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert items(disk) == 6


def test_half_a_file_of_a_writer_that_died_is_taken_back(colours):
    index = mmrag.create(".", model="toy:1")
    index.add("images")
    table = index.folder / "table" / "items.lance"
    before = set((table / "data").iterdir())
    picture(colours / "new.png", 7)
    view = index.folder / "views" / "exact"
    kept = {path: path.read_bytes() for path in view.iterdir()}
    index.add("images")
    for path, data in kept.items():  # it died before the view was published
        path.write_bytes(data)
    (half,) = set((table / "data").iterdir()) - before
    os.truncate(half, half.stat().st_size // 2)
    assert items(".") == 6
    assert mmrag.open(".").add("images").added == 1
    assert_like_new(colours.parent, "images")
