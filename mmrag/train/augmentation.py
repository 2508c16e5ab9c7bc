"""Pictures seen differently every time."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log, sqrt

import numpy as np
from PIL import Image, ImageEnhance

from mmrag.errors import InputError


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
