"""Inputs to compare ways of running a model on: made here, so that no file is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

SAMPLE_TEXTS = [
    "a dog",
    "two children playing football on a beach",
    "a red car parked in front of an old brick building at night, seen from above",
    "sunset",
]

CHINESE_SAMPLE_TEXTS = ["一只狗", "两个孩子在海滩上踢足球", "夜里，一辆红色的汽车停在一座旧砖楼前面，从上面看", "日落"]

_SIDE = 384


def sample_pictures(count: int = 8) -> list[Image]:
    """Make pictures with structure at all scales, as photographs have: smooth noise whose detail is fainter."""
    from PIL import Image

    random = np.random.default_rng(0)
    pictures = []
    for _ in range(count):
        total = np.zeros((_SIDE, _SIDE, 3))
        for scale in (3, 9, 27, 81, 243):
            noise = Image.fromarray(random.integers(0, 256, (scale, scale, 3), dtype=np.uint8))
            total += np.asarray(noise.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)) / scale**0.5
        total -= total.min()
        pictures.append(Image.fromarray((total * (255 / total.max())).astype(np.uint8)))
    return pictures
