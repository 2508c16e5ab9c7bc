"""A model that can be checked by hand: a picture is its mean colour, a text is the colour it names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mmrag.models.cards import Card
from mmrag.roles import Encoder, Identity

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 128, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
}


class ToyEncoder(Encoder):
    """Unit vectors ``(r, g, b, 0.5)`` of colours from 0 to 1."""

    decode_at_least = 8

    def __init__(self, revision: str = "1") -> None:
        self.card = Card(name="toy", family="toy", revision=revision, dimension=4, max_tokens=8, languages=("en",))
        self.identity = Identity("toy", revision, "none", "mean colour", 4)
        self.embedded = 0

    def preprocess(self, image):
        return np.asarray(image.resize((8, 8)), dtype=np.float32).transpose(2, 0, 1) / 255

    def _embed_pixels(self, pixels):
        self.embedded += len(pixels)
        return _unit(pixels.mean(axis=(2, 3)))

    def _embed_text(self, texts):
        named = [next((COLOURS[w] for w in text.lower().split() if w in COLOURS), (128, 128, 128)) for text in texts]
        return _unit(np.array(named, dtype=np.float32) / 255)


class HalvesEncoder(ToyEncoder):
    """A picture has two vectors: those of its left half and of its right half."""

    def __init__(self) -> None:
        super().__init__("halves")
        self.card = replace(self.card, vectors=2)
        self.identity = replace(self.identity, vectors=2)

    def _embed_pixels(self, pixels):
        self.embedded += len(pixels)
        return np.stack([_unit(pixels[..., :4].mean(axis=(2, 3))), _unit(pixels[..., 4:].mean(axis=(2, 3)))], axis=1)


def _unit(rgb):
    vectors = np.concatenate([rgb, np.full((len(rgb), 1), 0.5)], axis=1).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def open_toy(reference: str) -> ToyEncoder:
    return HalvesEncoder() if reference == "halves" else ToyEncoder(reference or "1")
