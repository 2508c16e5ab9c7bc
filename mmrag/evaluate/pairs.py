"""Pairs on disk → vectors → metrics."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mmrag.errors import InputError, ItemError
from mmrag.evaluate.retrieval import retrieval_metrics
from mmrag.machine import usable_cores
from mmrag.models.registry import load_encoder
from mmrag.roles import Encoder, Vectors
from mmrag.sources.image import read_image
from mmrag.sources.pairs import read_pairs

logger = logging.getLogger("mmrag")


def evaluate_pairs(
    paths: Iterable[str | Path],
    *,
    model: str | Encoder = "builtin",
    text_key: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Measure how well a model finds pictures by their texts, and texts by their pictures.

    Parameters
    ----------
    paths : iterable of path
        Files of pairs, as `mmrag.sources.pairs.read_pairs` reads them.
    model : str or Encoder
        As `mmrag.load_encoder` takes it.
    text_key : str or None
        Where the texts are; by default the first key present of the usual ones.
    progress : callable or None
        Called with how many pictures are done.

    Returns
    -------
    dict
        ``text_to_image`` and ``image_to_text``, each with ``R@1``, ``R@5``, ``R@10`` in percent and
        ``median_rank``; ``n_images``, ``n_texts``, ``model``.

    Raises
    ------
    InputError
        If there are no pairs.
    """
    encoder = load_encoder(model) if isinstance(model, str) else model
    texts: list[str] = []
    owner: list[int] = []
    image_vectors: list[Vectors] = []
    batch: list[Any] = []

    def flush() -> None:
        if batch:
            image_vectors.append(encoder.encode_image(batch))
            batch.clear()

    images = 0
    for pair in read_pairs(paths, text_key=text_key):
        try:
            image = read_image(pair.image, at_least=encoder.decode_at_least)
        except ItemError as error:
            logger.warning("%s: %s; skipped", pair.id, error)
            continue
        batch.append(image)
        texts += pair.texts
        owner += [images] * len(pair.texts)
        images += 1
        if len(batch) == encoder.batch * usable_cores():
            flush()
            if progress:
                progress(images)
    flush()
    if not images:
        raise InputError("there is no readable picture among the pairs")
    metrics = retrieval_metrics(encoder.encode_text(texts), np.concatenate(image_vectors), owner)
    return {**metrics.as_dict(), "model": encoder.card.name}
