"""Pairs on disk → vectors → metrics, and a matcher's judgement → better ones."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmrag.errors import InputError, ItemError
from mmrag.evaluate.rerank import reranked_metrics
from mmrag.evaluate.retrieval import RetrievalMetrics, retrieval_metrics
from mmrag.machine import usable_cores
from mmrag.models.registry import load_encoder, load_matcher
from mmrag.roles import Encoder, Matcher, Scores, Vectors
from mmrag.search.judge import Pairs, judge_pairs, picture_blocks
from mmrag.sources.image import read_image
from mmrag.sources.pairs import Pair, read_pairs

if TYPE_CHECKING:
    from PIL.Image import Image

Progress = Callable[[int, int], None]

logger = logging.getLogger("mmrag")

_PAIRS_AT_ONCE = 1024


def evaluate_pairs(
    paths: Iterable[str | Path],
    *,
    model: str | Encoder = "builtin",
    rerank: str | Matcher | None = None,
    tops: Sequence[int] = (0, 128),
    limit: int | None = None,
    text_key: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure how well a model finds pictures by their texts, and texts by their pictures.

    Parameters
    ----------
    paths : iterable of path
        Files of pairs, as `mmrag.sources.pairs.read_pairs` reads them.
    model : str or Encoder
        As `mmrag.load_encoder` takes it.
    rerank : str, Matcher or None
        What judges the best candidates of each text, and of each picture, again; as `mmrag.load_matcher` takes it.
    tops : sequence of int
        How many candidates it judges; each pair is judged once, for all of them. 0 is none.
    limit : int or None
        Take so many pairs only, the first.
    text_key : str or None
        Where the texts are; by default the first key present of the usual ones.
    progress : callable or None
        Called with how many pictures are encoded and 0, then with how many are judged and how many there are.

    Returns
    -------
    dict
        ``text_to_image`` and ``image_to_text``, each with ``R@1``, ``R@5``, ``R@10`` in percent and
        ``median_rank``; ``n_images``, ``n_texts``, ``model``. With `rerank` also ``rerank``: its ``model``,
        how many ``pairs`` it has judged, and ``at``, a list with the same figures for each ``top``.

    Raises
    ------
    InputError
        If there are no pairs, or the matcher does not see pictures.
    """
    encoder = load_encoder(model) if isinstance(model, str) else model
    matcher = load_matcher(rerank) if isinstance(rerank, str) else rerank
    _check(matcher, tops, limit)
    pairs = _Pairs(tuple(paths), text_key, limit)
    image_vectors = _encode(encoder, pairs, progress)
    text_vectors = encoder.encode_text(pairs.texts)
    metrics = retrieval_metrics(text_vectors, image_vectors, pairs.owner)
    report = {**metrics.as_dict(), "model": encoder.card.name}
    if matcher is None:
        return report
    judge = partial(_judge, matcher, encoder, pairs, text_vectors, image_vectors, progress)
    owner = np.array(pairs.owner)
    reranked, judged = reranked_metrics(text_vectors, image_vectors, owner, metrics, tops=tops, judge=judge)
    at = [{"top": top, **_figures(one)} for top, one in reranked.items()]
    return {**report, "rerank": {"model": matcher.card.name, "pairs": judged, "at": at}}


@dataclass
class _Pairs:
    """Pairs on disk, which are read twice: what cannot be read the first time is left out the second.

    Attributes
    ----------
    texts : list of str
        All that were read.
    owner : list of int
        Number of each text's picture.
    """

    paths: tuple[str | Path, ...]
    text_key: str | None
    limit: int | None
    texts: list[str] = field(default_factory=list)
    owner: list[int] = field(default_factory=list)
    _kept: list[int] = field(default_factory=list)

    def read(self, at_least: int | None) -> Iterator[Image]:
        """Read for the first time, and keep the texts."""
        for place, pair in enumerate(self._all()):
            try:
                image = read_image(pair.image, at_least=at_least)
            except ItemError as error:
                logger.warning("%s: %s; skipped", pair.id, error)
                continue
            self.texts += pair.texts
            self.owner += [len(self._kept)] * len(pair.texts)
            self._kept.append(place)
            yield image

    def read_again(self, at_least: int | None) -> Iterator[tuple[int, Image]]:
        """Read the same pictures, with their numbers."""
        numbers = {place: number for number, place in enumerate(self._kept)}
        for place, pair in enumerate(self._all()):
            if place in numbers:
                yield numbers[place], read_image(pair.image, at_least=at_least)

    def _all(self) -> Iterator[Pair]:
        return islice(read_pairs(self.paths, text_key=self.text_key), self.limit)


def _check(matcher: Matcher | None, tops: Sequence[int], limit: int | None) -> None:
    if matcher is not None and "image" not in matcher.card.modalities:
        raise InputError(f"{matcher.card.name} judges texts only, and pairs are of pictures and texts")
    if not tops or min(tops) < 0:
        raise InputError(f"tops are whole numbers of at least 0, such as 0, 16, 128, not {list(tops)}")
    if limit is not None and limit < 1:
        raise InputError(f"limit is at least 1, not {limit}")


def _encode(encoder: Encoder, pairs: _Pairs, progress: Progress | None) -> Vectors:
    images, done = pairs.read(encoder.decode_at_least), 0
    vectors: list[Vectors] = []
    while some := list(islice(images, encoder.batch * usable_cores())):
        vectors.append(encoder.encode_image(some))
        done += len(some)
        if progress:
            progress(done, 0)
    if not vectors:
        raise InputError("there is no readable picture among the pairs")
    return np.concatenate(vectors)


def _judge(
    matcher: Matcher,
    encoder: Encoder,
    pairs: _Pairs,
    text_vectors: Vectors,
    image_vectors: Vectors,
    progress: Progress | None,
    wanted: Pairs,
) -> Scores:
    """Judge pairs, a block of pictures at a time; cosines that are known already are not computed again."""
    known = matcher.identity == encoder.identity

    def told(images: Iterator[tuple[int, Image]]) -> Iterator[tuple[int, Image]]:
        for number, image in images:
            yield number, image
            if progress:
                progress(number + 1, len(image_vectors))

    blocks = picture_blocks(matcher, told(pairs.read_again(matcher.decode_at_least)))
    scores = judge_pairs(matcher, pairs.texts, wanted, blocks, cosines=not known).scores
    return scores + _cosines(text_vectors, image_vectors, wanted) if known else scores


def _cosines(text_vectors: Vectors, image_vectors: Vectors, wanted: Pairs) -> Scores:
    found = np.empty(len(wanted), dtype=np.float32)
    for start in range(0, len(wanted), _PAIRS_AT_ONCE):
        texts, images = wanted[start : start + _PAIRS_AT_ONCE].T
        items = image_vectors[images].reshape(len(images), -1, image_vectors.shape[-1])
        found[start : start + len(texts)] = np.einsum("pd,pmd->pm", text_vectors[texts], items).max(axis=1)
    return found


def _figures(metrics: RetrievalMetrics) -> dict[str, Any]:
    report = metrics.as_dict()
    return {direction: report[direction] for direction in ("text_to_image", "image_to_text")}
