"""Recall at k in both directions, in chunks: never an N × N matrix in memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmrag.errors import InputError
from mmrag.roles import Vectors
from mmrag.similarity import cosines

Ranks = npt.NDArray[np.int64]

CUTOFFS = (1, 5, 10)

_SCORES_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class RetrievalMetrics:
    """Ranks of what should have been found.

    Attributes
    ----------
    text_ranks : int64 ``(texts,)``
        Rank of each text's own picture among all pictures, from 1.
    image_ranks : int64 ``(images,)``
        Rank of the best of each picture's own texts among all texts, its other own texts left out.
    """

    text_ranks: Ranks
    image_ranks: Ranks

    def as_dict(self) -> dict[str, Any]:
        """R@1, R@5, R@10 in percent and the median rank, in both directions."""
        return {
            "text_to_image": _summary(self.text_ranks),
            "image_to_text": _summary(self.image_ranks),
            "n_images": len(self.image_ranks),
            "n_texts": len(self.text_ranks),
        }


def mean_recall(figures: Mapping[str, Any]) -> float:
    """Take the mean R@1 of both directions out of what `RetrievalMetrics.as_dict` gives, in percent."""
    return float(figures["text_to_image"]["R@1"] + figures["image_to_text"]["R@1"]) / 2


def retrieval_metrics(text_vectors: Vectors, image_vectors: Vectors, image_of_text: npt.ArrayLike) -> RetrievalMetrics:
    """Rank every picture for every text and every text for every picture.

    The protocol of Karpathy and Fei-Fei (2015, section 4.1) with several captions per image. Ties
    count against the model: what scores as high as the right answer is ranked before it.

    Parameters
    ----------
    text_vectors : float32 ``(texts, dimension)``
        Of unit length.
    image_vectors : float32 ``(images, dimension)`` or ``(images, vectors, dimension)``
        Of unit length; scored as `mmrag.similarity.cosines` says.
    image_of_text : integers ``(texts,)``
        Row of each text's own picture; every picture has at least one text.

    Raises
    ------
    InputError
        If the shapes do not agree, or a picture has no text.
    """
    owner = np.asarray(image_of_text, dtype=np.int64)
    images = len(image_vectors)
    if len(owner) != len(text_vectors) or set(owner.tolist()) != set(range(images)):
        raise InputError("image_of_text must name a picture for every text, and every picture at least once")
    return RetrievalMetrics(
        _text_ranks(text_vectors, image_vectors, owner), _image_ranks(text_vectors, image_vectors, owner)
    )


def _text_ranks(text_vectors: Vectors, image_vectors: Vectors, owner: Ranks) -> Ranks:
    ranks = np.empty(len(text_vectors), dtype=np.int64)
    for chunk in chunks(len(text_vectors), text_vectors, image_vectors):
        scores = cosines(text_vectors[chunk], image_vectors)  # (chunk, images)
        own = np.take_along_axis(scores, owner[chunk, None], axis=1)
        ranks[chunk] = (scores >= own).sum(axis=1)
    return ranks


def _image_ranks(text_vectors: Vectors, image_vectors: Vectors, owner: Ranks) -> Ranks:
    ranks = np.empty(len(image_vectors), dtype=np.int64)
    for chunk in chunks(len(image_vectors), text_vectors, image_vectors):
        scores = cosines(text_vectors, image_vectors[chunk]).T  # (chunk, texts)
        mine = np.arange(chunk.start, min(chunk.stop, len(image_vectors)))[:, None] == owner
        best = np.where(mine, scores, -np.inf).max(axis=1, keepdims=True)
        ranks[chunk] = 1 + (~mine & (scores >= best)).sum(axis=1)
    return ranks


def chunks(rows: int, text_vectors: Vectors, image_vectors: Vectors) -> list[slice]:
    """Cut the texts, or the pictures, so that the cosines of a part with the whole other side fit into memory."""
    columns = max(1, len(text_vectors) * math.prod(image_vectors.shape[:-1]) // max(1, rows))
    size = max(1, _SCORES_AT_ONCE // columns)
    return [slice(start, start + size) for start in range(0, rows, size)]


def _summary(ranks: Ranks) -> dict[str, float]:
    recall = {f"R@{k}": round(100 * float((ranks <= k).mean()), 2) for k in CUTOFFS}
    return recall | {"median_rank": float(np.median(ranks))}
