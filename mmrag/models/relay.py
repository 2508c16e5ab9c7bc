"""What a coroutine gives, as an iterator: so that whoever waits for a network can stop waiting at any time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Generator
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any, TypeVar

T = TypeVar("T")

_GLANCE = 0.05
"""Every how many seconds one looks whether the caller wants no more."""

_FAREWELL = 2.0
"""How many seconds a coroutine that was cancelled has to close its connections before one goes on without it."""


def relay(receive: Callable[[Callable[[T], None]], Coroutine[Any, Any, None]], cancel: Event | None) -> Generator[T]:
    """Run a coroutine in a thread of its own, whatever loop the caller runs in, and iterate over what it gives.

    Parameters
    ----------
    receive : callable
        Takes what to call with each thing that it gives, and returns the coroutine.
    cancel : Event or None
        Once set, the iterator ends soon.

    Raises
    ------
    Exception
        What the coroutine raises, behind all that it gave. Leaving the iterator cancels it.
    """
    given: SimpleQueue[tuple[T] | Exception | None] = SimpleQueue()
    loop = asyncio.new_event_loop()
    task = loop.create_task(receive(lambda one: given.put((one,))))
    thread = Thread(target=_run, args=(loop, task, given), name="mmrag-relay", daemon=True)
    thread.start()
    try:
        while not (cancel and cancel.is_set()):
            try:
                one = given.get(timeout=_GLANCE)
            except Empty:
                continue
            if one is None:
                return
            if isinstance(one, Exception):
                raise one
            yield one[0]
    finally:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(task.cancel)
        thread.join(_FAREWELL)


def _run(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None], given: SimpleQueue[Any]) -> None:
    outcome = None
    try:
        loop.run_until_complete(task)
    except asyncio.CancelledError:
        pass
    except Exception as error:  # raised again in the caller's thread
        outcome = error
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        given.put(outcome)
