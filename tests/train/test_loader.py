from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the train extra")

from mmrag.errors import InputError, ItemError
from mmrag.sources.pairs import Pair
from mmrag.train import loader as module
from mmrag.train.loader import Loader, picture_group

ROOT = Path(__file__).resolve().parents[2]


class Numbers:
    """What the loader asks of a task: a sample is a row's number and a draw; rows in `broken` cannot be read."""

    def __init__(self, broken=(), *, slow=False):
        self.broken, self.slow, self.begun = set(broken), slow, 0

    def prepare(self, pair, rng):
        self.begun += 1
        draw = rng.random()
        if self.slow:
            time.sleep(0.003 * (int(pair.id) % 3))
        if int(pair.id) in self.broken:
            raise ItemError("damaged" if int(pair.id) % 2 else "too large")
        return {"row": int(pair.id), "draw": draw, "again": rng.random()}

    def collate(self, samples):
        return {name: np.array([sample[name] for sample in samples]) for name in samples[0]}


def numbered(n):
    return [Pair(str(number), b"", ("x",)) for number in range(n)]


def load(n=23, task=None, *, epoch=1, start=0, batch_size=4, threads=1, seed=7, **where):
    loader = Loader(numbered(n), task or Numbers(), batch_size=batch_size, seed=seed, threads=threads, **where)
    return loader, list(loader.epoch(epoch, start))


def assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def rows(batches):
    return [int(row) for batch in batches for row in batch["row"]]


def test_an_epoch_visits_each_row_once_in_whole_batches():
    loader, batches = load()
    assert [len(batch["row"]) for batch in batches] == [4] * 5 == [4] * len(loader)
    assert len(set(rows(batches))) == 20
    assert rows(batches) != sorted(rows(batches))
    left_over = [set(range(23)) - set(rows(load(epoch=epoch)[1])) for epoch in range(12)]
    assert len(set.union(*left_over)) > 12  # another three in each epoch


def test_threads_change_nothing():
    _, one = load(60, Numbers({3, 8, 50}, slow=True), threads=1)
    loader, four = load(60, Numbers({3, 8, 50}, slow=True), threads=4)
    assert_same(one, four)
    assert loader.bad == {3: "damaged", 8: "too large", 50: "too large"}


def test_epochs_and_seeds_differ_in_order_and_in_chances():
    draws = {}
    for key in ((7, 1), (7, 2), (8, 1)):
        _, batches = load(seed=key[0], epoch=key[1])
        draws[key] = dict(zip(rows(batches), np.concatenate([batch["draw"] for batch in batches]), strict=True))
    first, *others = draws.values()
    for other in others:
        both = first.keys() & other.keys()
        assert list(first) != list(other)
        assert not any(first[row] == other[row] for row in both)


def test_a_resumption_goes_on_as_if_nothing_had_been():
    _, whole = load(40, Numbers({1, 2, 3}))
    task = Numbers({1, 2, 3})
    _, tail = load(40, task, start=6)
    assert_same(whole[6:], tail)
    assert task.begun <= 4 * 4 + 6  # what was done before is not read again


def test_processes_share_out_the_batch_of_one():
    _, whole = load(50, batch_size=8)
    parts = [load(50, batch_size=8, rank=rank, world=2)[1] for rank in range(2)]
    joined = [{name: np.concatenate([a[name], b[name]]) for name in a} for a, b in zip(*parts, strict=True)]
    assert_same(whole, joined)


def test_bad_rows_are_counted_and_replaced():
    broken = {0, 1, 2, 4}
    loader, batches = load(24, Numbers(broken))
    seen = Counter(rows(batches))
    assert not broken & seen.keys()
    assert sum(seen.values()) == 24
    assert set(range(24)) - broken == set(seen)  # every good one is there, some of them again
    assert loader.skipped == {"too large": 3, "damaged": 1}
    list(loader.epoch(2))
    assert loader.skipped == {"too large": 3, "damaged": 1}


def test_a_source_that_has_gone_is_an_error():
    with pytest.raises(InputError, match="32 pairs, one after the other, cannot be read; the last of them: "):
        load(task=Numbers(range(23)))


def test_what_else_goes_wrong_in_a_thread_is_raised():
    class Wrong(Numbers):
        def prepare(self, pair, rng):
            raise ZeroDivisionError(pair.id)

    before = threading.enumerate()
    with pytest.raises(ZeroDivisionError):
        load(task=Wrong(), threads=3)
    mine = [thread for thread in threading.enumerate() if thread not in before]
    assert not [thread for thread in mine if "mmrag-prepare" in thread.name and _lasts(thread)]


def _lasts(thread):
    thread.join(timeout=5)
    return thread.is_alive()


def test_no_more_than_a_few_batches_are_prepared_ahead():
    task = Numbers()
    loader = Loader(numbered(400), task, batch_size=4, seed=0, threads=2)
    batches = loader.epoch(1)
    next(batches)
    time.sleep(0.2)
    assert task.begun == 4 * (1 + module.BATCHES_AHEAD)
    batches.close()


def test_too_few_pairs_take_smaller_batches_and_too_few_are_an_error():
    _, batches = load(5, batch_size=64)
    assert [len(batch["row"]) for batch in batches] == [5]
    loader, _ = load(5, batch_size=64, world=2)
    assert loader.batch_size == 2
    with pytest.raises(InputError, match="at least two pairs for each process; there are 3 for 2"):
        load(3, world=2)
    with pytest.raises(InputError, match="not 5 pairs for 2 processes by 1 threads"):
        load(batch_size=5, world=2)


def test_groups_are_of_equal_pictures():
    a, b = picture_group(Pair("1", b"A", ("x",))), picture_group(Pair("2", b"B", ("x",)))
    assert a == picture_group(Pair("3", b"A", ("y",))) != b
    assert np.array([a, b], dtype=np.int64).min() >= 0


def test_ctrl_c_is_heard_while_samples_are_prepared():
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import time\nfrom tests.train.test_loader import Loader, Numbers, numbered\n"
        "class Slow(Numbers):\n"
        "    def prepare(self, pair, rng):\n"
        "        time.sleep(0.5)\n"
        "        return super().prepare(pair, rng)\n"
        "loader = Loader(numbered(4000), Slow(), batch_size=1000, seed=0, threads=2)\n"
        "print('ready', flush=True)\n"
        "try:\n"
        "    list(loader.epoch(1))\n"
        "except KeyboardInterrupt:\n"
        "    print('heard', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.7)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    assert (out, process.returncode) == ("heard\n", 0)
