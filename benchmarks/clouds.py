"""Clouds of vectors like those of pictures and of queries, for benchmarks and tests that have no million pictures.

Pictures lie in clusters of a space of few dimensions, with noise in all of them. Text queries lie near some picture's
cluster too, but apart from all pictures: their whole cloud is shifted, as encoders that are trained by contrast leave
it (the modality gap: Liang et al. 2022, "Mind the Gap").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]

_ROWS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Clouds:
    """Two clouds of unit vectors.

    Attributes
    ----------
    dimension, rank : int
        Of the vectors, and of the space that they nearly lie in.
    clusters : int
        Their number; few hold many pictures and many hold few.
    spread, noise : float
        Lengths of what sets pictures apart within a cluster, inside the space and outside of it; that of a cluster's
        centre is 1.
    gap : float
        Length of the shift between pictures and queries.
    seed : int
        Of everything.
    """

    dimension: int = 512
    rank: int = 64
    clusters: int = 1000
    spread: float = 0.7
    noise: float = 0.3
    gap: float = 0.8
    seed: int = 0

    def images(self, rows: int) -> Iterator[Vectors]:
        """Make the first `rows` pictures' vectors, in blocks ``(at most 65,536, dimension)``."""
        for block, start in enumerate(range(0, rows, _ROWS_AT_ONCE)):
            random = np.random.default_rng((self.seed, 1, block))
            vectors = self._scattered(random, _ROWS_AT_ONCE) - self._shift / 2
            yield _unit(vectors[: rows - start])

    def queries(self, count: int) -> Vectors:
        """Make queries' vectors, float32 ``(count, dimension)``."""
        return _unit(self._scattered(np.random.default_rng((self.seed, 2)), count) + self._shift / 2)

    @property
    def _shift(self) -> Vectors:
        return self.gap * _unit(np.random.default_rng((self.seed, 3)).standard_normal((1, self.dimension), np.float32))

    def _scattered(self, random: np.random.Generator, count: int) -> Vectors:
        fixed = np.random.default_rng((self.seed, 4))
        axes = np.linalg.qr(fixed.standard_normal((self.dimension, self.rank)))[0].T.astype(np.float32)
        centres = _unit(fixed.standard_normal((self.clusters, self.rank), np.float32))
        sizes = 1 / np.arange(1, self.clusters + 1) ** 0.5
        chosen = random.choice(self.clusters, count, p=sizes / sizes.sum())
        inside = centres[chosen] + self._normal(random, count, self.rank, self.spread)  # (count, rank)
        return inside @ axes + self._normal(random, count, self.dimension, self.noise)

    @staticmethod
    def _normal(random: np.random.Generator, count: int, size: int, length: float) -> Vectors:
        """Draw vectors of about this length."""
        return random.standard_normal((count, size), np.float32) * np.float32(length / np.sqrt(size))


def _unit(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)
