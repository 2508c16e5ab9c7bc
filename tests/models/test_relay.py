"""A thread that works for an iterator: it is left when nobody wants more, and what goes wrong there is told here."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time

import pytest

from mmrag.errors import GenerationError
from mmrag.models.relay import relay, run_until_left

LATE = GenerationError("too late")


def relayed(work, seconds=30.0, cancel=None):
    return relay(work, seconds=seconds, late=LATE, cancel=cancel)


def working():
    return [one for one in threading.enumerate() if one.name == "mmrag-relay"]


def ended(seconds=2.0):
    """Whether no thread works any more, soon."""
    for one in working():
        one.join(seconds)
    return not working()


def count(listener):
    for number in range(10_000):
        listener.check()
        listener.give(number)
        time.sleep(0.001)


async def count_slowly(give):
    for number in range(1000):
        give(number)
        await asyncio.sleep(0.01)


def test_all_that_is_given_comes_in_order_and_then_what_went_wrong():
    def work(listener):
        for number in range(100):
            listener.give(number)
        raise KeyError("here")

    numbers, given = relayed(work), []
    with pytest.raises(KeyError, match="here"):
        given.extend(numbers)
    assert given == list(range(100))
    assert list(relayed(lambda listener: listener.give(None))) == [None]


def test_nothing_begins_before_somebody_listens():
    numbers = relayed(count)
    assert not working()
    assert next(numbers) == 0
    assert working()
    numbers.close()
    assert ended()


@pytest.mark.parametrize("work", [count, lambda listener: run_until_left(count_slowly(listener.give), listener)])
def test_leaving_stops_the_work(work):
    numbers = relayed(work)
    assert [next(numbers), next(numbers)] == [0, 1]
    numbers.close()
    assert ended()


@pytest.mark.parametrize("work", [count, lambda listener: run_until_left(count_slowly(listener.give), listener)])
def test_cancelling_ends_it(work):
    cancel = threading.Event()
    numbers = relayed(work, cancel=cancel)
    assert next(numbers) == 0
    cancel.set()
    assert len(list(numbers)) <= 1
    assert ended()


def test_one_that_listens_slowly_is_late_although_all_is_there():
    numbers = relayed(lambda listener: [listener.give(number) for number in range(9)], seconds=0.1)
    assert next(numbers) == 0
    time.sleep(0.15)
    with pytest.raises(GenerationError, match="too late"):
        next(numbers)


def test_what_a_coroutine_raises_is_told():
    async def fail(give):
        give(1)
        raise ValueError("there")

    with pytest.raises(ValueError, match="there"):
        list(relayed(lambda listener: run_until_left(fail(listener.give), listener)))


def test_a_coroutine_that_is_left_closes_what_it_has_opened():
    closed = threading.Event()

    async def keep(give):
        try:
            await count_slowly(give)
        finally:
            closed.set()

    numbers = relayed(lambda listener: run_until_left(keep(listener.give), listener))
    next(numbers)
    numbers.close()
    assert closed.wait(2)


SCRIPT = """
import time
from mmrag.models.relay import relay
def work(listener):
    while True:
        listener.check()
        listener.give(1)
        time.sleep(.01)
numbers = relay(work, seconds=60, late=Exception(), cancel=None)
print(next(numbers))
"""


@pytest.mark.parametrize("end", ["", "raise SystemExit(3)"])
def test_a_program_may_end_in_the_middle(end):
    done = subprocess.run([sys.executable, "-c", SCRIPT + end], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3 if end else 0, "1\n", "")
