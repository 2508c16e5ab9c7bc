"""How similar vectors are: the one place that says what several vectors of a thing mean."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmrag.roles import Scores, Vectors


def vector_shape(dimension: int, vectors: int) -> tuple[int, ...]:
    """Shape of what an item is embedded into: ``(dimension,)``, or ``(vectors, dimension)`` if it has several."""
    return (dimension,) if vectors == 1 else (vectors, dimension)


def cosines(query_vectors: Vectors, item_vectors: Vectors, *, texts: npt.NDArray[np.bool_] | None = None) -> Scores:
    """Compare every query with every item.

    One query vector and an item's several score the highest of their cosines, as BLIP-2's image–text
    contrast does (Li et al. 2023, section 3.1). It is the same between a query that has several, a picture, and a
    text. A picture scores with a picture the mean of what each of its vectors scores: every part of the query looks
    for its own best part of the item. That stays between -1 and 1, but it is not symmetric.

    Parameters
    ----------
    query_vectors : float32 ``(queries, dimension)`` or ``(queries, p, dimension)``
        Of unit length.
    item_vectors : float32 ``(items, dimension)`` or ``(items, m, dimension)``
        Of unit length.
    texts : bool ``(items,)`` or None
        Which items are texts, whose one vector is repeated where pictures have several; by default none is.

    Returns
    -------
    float32 ``(queries, items)``

    Examples
    --------
    >>> item = np.array([[[1, 0], [0, 1]]], np.float32)  # one item with two vectors
    >>> cosines(np.array([[0.6, 0.8]], np.float32), item)
    array([[0.8]], dtype=float32)
    """
    dimension = item_vectors.shape[-1]
    scores = query_vectors.reshape(-1, dimension) @ item_vectors.reshape(-1, dimension).T
    if item_vectors.ndim == 3:
        scores = scores.reshape(len(scores), *item_vectors.shape[:2]).max(axis=2)  # (queries · p, items)
    if query_vectors.ndim == 3:
        each = scores.reshape(*query_vectors.shape[:2], -1)  # (queries, p, items)
        scores = each.mean(axis=1)
        if texts is not None:
            scores[:, texts] = each[:, :, texts].max(axis=1)
    return np.asarray(scores, dtype=np.float32)
