"""One writer at a time. The system releases the lock when its process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmrag.errors import IndexLockedError
from mmrag.stores.files import disk_errors


@contextmanager
def write_lock(folder: Path) -> Iterator[None]:
    """Hold the index in `folder` for writing.

    Raises
    ------
    IndexLockedError
        If another process holds it, with that process's number and machine.
    """
    path = folder / "lock"
    with disk_errors(folder):
        handle = path.open("a+", encoding="utf-8")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            handle.seek(0)
            holder = handle.read().strip() or "another process"
            raise IndexLockedError(
                f"{holder} is writing to {folder}; wait until it has finished, or stop it"
            ) from error
        handle.truncate(0)
        handle.write(f"process {os.getpid()} on {socket.gethostname()}")
        handle.flush()
        yield
        handle.truncate(0)
