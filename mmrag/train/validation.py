"""Vectors of what is held out, and the figures that epochs are compared by."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from mmrag.evaluate.retrieval import retrieval_metrics
from mmrag.models.towers import DualEncoder
from mmrag.roles import Vectors
from mmrag.train.data import Dataset, Pictures, tokenize
from mmrag.train.start import Start

PICTURES_AT_ONCE = 32
TEXTS_AT_ONCE = 256


class Validation:
    """Pairs that are held out, to measure every epoch on.

    Parameters
    ----------
    data : Dataset
        The pairs.
    start : Start
        How its texts and pictures are read.
    texts_move : bool
        Whether the text tower is trained, so that texts must be encoded again every time.
    threads : int
        How many decode pictures.
    """

    def __init__(self, data: Dataset, start: Start, *, texts_move: bool, threads: int) -> None:
        self._data = data
        self._tokenizer = start.tokenizer
        self._texts_move = texts_move
        self._text_vectors: Vectors | None = None
        self._pictures = Pictures(data.images, start.preprocessing, threads=threads)

    def measure(self, network: DualEncoder) -> dict[str, Any]:
        """Compute retrieval metrics in percent, as `mmrag eval` prints them."""
        texts = self._text_vectors
        if texts is None or self._texts_move:
            texts = self._text_vectors = encode_texts(network, self._tokenizer, self._data.texts).cpu().numpy()
        images = encode_pictures(network, self._pictures, len(self._data))
        return retrieval_metrics(texts, images, self._data.image_of_text).as_dict()


def mean_recall(figures: dict[str, Any]) -> float:
    """Mean R@1 of both directions: what epochs are compared by."""
    return float(figures["text_to_image"]["R@1"] + figures["image_to_text"]["R@1"]) / 2


@torch.no_grad()
def encode_texts(network: DualEncoder, tokenizer: Tokenizer, texts: tuple[str, ...] | list[str]) -> Tensor:
    """Encode texts to unit vectors ``(texts, d)`` on the network's device; texts of like length share a batch."""
    device = next(network.parameters()).device
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    vectors = torch.empty(len(texts), network.text.config.dimension, device=device)
    for first in range(0, len(texts), TEXTS_AT_ONCE):
        batch = order[first : first + TEXTS_AT_ONCE]
        ids, mask = (torch.from_numpy(part).to(device) for part in tokenize(tokenizer, [texts[i] for i in batch]))
        vectors[batch] = network.encode_text(ids, mask)
    return vectors


@torch.no_grad()
def encode_pictures(network: DualEncoder, pictures: Pictures, count: int) -> Vectors:
    """Encode the first `count` pictures, as they are, to unit vectors ``(count, d)``; the tower in bfloat16."""
    device = next(network.parameters()).device
    batches = [range(first, min(first + PICTURES_AT_ONCE, count)) for first in range(0, count, PICTURES_AT_ONCE)]
    vectors = []
    for view in pictures.batches(batches):
        pixels = torch.from_numpy(view).to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            grid = network.image(pixels)
        vectors.append(F.normalize(network.head(grid.float()), dim=-1).cpu().numpy())
    return np.concatenate(vectors)
