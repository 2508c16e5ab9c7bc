from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from mmrag.ingest import ahead as module
from mmrag.ingest.ahead import ahead
from mmrag.sources.room import Room, start_watch


def run(function, arguments, *, threads=2, depth=4, seconds=30.0):
    return ahead(
        function, arguments, threads=threads, depth=depth, seconds=seconds, instead=lambda a, why: f"{a} {why}"
    )


@pytest.fixture
def stuck():
    """A call that ends with the test."""
    release = threading.Event()
    yield release.wait
    release.set()


def test_results_come_in_order_whoever_is_first():
    def work(n):
        time.sleep(0.002 * (n % 5))
        return n * n

    assert list(run(work, range(60), threads=4)) == [n * n for n in range(60)]


def test_at_most_depth_results_are_ahead():
    begun = []
    results = run(begun.append, range(100), depth=5)
    for taken in range(1, 4):
        next(results)
        time.sleep(0.05)
        assert max(begun) < taken + 5
    results.close()


def test_several_run_at_once():
    meeting = threading.Barrier(3, timeout=10)
    assert len(list(run(lambda n: meeting.wait(), range(3), threads=3))) == 3


def test_nothing_to_do():
    assert list(run(str, [])) == []


def test_what_is_raised_comes_in_its_place():
    def work(n):
        if n == 3:
            raise LookupError("three")
        return n

    results = run(work, range(9))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(LookupError, match="three"):
        next(results)


def test_one_that_is_stuck_does_not_stop_the_others(stuck):
    start = time.monotonic()
    found = list(run(lambda n: stuck() if n in (1, 2) else n, range(6), seconds=0.3))
    assert found == [0, "1 took longer than 0.3 seconds", "2 took longer than 0.3 seconds", 3, 4, 5]
    assert time.monotonic() - start < 5


def test_one_that_was_too_slow_is_late_although_nobody_waited():
    results = run(lambda n: time.sleep(0.2 * n), [0, 1, 0], seconds=0.05)
    next(results)
    time.sleep(0.4)
    assert list(results) == ["1 took longer than 0.05 seconds", None]


def test_stuck_threads_are_bounded_and_the_rest_is_not_tried(stuck):
    before = threading.active_count()
    found = list(run(lambda n: stuck(), range(40), threads=2, depth=40, seconds=0.2))
    tried = [one for one in found if one.endswith("0.2 seconds") and "not tried" not in one]
    assert len(tried) == module.MOST_STUCK + 2
    assert found[-1] == "39 was not tried: too many files before it took longer than 0.2 seconds"
    assert threading.active_count() - before <= module.MOST_STUCK + 2


def test_a_thread_that_comes_back_goes_on():
    release = threading.Event()

    def work(n):
        if n < 20:
            release.wait()
        return n

    results = run(work, range(100), threads=1, depth=1, seconds=0.1)
    found = [next(results) for _ in range(15)]
    assert "not tried" in found[-1]
    release.set()
    time.sleep(0.2)
    assert list(results)[-50:] == list(range(50, 100))


def test_waiting_for_room_does_not_count():
    room = Room(10)

    def work(n):
        with room.take(8):
            time.sleep(0.2)
        return n

    assert list(run(work, range(5), threads=5, seconds=0.6)) == [0, 1, 2, 3, 4]


def test_one_that_is_stuck_gives_its_room_back(stuck):
    room = Room(10)

    def work(n):
        with room.take(8):
            return stuck() if n == 0 else n

    assert list(run(work, range(4), seconds=0.3)) == ["0 took longer than 0.3 seconds", 1, 2, 3]


def test_room_is_never_overfull_and_the_largest_go_alone():
    room, lock, held, most = Room(10), threading.Lock(), [], []

    def work(amount):
        with room.take(amount):
            with lock:
                held.append(amount)
                most.append(list(held))
            time.sleep(0.002)
            with lock:
                held.remove(amount)

    list(run(work, [3, 4, 25, 1, 9, 2, 7, 25, 10, 5] * 4, threads=6))
    assert all(sum(together) <= 10 or len(together) == 1 for together in most)
    assert max(map(len, most)) > 1


def test_a_watch_counts_what_is_worked():
    watch = start_watch()
    with watch.stopped():
        time.sleep(0.2)
    assert watch.seconds() < 0.1
    time.sleep(0.1)
    assert 0.1 <= watch.seconds() < 0.2


def test_closing_cancels_what_waits():
    begun = []

    def work(n):
        begun.append(n)
        time.sleep(0.05)

    results = run(work, range(100), threads=1, depth=50)
    next(results)
    results.close()
    time.sleep(0.3)
    assert len(begun) <= 3
    assert not [thread for thread in threading.enumerate() if thread.name == "mmrag-load"]


SCRIPT = """
import os, signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have left it ignored
from mmrag.ingest.ahead import ahead
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start() if {interrupt} else None
try:
    print(list(ahead(lambda n: time.sleep(1000), range(3), threads=2, depth=3, seconds={seconds},
                     instead=lambda n, why: n)))
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize(("interrupt", "seconds", "printed"), [(True, 1000, "interrupted"), (False, 0.2, "[0, 1, 2]")])
def test_ctrl_c_is_heard_and_the_process_ends_with_stuck_threads(interrupt, seconds, printed):
    script = SCRIPT.format(interrupt=interrupt, seconds=seconds)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=True)
    assert (done.stdout.strip(), done.stderr) == (printed, "")
