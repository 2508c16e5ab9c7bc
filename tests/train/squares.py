"""Squares on grounds, and what they show in words."""

from __future__ import annotations

import io
import itertools

import numpy as np
from PIL import Image

from mmrag.sources.pairs import Pair

COLOURS = {"red": (230, 30, 30), "green": (20, 190, 40), "blue": (30, 40, 230), "black": (10, 10, 10)}
PLACES = {"left": (0, 0), "right": (1, 0), "low": (0, 1), "far": (1, 1)}
SIDE = 56


def drawn_pairs(repeats, *, seed=0):
    """A square of a colour in a quarter of a ground of another colour: 48 captions, drawn `repeats` times each."""
    rng = np.random.default_rng(seed)
    pairs = []
    for number in range(repeats):
        for colour, place, ground in itertools.product(COLOURS, PLACES, COLOURS):
            if colour != ground:
                text = f"{colour} {place} on {ground}"
                pairs.append(Pair(f"{text} {number}", _draw(colour, place, ground, rng), (text,)))
    return pairs


def _draw(colour, place, ground, rng):
    pixels = np.empty((SIDE, SIDE, 3))
    pixels[:] = np.clip(np.array(COLOURS[ground]) + rng.normal(0, 12, 3), 0, 255)
    x, y = (SIDE // 2 * one + rng.integers(0, 5) for one in PLACES[place])
    pixels[y : y + 23, x : x + 23] = np.clip(np.array(COLOURS[colour]) + rng.normal(0, 12, 3), 0, 255)
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()
