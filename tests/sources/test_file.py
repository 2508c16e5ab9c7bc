from __future__ import annotations

import os

import pytest

from mmrag.errors import ItemError, TooLargeError
from mmrag.sources import file as module
from mmrag.sources.file import Content, read_file


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"before")
    return path


def stat_of(path):
    about = path.stat()
    return about.st_size, about.st_mtime_ns


def test_the_content_comes_with_its_size_and_time(path):
    os.utime(path, ns=(5, 123_456_789))
    assert read_file(str(path)) == Content(b"before", 6, 123_456_789)


def test_a_file_that_changes_while_it_is_read_is_read_again(path):
    content = read_file(str(path), admit=lambda size: path.write_bytes(b"afterwards") and None)
    assert content == (b"afterwards", *stat_of(path))


def test_a_file_that_never_rests_is_refused(path, monkeypatch):
    real, times = os.fstat, iter(range(10))

    def grown(handle):
        with path.open("ab") as file:
            file.write(b"%d" % next(times))
        return real(handle)

    monkeypatch.setattr(module.os, "fstat", grown)
    with pytest.raises(ItemError, match=r"^changed while it was read$"):
        read_file(str(path))


def test_a_file_that_is_replaced_or_gone_is_what_it_was_when_opened(path):
    expected = Content(b"before", *stat_of(path))
    assert read_file(str(path), admit=lambda size: path.unlink()) == expected
    with pytest.raises(ItemError, match="cannot be read: No such file"):
        read_file(str(path))


def test_a_file_that_becomes_a_pipe_does_not_block(path, monkeypatch):
    real = os.stat

    def replaced(name):
        about = real(name)
        path.unlink()
        os.mkfifo(path)
        return about

    monkeypatch.setattr(module.os, "stat", replaced)
    with pytest.raises(ItemError, match="not a regular file"):
        read_file(str(path))


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/tty", "/"])
def test_devices_and_folders_are_not_opened(name):
    with pytest.raises(ItemError, match="not a regular file"):
        read_file(name)


def test_the_size_is_looked_at_before_reading(path):
    os.truncate(path, 5 << 30)
    with pytest.raises(TooLargeError, match="limit of 1,073,741,824 bytes"):
        read_file(str(path))


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="only Linux has files of size 0 with content")
def test_a_file_that_says_it_is_empty_is_read():
    assert read_file("/proc/self/status").data.startswith(b"Name:")


def test_names_that_cannot_be():
    for name in ("a\0b.jpg", "x" * 5000):
        with pytest.raises(ItemError, match="cannot be read"):
            read_file(name)
