"""What a model promises in each role it plays. Encoder: pictures or words → unit vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mmrag.errors import InputError, ModelError
from mmrag.machine import usable_cores

if TYPE_CHECKING:
    from PIL.Image import Image

    from mmrag.models.cards import Card

PRECISIONS = ("fp32", "bf16", "int8")

Vectors = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Identity:
    """Who wrote a vector: two vectors compare only if all of these are equal."""

    name: str
    revision: str
    weights: str
    preprocessing: str
    dimension: int

    def difference(self, other: Identity) -> str | None:
        """Name the first field in which `other` differs, with both values; None if none does."""
        for one in fields(self):
            mine, theirs = getattr(self, one.name), getattr(other, one.name)
            if mine != theirs:
                return f"{one.name} {mine!r} against {theirs!r}"
        return None


class Encoder(ABC):
    """Pictures and texts → unit vectors in one space.

    A family implements `preprocess`, `_embed_pixels` and `_embed_text`; batching and checks are here.
    Every method may be called from several threads at once.

    Attributes
    ----------
    card : Card
        What the model is.
    identity : Identity
        What must be equal for two sets of vectors to be comparable.
    batch : int
        How many pictures or texts go through the network at once.
    decode_at_least : int or None
        The side, in pixels, that pictures are shrunk to; decoders may then skip finer detail.
    """

    card: Card
    identity: Identity
    batch: int = 16
    decode_at_least: int | None = None

    @property
    def engine(self) -> str:
        """What computes the vectors of pictures. Not part of the identity: ways that agree are interchangeable."""
        return self.card.family

    @property
    def precision(self) -> str:
        """What it computes in: "fp32", "bf16" or "int8"."""
        return "fp32"

    def verify(self) -> None:  # noqa: B027
        """Check that the model's files are the ones its card describes; asked before indexing.

        Raises
        ------
        ModelError
            If they are not.
        """

    def at_precision(self, precision: str) -> Encoder:
        """Give this encoder computing in "fp32", "bf16" or "int8".

        Raises
        ------
        ModelError
            If it cannot be done with this model, or on this machine.
        """
        if precision != self.precision:
            raise ModelError(f"{self.card.name} runs in {self.precision} only, not in {precision!r}")
        return self

    def prepare(self, *, words: bool) -> None:  # noqa: B027
        """Begin to load, beside the caller, what encoding will need: of words, or else of pictures."""

    @abstractmethod
    def preprocess(self, image: Image) -> Pixels:
        """Turn an upright RGB picture into the network's input, float32 ``(3, height, width)``."""

    @abstractmethod
    def _embed_pixels(self, pixels: Pixels) -> Vectors:
        """Embed ``(n, 3, height, width)`` into ``(n, dimension)``, at most `batch` at once."""

    @abstractmethod
    def _embed_text(self, texts: Sequence[str]) -> Vectors:
        """Embed n texts into ``(n, dimension)``, at most `batch` at once."""

    def encode_image(self, images: Sequence[Image]) -> Vectors:
        """Embed pictures.

        Parameters
        ----------
        images : sequence of PIL images
            Upright RGB pictures, as `mmrag.sources.image.read_image` gives them.

        Returns
        -------
        float32 ``(n, dimension)``
            Of unit length.
        """
        return self._in_batches(
            images, lambda some: self._encode_pixels(np.stack([self.preprocess(one) for one in some]))
        )

    def encode_pixels(self, pixels: Pixels) -> Vectors:
        """Embed preprocessed pictures ``(n, 3, height, width)`` into unit ``(n, dimension)``."""
        return self._in_batches(pixels, self._encode_pixels)

    def encode_text(self, texts: Sequence[str]) -> Vectors:
        """Embed texts.

        Texts go through the network sorted by length, so that short ones are not padded to long ones.

        Parameters
        ----------
        texts : sequence of str
            What is longer than the card's `max_tokens` is cut, with a warning in the log.

        Returns
        -------
        float32 ``(n, dimension)``
            Of unit length, in the order given.
        """
        if isinstance(texts, str):
            raise InputError("encode_text takes a list of texts; put the one text into a list")
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        vectors = np.empty((len(texts), self.card.dimension), dtype=np.float32)
        vectors[order] = self._in_batches([texts[i] for i in order], self._encode_text)
        return vectors

    def _encode_text(self, texts: Sequence[str]) -> Vectors:
        return self._checked(self._embed_text(texts), len(texts))

    def _encode_pixels(self, pixels: Pixels) -> Vectors:
        return self._checked(self._embed_pixels(pixels), len(pixels))

    def _in_batches(self, inputs: Any, encode: Callable[[Any], Vectors]) -> Vectors:
        """Encode a batch on each core at a time."""
        batches = [inputs[i : i + self.batch] for i in range(0, len(inputs), self.batch)]
        if len(batches) < 2:
            return encode(inputs) if batches else np.empty((0, self.card.dimension), dtype=np.float32)
        with ThreadPoolExecutor(usable_cores(), thread_name_prefix="mmrag-encode") as pool:
            return np.concatenate(list(pool.map(encode, batches)))

    def _checked(self, vectors: Vectors, count: int) -> Vectors:
        if vectors.shape != (count, self.card.dimension):
            raise ModelError(
                f"{self.card.name} gave vectors of shape {vectors.shape}, "
                f"not ({count}, {self.card.dimension}) as its card says"
            )
        if not np.isfinite(vectors).all():
            raise ModelError(f"{self.card.name} gave vectors that are not finite numbers")
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(norms, 1e-12), dtype=np.float32)
