"""Writing files so that a reader sees the old content or the new, never a half."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mmrag.errors import IndexFormatError, StoreError

_SUMMED_AT_ONCE = 1 << 24


def write_json(path: Path, data: Any) -> None:
    """Replace a JSON file in one step, durably."""
    aside = path.with_name(f"{path.name}.tmp")  # one writer at a time: it holds the lock
    with aside.open("w", encoding="utf-8") as file:
        json.dump(data, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
    sync_to_disk(path.parent)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    IndexFormatError
        If it is damaged. A missing file raises FileNotFoundError.
    StoreError
        If it may not be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise IndexFormatError(f"{path} is damaged: {error}") from error


def sync_to_disk(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def delete(path: Path) -> None:
    """Delete a file, or a folder with all that is in it; one that is gone is no error."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn the system's errors while writing an index into one clear line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(
            f"cannot write to {folder}: {reason}. What was committed before is kept and can be searched"
        ) from error


def checksum(path: Path) -> int:
    """Add up a file's content into 32 bits, CRC-32: what tells whether it is what was written."""
    total = 0
    with path.open("rb") as file:
        while block := file.read(_SUMMED_AT_ONCE):
            total = zlib.crc32(block, total)
    return total


def size_on_disk(folder: Path) -> int:
    """Add up the bytes of all files in a folder; those that go away meanwhile count nothing."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.lstat().st_size if path.is_file() else 0
    return total
