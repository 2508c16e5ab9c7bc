"""What a thread of its own makes, as an iterator: so that whoever waits for it can stop waiting at any time."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine, Generator
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from mmrag.errors import GenerationError

T = TypeVar("T")

_GLANCE = 0.05
"""Every how many seconds one looks whether the other still wants more."""

_FAREWELL = 2.0
"""How many seconds a coroutine that was cancelled has to close its connections before one goes on without it."""


class LeftError(Exception):
    """Nobody wants more: what works leaves by it, and is not asked why."""


class Listener(Generic[T]):
    """Who waits for what a thread makes, as the thread sees it."""

    def __init__(self) -> None:
        self._given: SimpleQueue[tuple[T] | BaseException | None] = SimpleQueue()
        self._left = threading.Event()

    @property
    def is_gone(self) -> bool:
        """Whether nobody wants more: it was left, or the program ends."""
        return self._left.is_set() or not threading.main_thread().is_alive()

    def check(self) -> None:
        """Leave, by a `LeftError`, if nobody wants more."""
        if self.is_gone:
            raise LeftError

    def give(self, one: T) -> None:
        """Give the next thing."""
        self._given.put((one,))

    def _run(self, work: Callable[[Listener[T]], None]) -> None:
        outcome: BaseException | None = None
        try:
            work(self)
        except LeftError:  # whoever is still there, is so because the program ends around it
            outcome = GenerationError("the program ends in the middle of what was written")
        except BaseException as error:  # whatever it is, it is for the one who waits
            outcome = error
        self._given.put(outcome)


def relay(
    work: Callable[[Listener[T]], None], *, seconds: float, late: Exception, cancel: threading.Event | None
) -> Generator[T]:
    """Let a thread of its own work, and iterate over what it gives.

    Parameters
    ----------
    work : callable
        Gives to the listener that it is called with, and looks often whether that is gone.
    seconds : float
        How long it may take in all.
    late : Exception
        Raised when it takes longer.
    cancel : Event or None
        Once set, the iterator ends soon.

    Raises
    ------
    Exception
        What `work` raises, behind all that it gave.
    """
    listener: Listener[T] = Listener()
    deadline = time.monotonic() + seconds
    # no daemon: native code that runs while the interpreter goes takes the process down
    threading.Thread(target=listener._run, args=(work,), name="mmrag-relay").start()
    try:
        while not (cancel and cancel.is_set()):
            if time.monotonic() >= deadline:
                raise late
            with contextlib.suppress(Empty):
                one = listener._given.get(timeout=_GLANCE)
                if one is None:
                    return
                if isinstance(one, BaseException):
                    raise one
                yield one[0]
    finally:
        listener._left.set()


def run_until_left(coroutine: Coroutine[Any, Any, None], listener: Listener[Any]) -> None:
    """Run a coroutine in a loop of its own, and cancel it when nobody wants more of what it gives."""
    asyncio.run(_until_left(coroutine, listener))


async def _until_left(coroutine: Coroutine[Any, Any, None], listener: Listener[Any]) -> None:
    task = asyncio.create_task(coroutine)
    while not task.done():
        await asyncio.wait([task], timeout=_GLANCE)
        if listener.is_gone and not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=_FAREWELL)
            raise LeftError
    task.result()
