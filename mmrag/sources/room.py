"""Room in memory for what is read and decoded at once, and the watch that stops while a thread waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_LOOK_SECONDS = 0.5

_thread = threading.local()


class Stopwatch:
    """Counts the seconds in which a thread works, without those in which it waits for room.

    Attributes
    ----------
    given_up : bool
        Nobody waits for this thread any more; what it holds counts no more.
    """

    def __init__(self) -> None:
        self.given_up = False
        self._state: tuple[float, float | None] = (0.0, time.monotonic())  # seconds before, running since

    def seconds(self) -> float:
        """Tell how long the thread has worked; any thread may ask."""
        before, since = self._state
        return before if since is None else before + time.monotonic() - since

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop while the block runs."""
        self._state = (self.seconds(), None)
        try:
            yield
        finally:
            self._state = (self.seconds(), time.monotonic())


def start_watch() -> Stopwatch:
    """Start a watch for the current thread; `Room.take` stops it while the thread waits."""
    _thread.watch = watch = Stopwatch()
    return watch


class Room:
    """Lets threads go on only as far as what they hold together stays within a size.

    Whoever asks for more than all of it goes alone. Threads that were given up count no more, so that
    one that never ends does not keep the others waiting.

    Parameters
    ----------
    size : int
        In any unit: bytes, pixels.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._shares: list[tuple[Stopwatch, int]] = []
        self._changed = threading.Condition()

    @contextmanager
    def take(self, amount: int) -> Iterator[None]:
        """Hold `amount` while the block runs; waits until there is room for it.

        A thread that holds a share must not ask for another of the same room.
        """
        watch: Stopwatch = getattr(_thread, "watch", None) or Stopwatch()
        share = (watch, amount)
        with watch.stopped(), self._changed:
            while not self._has(amount):
                self._changed.wait(_LOOK_SECONDS)
            self._shares.append(share)
        try:
            yield
        finally:
            with self._changed:
                self._shares.remove(share)
                self._changed.notify_all()

    def _has(self, amount: int) -> bool:
        taken = sum(share for watch, share in self._shares if not watch.given_up)
        return not taken or taken + amount <= self._size
