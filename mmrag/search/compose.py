"""Several things that are looked for, and some that are not wanted → one query vector.

Weighted arithmetic of unit vectors. A picture's cosines with pictures lie higher and further apart than those of words:
in a plain sum it would drown them. So each term is divided by its spread, the standard deviation of its cosines over
the corpus, which ranks as a sum of standard scores would. `benchmarks/composing.py` measures it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mmrag.errors import QueryError
from mmrag.roles import Vectors
from mmrag.similarity import cosines

if TYPE_CHECKING:
    from mmrag.stores.view import View

Part = tuple[float, Vectors]
"""A weight, and what a term was embedded into: ``(dimension,)``, or ``(vectors, dimension)``."""
Spread = Callable[[Vectors], float]

EXCLUSION = 0.4
"""How much what is not wanted counts, beside 1 for all that is looked for; chosen by `benchmarks/composing.py`."""

_SAMPLE = 1024
_LEAST_SPREAD = 0.01
_NOTHING = 1e-3


def compose(wanted: Sequence[Part], unwanted: Sequence[Part], *, spread: Spread) -> Vectors:
    """Make one query vector.

    Parameters
    ----------
    wanted : sequence of (float, float32 ``(dimension,)`` or ``(vectors, dimension)``)
        Weights above 0, which only count beside each other, and unit vectors; at least one. One vector among several of
        a picture moves each of those.
    unwanted : the same, or empty
        Put together as `wanted` is, and subtracted `EXCLUSION` times the largest of their weights.
    spread : callable
        The standard deviation, over the corpus, of the cosines with what has such vectors.

    Returns
    -------
    float32 ``(dimension,)`` or ``(vectors, dimension)``
        Of unit length. Of one term alone it is its own, whatever its weight.

    Raises
    ------
    QueryError
        If nothing is left: what is looked for is what is not wanted.

    Examples
    --------
    >>> x, y = np.eye(2, dtype=np.float32)
    >>> compose([(1.0, x), (1.0, y)], [], spread=lambda vectors: 1.0).round(2)
    array([0.71, 0.71], dtype=float32)
    """
    looked_for = _sum(wanted, spread)
    if not unwanted:
        return looked_for
    strength = EXCLUSION * max(weight for weight, _ in unwanted)
    excluded = _sum(unwanted, spread)
    return _unit(looked_for / spread(looked_for) - strength * excluded / spread(excluded), 1 / spread(looked_for))


def corpus_spread(view: View) -> Spread:
    """Give the standard deviation of cosines over a sample of a view, pictures and texts each around their own mean."""
    vectors, texts = _sample(view)

    def spread(query_vectors: Vectors) -> float:
        if len(vectors) < 2:
            return 1.0
        scores = cosines(query_vectors[None], vectors, texts=texts)[0]
        for one in (texts, ~texts):
            scores[one] -= scores[one].mean() if one.any() else 0.0
        return max(_LEAST_SPREAD, float(scores.std()))

    return spread


def _sample(view: View) -> tuple[Vectors, npt.NDArray[np.bool_]]:
    """Take vectors at even steps through all segments, with which of them are texts'."""
    step = max(1, len(view) // _SAMPLE)
    rows = [np.flatnonzero(one.alive[: len(one.vectors)])[::step] for one in view.segments]
    chosen = list(zip(view.segments, rows, strict=True))
    vectors = [np.empty((0, *view.shape), np.float32), *(one.vectors[some] for one, some in chosen)]
    texts = [np.empty(0, bool), *(one.texts[some] for one, some in chosen)]
    return np.concatenate(vectors), np.concatenate(texts)


def _sum(parts: Sequence[Part], spread: Spread) -> Vectors:
    if len(parts) == 1:
        return parts[0][1]
    scaled = [(weight / spread(vectors), vectors) for weight, vectors in parts]
    several = max(vectors.ndim for _, vectors in scaled)
    total = np.zeros(next(vectors for _, vectors in scaled if vectors.ndim == several).shape)
    for factor, vectors in scaled:
        total += factor * vectors
    return _unit(total, max(factor for factor, _ in scaled))


def _unit(vectors: npt.NDArray[np.floating], scale: float) -> Vectors:
    """Scale to unit length what is a sum of vectors about as long as `scale`."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if (lengths < _NOTHING * scale).any():
        raise QueryError(
            "nothing is left of the query: what it looks for and what it does not want are the same; "
            "leave one of them out"
        )
    return np.asarray(vectors / lengths, dtype=np.float32)
