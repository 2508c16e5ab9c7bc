"""A function over arguments in threads that may be left behind: a few results ahead, in order, each in time."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from queue import SimpleQueue
from typing import Generic, TypeVar

from mmrag.sources.room import Stopwatch, start_watch

A = TypeVar("A")
R = TypeVar("R")

MOST_STUCK = 8
"""So many threads that do not end are replaced by others; each costs what it holds in memory."""

_LOOK_SECONDS = 0.1


def ahead(
    function: Callable[[A], R],
    arguments: Iterable[A],
    *,
    threads: int,
    depth: int,
    seconds: float,
    instead: Callable[[A, str], R],
) -> Generator[R]:
    """Map in threads, at most `depth` results ahead of what was taken, in order.

    A thread that is stuck in a call cannot be ended. It is left behind and another takes its place;
    once `MOST_STUCK` are stuck, those that remain go on alone. When none remains, and none comes back
    for `seconds`, calls are not tried until one does. The process ends without waiting for any of them.

    Parameters
    ----------
    function : callable
        What it raises is raised in place of its result, and ends the iteration.
    threads : int
        How many calls run at once.
    depth : int
        How many results may wait.
    seconds : float
        How long one call may work, from when it begins. Waiting for a `Room` does not count.
    instead : callable
        Gives the result for an argument whose call was too slow or was not tried, and is told why.
    """
    crew = _Crew(function, threads)
    waiting: deque[_Call[A, R]] = deque()
    try:
        for argument in arguments:
            waiting.append(crew.submit(argument))
            if len(waiting) >= depth:
                yield _outcome(crew, waiting.popleft(), seconds, instead)
        while waiting:
            yield _outcome(crew, waiting.popleft(), seconds, instead)
    finally:
        for call in waiting:
            call.cancelled = True
        crew.dismiss()


class _Call(Generic[A, R]):
    def __init__(self, argument: A) -> None:
        self.argument = argument
        self.result: R
        self.error: BaseException | None = None
        self.seconds = 0.0
        self.watch: Stopwatch | None = None  # as soon as it runs
        self.ended = threading.Event()
        self.cancelled = False


class _Crew(Generic[A, R]):
    """Threads that take calls from a queue. `size` of them are fit to work, unless too many are stuck."""

    def __init__(self, function: Callable[[A], R], size: int) -> None:
        self._function = function
        self._calls: SimpleQueue[_Call[A, R] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._size = size
        self._stuck = 0
        self._fit = 0
        self._unfit_since = 0.0
        for _ in range(size):
            self._hire()

    def submit(self, argument: A) -> _Call[A, R]:
        call: _Call[A, R] = _Call(argument)
        self._calls.put(call)
        return call

    def dismiss(self) -> None:
        self._calls.put(None)

    def give_up(self, call: _Call[A, R]) -> None:
        with self._lock:
            if call.watch is None or call.ended.is_set():
                return
            call.watch.given_up = True
            self._fit -= 1
            self._stuck += 1
            if self._stuck <= MOST_STUCK:
                self._hire()
            self._unfit_since = time.monotonic()

    def is_lost(self, seconds: float) -> bool:
        """Tell whether every thread has been stuck for some seconds."""
        return not self._fit and time.monotonic() - self._unfit_since > seconds

    def _hire(self) -> None:
        self._fit += 1
        threading.Thread(target=self._work, name="mmrag-load", daemon=True).start()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            if call.cancelled:
                continue
            call.watch = start_watch()
            try:
                call.result = self._function(call.argument)
            except BaseException as error:
                call.error = error
            call.seconds = call.watch.seconds()
            if not self._end(call):
                return
        self._calls.put(None)  # for the next thread

    def _end(self, call: _Call[A, R]) -> bool:
        """Tell whether the thread is still needed."""
        with self._lock:
            call.ended.set()
            if call.watch is None or not call.watch.given_up:
                return True
            self._stuck -= 1
            if self._fit >= self._size:
                return False
            self._fit += 1
            return True


def _outcome(crew: _Crew[A, R], call: _Call[A, R], seconds: float, instead: Callable[[A, str], R]) -> R:
    late = f"took longer than {seconds:g} seconds"
    while not call.ended.is_set():
        if call.watch is not None and call.watch.seconds() > seconds:
            crew.give_up(call)
            return instead(call.argument, late)
        if call.watch is None and crew.is_lost(seconds):
            call.cancelled = True
            return instead(call.argument, f"was not tried: too many files before it {late}")
        call.ended.wait(_LOOK_SECONDS)  # in short steps, so that Ctrl-C is heard everywhere
    if call.error is not None:
        raise call.error
    return instead(call.argument, late) if call.seconds > seconds else call.result
