"""A classifier's classes as extra pairs, so that a few thousand captions do not narrow a model to what they show.

The weight vector of a class points at the features that its pictures have. Standardised and blurred with noise, it
stands in for the features of a picture that nobody has to show: the head learns a thousand names beside the captions.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

import torch
from torch import Tensor

NAME_TEMPLATES = ("a photo of a {}", "{}", "a close-up of a {}", "a {} in the picture")
BROADER_TEMPLATES = ("a photo of a {}", "a {}")
TEXTS_PER_CLASS = len(NAME_TEMPLATES) + len(BROADER_TEMPLATES)
SCALES = (0.5, 2.0)
NOISE = 1.0


@cache
def class_names() -> tuple[tuple[str, str], ...]:
    """Name each of the 1,000 ImageNet classes, in the order of classifiers' outputs: precisely and broadly."""
    lines = resources.files("mmrag.train").joinpath("imagenet_classes.txt").read_text("utf-8").splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    return tuple((row[0], row[-1]) for row in rows)


def class_texts() -> list[str]:
    """Put every name into every template, class after class."""
    return [
        template.format(words)
        for name, broader in class_names()
        for words, templates in ((name, NAME_TEMPLATES), (broader, BROADER_TEMPLATES))
        for template in templates
    ]


class Concepts:
    """Made-up pairs of features and text vectors.

    Parameters
    ----------
    rows : float32 ``(classes, features)``
        The classifier's weights.
    text_vectors : float32 ``(classes * TEXTS_PER_CLASS, d)``
        Of `class_texts`.
    """

    def __init__(self, rows: Tensor, text_vectors: Tensor) -> None:
        self._rows = (rows - rows.mean(dim=1, keepdim=True)) / rows.std(dim=1, keepdim=True)
        self._text_vectors = text_vectors.reshape(len(rows), TEXTS_PER_CLASS, -1)  # (classes, texts, d)

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Make up `n` pairs of classes drawn at random.

        Returns
        -------
        float32 ``(n, features, 1, 1)``
            Features as a grid of one cell, as the head takes it.
        float32 ``(n, d)``
            Text vectors.
        int64 ``(n,)``
            Classes.
        """
        classes = torch.randint(len(self._rows), (n,), generator=generator)
        texts = torch.randint(TEXTS_PER_CLASS, (n,), generator=generator)
        scale = torch.empty(n, 1).uniform_(*SCALES, generator=generator)
        noise = NOISE * torch.randn(n, self._rows.shape[1], generator=generator)
        features = scale * self._rows[classes] + noise
        return features[:, :, None, None], self._text_vectors[classes, texts], classes
