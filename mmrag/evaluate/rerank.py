"""Recall at k after a matcher has judged the best candidates again, for several numbers of candidates at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from mmrag.evaluate.retrieval import Ranks, RetrievalMetrics, chunks
from mmrag.roles import Scores, Vectors
from mmrag.search.judge import Pairs
from mmrag.similarity import cosines

Judge = Callable[[Pairs], Scores]
"""Scores pairs ``(pairs, 2)`` of a text and a picture, by their numbers."""


def reranked_metrics(
    text_vectors: Vectors,
    image_vectors: Vectors,
    owner: Ranks,
    base: RetrievalMetrics,
    *,
    tops: Sequence[int],
    judge: Judge,
) -> tuple[dict[int, RetrievalMetrics], int]:
    """Rank again, by a matcher, the best of what cosines have ranked.

    As BLIP's evaluation does (Li et al. 2022, section 5.1): the best k pictures of each text, and the best k texts
    of each picture. A pair is judged once, for the largest k, and serves both directions and all smaller k.
    Ties count against the model, among cosines as among matches.

    Parameters
    ----------
    text_vectors, image_vectors, owner
        As for `mmrag.evaluate.retrieval_metrics`.
    base : RetrievalMetrics
        What that gave: the ranks of what is not among the best k.
    tops : sequence of int
        Numbers of candidates; 0 is no reranking.
    judge : callable
        Gives the scores ``(pairs,)`` of pairs ``(pairs, 2)``.

    Returns
    -------
    metrics : dict of int to RetrievalMetrics
        For each of `tops`.
    judged : int
        How many pairs were judged.
    """
    of_texts = _best(text_vectors, image_vectors, owner, max(tops), by_text=True)  # (texts, k) pictures
    of_images = _best(text_vectors, image_vectors, owner, max(tops), by_text=False)  # (images, k) texts
    images, texts = len(image_vectors), len(text_vectors)
    codes_of_texts = np.arange(texts)[:, None] * images + of_texts
    codes_of_images = of_images * images + np.arange(images)[:, None]
    codes = np.unique(np.concatenate([codes_of_texts.ravel(), codes_of_images.ravel()]))
    scores = judge(np.stack(np.divmod(codes, images), axis=1)) if len(codes) else np.empty(0, np.float32)
    text_scores, image_scores = (scores[np.searchsorted(codes, some)] for some in (codes_of_texts, codes_of_images))
    own_pictures, own_texts = of_texts == owner[:, None], owner[of_images] == np.arange(images)[:, None]
    metrics = {
        top: RetrievalMetrics(
            _ranks(text_scores[:, :top], own_pictures[:, :top], base.text_ranks),
            _ranks(image_scores[:, :top], own_texts[:, :top], base.image_ranks),
        )
        for top in tops
    }
    return metrics, len(codes)


def _best(text_vectors: Vectors, image_vectors: Vectors, owner: Ranks, k: int, *, by_text: bool) -> Ranks:
    """Find the k best of the other side for each text, or each picture; its own come last among equals."""
    rows, columns = (text_vectors, image_vectors) if by_text else (image_vectors, text_vectors)
    best = np.empty((len(rows), min(k, len(columns))), dtype=np.int64)
    for chunk in chunks(len(rows), text_vectors, image_vectors):
        if by_text:
            scores = cosines(text_vectors[chunk], image_vectors)
            own = owner[chunk, None] == np.arange(len(image_vectors))
        else:
            scores = cosines(text_vectors, image_vectors[chunk]).T
            own = np.arange(len(image_vectors))[chunk, None] == owner
        best[chunk] = np.lexsort((own, -scores), axis=1)[:, : best.shape[1]]
    return best


def _ranks(scores: Scores, own: npt.NDArray[np.bool_], base: Ranks) -> Ranks:
    """Rank the best of a row's own among its candidates ``(rows, k)``, or as before if none is there."""
    if not scores.shape[1]:
        return base
    best = np.where(own, scores, -np.inf).max(axis=1, keepdims=True)
    ranks = 1 + (~own & (scores >= best)).sum(axis=1)
    return np.where(own.any(axis=1), ranks, base)
