"""Pairs → batches: an order and chances that depend on nothing but the seed, prepared a little ahead."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from mmrag.errors import InputError, ItemError
from mmrag.sources.pairs import Pair
from mmrag.train.task import Batch, Task

BATCHES_AHEAD = 2
"""So many are prepared, at most, beside the one that was taken."""

MOST_REPLACED = 32
"""After so many pairs in a row that cannot be read, the fault is no longer with a pair."""

Sample = Mapping[str, Any]


def picture_group(pair: Pair) -> int:
    """Give a picture's number, 63 bits of its content: equal pictures must not be taken for each other's negatives."""
    return int.from_bytes(hashlib.blake2b(pair.image, digest_size=8).digest(), "big") >> 1


class Loader:
    """Batches of pairs, epoch after epoch.

    The order of an epoch, and the chances of every sample, follow from the seed, the epoch and the row: they are the
    same whatever the number of threads, and after a resumption. An epoch has whole batches only; who is left over
    differs from one epoch to the next.

    Parameters
    ----------
    pairs : sequence of Pair
        Read in threads, in any order; `ItemError` is how one says that it cannot be read.
    task : Task
        Prepares samples, in threads, and collates them, a batch at a time, in a thread too.
    batch_size : int
        Pairs in a batch, over all processes together; fewer where there are fewer pairs.
    seed : int
        Decides everything that is random.
    threads : int
        How many prepare samples.
    rank, world : int
        Which process of how many this is. Each takes its own part of every batch: one behind the other, the parts are
        the batch that a single process would have.

    Attributes
    ----------
    batch_size : int
        Pairs in a batch of this process.
    bad : dict of int to str
        Rows that could not be read, and were replaced by others, with the reason.

    Raises
    ------
    InputError
        If there are fewer than two pairs for each process, or a batch cannot be shared out evenly.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        task: Task,
        *,
        batch_size: int,
        seed: int,
        threads: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch_size < 2 or batch_size % world or threads < 1:
            raise InputError(
                f"a batch has at least 2 pairs, the same number for each process, and at least 1 thread prepares them; "
                f"not {batch_size} pairs for {world} processes by {threads} threads"
            )
        if len(pairs) < 2 * world:
            raise InputError(f"training needs at least two pairs for each process; there are {len(pairs)} for {world}")
        self.batch_size = min(batch_size, len(pairs)) // world
        self.bad: dict[int, str] = {}
        self._pairs, self._task = pairs, task
        self._seed, self._threads = seed, threads
        self._rank, self._world = rank, world

    def __len__(self) -> int:
        """How many batches an epoch has."""
        return len(self._pairs) // (self.batch_size * self._world)

    @property
    def skipped(self) -> Counter[str]:
        """How many rows could not be read, by reason."""
        return Counter(self.bad.values())

    def rows(self, number: int) -> npt.NDArray[np.int64]:
        """Give the rows of this process in an epoch, int64 ``(batches, batch_size)``."""
        order = np.random.default_rng((self._seed, number)).permutation(len(self._pairs))
        whole = order[: len(self) * self._world * self.batch_size].reshape(len(self), self._world, self.batch_size)
        return whole[:, self._rank]

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from `start` on; those before it are not read.

        Raises
        ------
        InputError
            If `MOST_REPLACED` pairs in a row cannot be read.
        """
        preparing = ThreadPoolExecutor(self._threads, thread_name_prefix="mmrag-prepare")
        collating = ThreadPoolExecutor(1, thread_name_prefix="mmrag-collate")
        ahead: deque[Future[Batch]] = deque()
        try:
            for rows in self.rows(number)[start:]:
                samples = [preparing.submit(self._sample, number, int(row)) for row in rows]
                ahead.append(collating.submit(self._collate, samples))
                if len(ahead) > BATCHES_AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:  # also at Ctrl-C, and when the caller has had enough
            preparing.shutdown(wait=False, cancel_futures=True)
            collating.shutdown(wait=False, cancel_futures=True)

    def _collate(self, samples: Sequence[Future[Sample]]) -> Batch:
        return self._task.collate([sample.result() for sample in samples])

    def _sample(self, number: int, row: int) -> Sample:
        """Prepare a row, or in its place the first that can be read of those that its own chances name."""
        rng = np.random.default_rng((self._seed, number, row))
        for _ in range(MOST_REPLACED):
            try:
                return self._task.prepare(self._pairs[row], rng)
            except ItemError as error:
                self.bad[row] = reason = str(error)
                row = int(rng.integers(len(self._pairs)))
        raise InputError(f"{MOST_REPLACED} pairs, one after the other, cannot be read; the last of them: {reason}")
