"""Pictures that are too simple to be real, and tiny models that have never seen any."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import Image

from mmrag.sources.pairs import Pair
from tests.models import tiny

COLOURS = {"red": (250, 30, 20), "green": (20, 200, 40), "blue": (20, 40, 240), "yellow": (240, 230, 30)}
PLACES = {"left": (0, 0, 32, 64), "right": (32, 0, 64, 64), "top": (0, 0, 64, 32), "bottom": (0, 32, 64, 64)}
CHINESE = {
    "red": "红色",
    "green": "绿色",
    "blue": "蓝色",
    "yellow": "黄色",
    "left": "左边",
    "right": "右边",
    "top": "上面",
    "bottom": "下面",
}


def picture(colour, place, seed):
    """A coloured half on grey, never the same grey nor quite the same half."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (64, 64), tuple(rng.integers(90, 160, 1).repeat(3).tolist()))
    left, top, right, bottom = np.clip(np.add(PLACES[place], rng.integers(-5, 6, 4)), 0, 64).tolist()
    image.paste(COLOURS[colour], (left, top, right, bottom))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def texts(colour, place, key):
    if key == "zh":
        return f"{CHINESE[colour]}在{CHINESE[place]}", f"{CHINESE[place]}是{CHINESE[colour]}"
    return f"{colour} {place}", f"a {colour} area {place}"


def pairs(seed, *, each=1, key="en"):
    """Sixteen kinds of pictures, each so often."""
    kinds = [(colour, place) for colour in COLOURS for place in PLACES] * each
    return [
        Pair(f"{n}-{colour}-{place}", picture(colour, place, seed * 10_000 + n), texts(colour, place, key))
        for n, (colour, place) in enumerate(kinds)
    ]


def shuffled(pairs, seed=0):
    """The same pictures with texts of others."""
    order = np.random.default_rng(seed).permutation(len(pairs))
    return [Pair(pair.id, pair.image, pairs[other].texts) for pair, other in zip(pairs, order, strict=True)]


def make_model(family, folder):
    """Write a tiny model whose tokenizer knows the words; gives its name."""
    words = [text for key in ("en", "zh") for pair in pairs(0, key=key) for text in pair.texts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "TEXTS", [*tiny.TEXTS, *words])
        model = tiny.write(family, folder)
    if family == "siglip":  # begins as SigLIP does (section 3.2): near 1, a scale tells nothing apart in so few steps
        model.logit_scale.data.fill_(math.log(10))
        model.logit_bias.data.fill_(-10)
        model.save_pretrained(folder)
    return f"hf:{folder}"
