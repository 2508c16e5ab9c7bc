"""Pairs → vectors: of batches with gradients, of whole sets as a search would, of frozen towers once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmrag.errors import InputError, ItemError
from mmrag.machine import usable_cores
from mmrag.models.torch_encoder import TorchEncoder
from mmrag.roles import Pixels, Vectors
from mmrag.sources.image import read_image
from mmrag.sources.pairs import Pair
from mmrag.train.loader import picture_group
from mmrag.train.task import Batch
from mmrag.train.towers import Tower, Towers
from mmrag.train.vector_file import VectorFile, text_key

logger = logging.getLogger("mmrag")

TOKENS = ("input_ids", "attention_mask")

_PICTURES_AT_ONCE = 32


class Opened(NamedTuple):
    """A pair that could be read, and what was made of its picture."""

    row: int
    group: int
    texts: tuple[str, ...]
    picture: Any


class Encoded(NamedTuple):
    """Vectors of n pairs with m texts.

    Attributes
    ----------
    rows, groups : int64 ``(n,)``
        Where each pair is among those that were given; equal pictures have equal groups.
    image_vectors, text_vectors : float32 ``(n, d)`` and ``(m, d)``
        Of unit length.
    image_of_text : int64 ``(m,)``
        Which of the n pictures each text is of.
    """

    rows: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64]
    image_vectors: Vectors
    text_vectors: Vectors
    image_of_text: npt.NDArray[np.int64]


class PairEncoder:
    """The two towers over pairs, with pixels and tokens made by the code that a search runs.

    Parameters
    ----------
    encoder : TorchEncoder
        Knows preprocessing and tokens.
    network : Towers
        Its towers; their weights move.
    frozen : collection of str
        The towers whose weights do not: they see each picture, and read each text, once.
    """

    def __init__(self, encoder: TorchEncoder, network: Towers, *, frozen: Collection[Tower]) -> None:
        self._encoder, self._network = encoder, network
        self.known = {tower: VectorFile() for tower in frozen}

    def embed(self, tower: Tower, model: nn.Module, batch: Batch) -> Tensor:
        """Embed a batch's pictures, or its texts, into unit vectors ``(n, d)``; or take those that it brings."""
        vectors: Tensor
        if f"{tower}_vectors" in batch:
            vectors = batch[f"{tower}_vectors"]
        elif tower == "image":
            vectors = self._encoder.image_vectors(model, batch["pixels"])
        else:
            vectors = self._encoder.text_vectors(model, {name: batch[name] for name in TOKENS if name in batch})
        return F.normalize(vectors.float(), dim=-1)

    def encode(self, pairs: Sequence[Pair]) -> Encoded:
        """Embed pairs; those that cannot be read are left out, with a warning.

        Raises
        ------
        InputError
            If none can be read.
        """
        parts, count = [], 0
        for part in self.encode_parts(pairs):
            parts.append(part._replace(image_of_text=part.image_of_text + count))
            count += len(part.rows)
        if not parts:
            raise InputError(f"none of {len(pairs)} pairs can be read; the log names the reason for each")
        return Encoded(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def encode_parts(self, pairs: Sequence[Pair]) -> Iterator[Encoded]:
        """Embed pairs, a part at a time; `image_of_text` counts within the part."""
        for some in opened(pairs, self._pixels):
            texts = [text for one in some for text in one.texts]
            yield Encoded(
                np.array([one.row for one in some]),
                np.array([one.group for one in some]),
                self._see(some),
                self._read(texts),
                np.repeat(np.arange(len(some)), [len(one.texts) for one in some]),
            )

    def _pixels(self, group: int, data: bytes) -> Pixels | None:
        """Prepare a picture as a search does; nothing if its vector is known."""
        if group in self.known.get("image", ()):
            return None
        return self._encoder.preprocessing(read_image(data), exact=True)

    def _see(self, some: Sequence[Opened]) -> Vectors:
        new = {one.group: one.picture for one in some if one.picture is not None}
        known = self.known.get("image")
        if known is None:
            return self._compute("image", {"pixels": np.stack([one.picture for one in some])})
        if new:
            known.add(list(new), self._compute("image", {"pixels": np.stack(list(new.values()))}))
        return np.stack([known[one.group] for one in some])

    def _read(self, texts: Sequence[str]) -> Vectors:
        known = self.known.get("text")
        if known is None:
            return self._compute("text", self._encoder.tokenize(texts))
        new = {text_key(text): text for text in texts if text_key(text) not in known}
        if new:
            known.add(list(new), self._compute("text", self._encoder.tokenize(list(new.values()))))
        return np.stack([known[text_key(text)] for text in texts])

    def _compute(self, tower: Tower, arrays: dict[str, Any]) -> Vectors:
        batch = {name: torch.from_numpy(array).to(self._network.device) for name, array in arrays.items()}
        with _evaluating(self._network), torch.no_grad():
            vectors: Vectors = self.embed(tower, self._network.model, batch).cpu().numpy()
        return vectors


def opened(pairs: Sequence[Pair], prepare: Callable[[int, bytes], Any]) -> Iterator[list[Opened]]:
    """Read pairs, in order and some at a time, while those before them are worked on.

    Parameters
    ----------
    pairs : sequence of Pair
        Those that cannot be read are left out, with a warning.
    prepare : callable
        Makes of a picture's group and bytes what is wanted; called from several threads.
    """

    def load(row: int) -> Opened | None:
        try:
            pair = pairs[row]
            group = picture_group(pair)
            return Opened(row, group, pair.texts, prepare(group, pair.image))
        except ItemError as error:
            logger.warning("pair %d cannot be read: %s; left out", row, error)
            return None

    with ThreadPoolExecutor(usable_cores()) as pool:
        waiting: list[Future[Opened | None]] = []
        for first in range(0, len(pairs) + _PICTURES_AT_ONCE, _PICTURES_AT_ONCE):
            rows = range(first, min(first + _PICTURES_AT_ONCE, len(pairs)))
            coming = [pool.submit(load, row) for row in rows]
            found = [one for one in (future.result() for future in waiting) if one]
            waiting = coming
            if found:
                yield found


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    was = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was)
