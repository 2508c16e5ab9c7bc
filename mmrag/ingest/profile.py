"""Where the time of a run goes."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

STAGES = ("walk", "read", "decode", "preprocess", "encode", "write")


@dataclass(frozen=True)
class StageTime:
    """What a stage took.

    Attributes
    ----------
    stage : str
        One of `STAGES`: list the files and compare them with the index; read and hash; decode; resize and
        normalise; run the model; commit and publish.
    items : int
        How many files or rows went through it.
    seconds : float
        Summed over threads, so that stages that ran side by side may exceed the time of the run.
    """

    stage: str
    items: int
    seconds: float

    @property
    def rate(self) -> float:
        """Items per second of one thread."""
        return self.items / self.seconds if self.seconds else 0.0


class Profile:
    """Adds up times of stages; threads may add at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._items: dict[str, int] = defaultdict(int)
        self._seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str, items: int = 1) -> Iterator[None]:
        """Count what is done inside to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, items, time.perf_counter() - start)

    def add(self, name: str, items: int, seconds: float) -> None:
        """Count items and seconds to a stage."""
        with self._lock:
            self._items[name] += items
            self._seconds[name] += seconds

    def times(self) -> list[StageTime]:
        """Sum up, in the order of the stages; those that never ran are left out."""
        return [StageTime(one, self._items[one], self._seconds[one]) for one in STAGES if one in self._seconds]
