"""Pairs → batches: pictures seen differently in every epoch, and one of each picture's texts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import exp, log, sqrt
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance

from mmrag.errors import InputError, ItemError
from mmrag.models.preprocess import Preprocessing
from mmrag.models.tokens import Tokens, laid_out
from mmrag.roles import Pixels
from mmrag.sources.image import read_image
from mmrag.sources.pairs import Pair

if TYPE_CHECKING:
    from tokenizers import Tokenizer

logger = logging.getLogger("mmrag")


@dataclass(frozen=True)
class Augmentation:
    """How much a picture may change from one epoch to the next without its texts becoming untrue.

    Attributes
    ----------
    crop : float from 0 to 1
        Least share of the area that a random crop keeps; 1 keeps everything.
    ratio : float, at least 1
        How far a crop may be squeezed or stretched.
    jitter : float from 0 to 1
        How far brightness, contrast and saturation may move; texts name colours, so the hue stays.
    flip : bool
        Whether left and right may change places.
    """

    crop: float = 0.5
    ratio: float = 4 / 3
    jitter: float = 0.25
    flip: bool = True

    def __post_init__(self) -> None:
        """Refuse numbers that are not shares."""
        if not (0 < self.crop <= 1 and self.ratio >= 1 and 0 <= self.jitter < 1):
            raise InputError(f"crop must be in (0, 1], ratio at least 1 and jitter in [0, 1), not {self}")

    def __call__(self, image: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
        """Crop, flip and colour an RGB picture at random; the result is `size`, (width, height)."""
        image = image.resize(size, Image.Resampling.BICUBIC, box=self._box(image, rng))
        if self.flip and rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.jitter:
            for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
                image = enhance(image).enhance(rng.uniform(1 - self.jitter, 1 + self.jitter))
        return image

    def _box(self, image: Image.Image, rng: np.random.Generator) -> tuple[float, float, float, float]:
        share = rng.uniform(self.crop, 1)
        stretch = exp(rng.uniform(-log(self.ratio), log(self.ratio))) if self.crop < 1 else 1
        width = image.width * min(1, sqrt(share * stretch))
        height = image.height * min(1, sqrt(share / stretch))
        left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
        return (left, top, left + width, top + height)


class Pictures:
    """Undecoded pictures in memory, decoded on a few threads whenever they are asked for."""

    def __init__(self, images: Sequence[bytes], preprocessing: Preprocessing, *, threads: int) -> None:
        self._images = images
        self._preprocessing = preprocessing
        self._size = (preprocessing.width, preprocessing.height)
        self._pool = ThreadPoolExecutor(threads)

    def batches(
        self, batches: Iterable[Sequence[int]], *, augmentation: Augmentation | None = None, seed: Sequence[int] = ()
    ) -> Iterator[Pixels]:
        """Yield float32 ``(n, 3, height, width)`` for each batch of rows, the next one always under way.

        Parameters
        ----------
        batches : iterable of rows
            Which pictures make up each batch.
        augmentation : Augmentation or None
            None shows the pictures as they are.
        seed : integers
            With the row, decides how a picture is augmented, whichever thread does it.
        """

        def load(row: int) -> Pixels:
            image = read_image(self._images[row], at_least=None if augmentation else max(self._size))
            if augmentation:
                image = augmentation(image, self._size, np.random.default_rng((*seed, row)))
            return self._preprocessing(image)

        waiting = None
        for rows in batches:
            coming = [self._pool.submit(load, int(row)) for row in rows]
            if waiting:
                yield np.stack([future.result() for future in waiting])
            waiting = coming
        if waiting:
            yield np.stack([future.result() for future in waiting])


@dataclass(frozen=True)
class Dataset:
    """Pairs whose pictures were seen to open, laid out for random access.

    Attributes
    ----------
    images : tuple of bytes
        Undecoded pictures.
    texts : tuple of str
        All texts, picture after picture.
    first : int64 ``(images + 1,)``
        The texts of image i are ``texts[first[i]:first[i + 1]]``.
    """

    images: tuple[bytes, ...]
    texts: tuple[str, ...]
    first: npt.NDArray[np.int64]

    @classmethod
    def read(cls, pairs: Iterable[Pair]) -> Dataset:
        """Read pairs into memory, leaving out, with a warning, pictures that cannot be read.

        Raises
        ------
        InputError
            If fewer than two pairs are left: there is nothing to tell apart.
        """
        images: list[bytes] = []
        texts: list[str] = []
        first = [0]
        for pair in pairs:
            try:
                read_image(pair.image, at_least=32)
            except ItemError as error:
                logger.warning("%s: %s; skipped", pair.id, error)
                continue
            images.append(pair.image)
            texts += pair.texts
            first.append(len(texts))
        if len(images) < 2:
            raise InputError(f"training needs at least two pairs of a picture and a text; there are {len(images)}")
        return cls(tuple(images), tuple(texts), np.asarray(first, dtype=np.int64))

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.images)

    @property
    def image_of_text(self) -> npt.NDArray[np.int64]:
        """Row of each text's own image, int64 ``(texts,)``."""
        return np.repeat(np.arange(len(self)), np.diff(self.first))

    def choose_texts(self, rows: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Pick one of the texts of each image, int64 ``(n,)``."""
        return rng.integers(self.first[rows], self.first[rows + 1])


def tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[Tokens, Tokens]:
    """Texts → token ids and attention mask, each int64 ``(n, t)``, t being the longest text's length."""
    arrays = laid_out(tokenizer.encode_batch(list(texts)))
    return arrays["input_ids"], arrays["attention_mask"]
