"""One writer at a time. The system releases the lock when its process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
        handle = path.open("ab+", buffering=0)
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            handle.seek(0)
            holder = handle.read().decode(errors="replace").strip() or "another process"
            raise IndexLockedError(
                f"{holder} is writing to {folder}; wait until it has finished, or stop it"
            ) from error
        with suppress(OSError):  # on a full disk the lock holds, too
            handle.truncate(0)
            handle.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
        with suppress(OSError):
            handle.truncate(0)
