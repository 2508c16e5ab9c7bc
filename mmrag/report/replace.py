"""Writing what somebody asked for into a file of theirs: whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from mmrag.errors import InputError, Interrupted


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """Give a text file that takes the place of `path` in one step, when the block ends.

    If the block raises, what was there stays; but what an `Interrupted` run has written takes its place. What is
    no regular file, such as a pipe, ``/dev/stdout`` or a link, is written as it is, at once.

    Raises
    ------
    InputError
        At the beginning if it cannot be written there, or when the disk is full.
    """
    direct = os.path.lexists(path) and (path.is_symlink() or not path.is_file())
    aside = path if direct else path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if path.is_dir():
            raise IsADirectoryError("it is a folder; name a file in it")
        with aside.open("w", encoding="utf-8", newline="") as file:
            try:
                yield file
            except Interrupted:
                file.close()
                _put(aside, path)
                raise
        _put(aside, path)
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
    finally:
        if not direct:
            with suppress(OSError):
                aside.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Tell what is wrong with a place before there is work to be lost.

    Raises
    ------
    InputError
        If it is a folder, or in a folder that is not there.
    """
    if path.is_dir():
        raise InputError(f"cannot write {str(path)!r}: it is a folder; name a file in it")
    if not path.absolute().parent.is_dir():
        raise InputError(f"cannot write {str(path)!r}: there is no folder {str(path.parent)!r}")


def _put(aside: Path, path: Path) -> None:
    if aside != path:
        os.replace(aside, path)
