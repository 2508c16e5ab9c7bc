"""A classifier's classes as extra pairs, so that a few thousand captions do not narrow a model to what they show.

The weight vector of a class points at the features that its pictures have. Standardised and blurred with noise, it
serves as the features of a picture that nobody has to show: the head learns a thousand names beside the captions.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

import torch
from torch import Tensor

TEMPLATES = ("a photo of a {}", "{}", "a close-up of a {}", "a {} in the picture")
SCALES = (0.5, 2.0)
NOISE = 1.0


@cache
def class_names() -> tuple[str, ...]:
    """Names of the 1,000 ImageNet classes in the order of classifiers' outputs, told apart where one word has two."""
    lines = resources.files(__package__).joinpath("imagenet_classes.txt").read_text("utf-8").splitlines()
    return tuple(line for line in lines if not line.startswith("#"))


def class_texts() -> list[str]:
    """Every name in every template, class after class."""
    return [template.format(name) for name in class_names() for template in TEMPLATES]


def sample_features(rows: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
    """Make up the features of one picture for each class asked for.

    Parameters
    ----------
    rows : float32 ``(classes, features)``
        The classifier's weights.
    classes : int64 ``(n,)``
        Which rows to take.

    Returns
    -------
    float32 ``(n, features, 1, 1)``
        A grid of one cell, as the head takes it.
    """
    chosen = rows[classes]
    chosen = (chosen - chosen.mean(dim=1, keepdim=True)) / chosen.std(dim=1, keepdim=True)
    scale = torch.empty(len(chosen), 1).uniform_(*SCALES, generator=generator)
    noise = NOISE * torch.randn(chosen.shape, generator=generator)
    return (scale * chosen + noise)[:, :, None, None]
