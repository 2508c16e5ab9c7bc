"""What the built-in model says of some photographs and texts, kept so that no change goes unnoticed.

python -m tests.models.golden      # after the model was rebuilt on purpose
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from mmrag.models.registry import load_encoder
from mmrag.sources.image import read_image

FILE = Path(__file__).with_name("golden.json")
PHOTOGRAPHS = ("chelsea.png", "coffee.png", "astronaut.png", "rocket.jpg", "motorcycle_left.png", "moon.png")
TEXTS = (
    "a cat",
    "a cup of coffee",
    "two dogs are playing in deep snow",
    "The quick brown fox, 1 + 1 = 2!",
    "海滩上的狗",
)
LEADING = 16


def measure() -> dict[str, dict[str, list[float]]]:
    """First components of each vector."""
    encoder = load_encoder("builtin")
    spec = importlib.util.find_spec("skimage")
    data = Path(spec.submodule_search_locations[0], "data")
    pictures = encoder.encode_image([read_image((data / name).read_bytes()) for name in PHOTOGRAPHS])
    texts = encoder.encode_text(TEXTS)
    return {
        "photographs": {name: _leading(vector) for name, vector in zip(PHOTOGRAPHS, pictures, strict=True)},
        "texts": {text: _leading(vector) for text, vector in zip(TEXTS, texts, strict=True)},
    }


def _leading(vector) -> list[float]:
    return [round(float(value), 4) for value in vector[:LEADING]]


if __name__ == "__main__":
    FILE.write_text(json.dumps(measure(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
