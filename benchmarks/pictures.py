"""Pictures with the weight of photographs, made by code: smooth noise at several scales, with grain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZES = {"640 x 480": (640, 480), "1600 x 1200": (1600, 1200), "4000 x 3000": (4000, 3000)}


def make_jpegs(folder: Path, size: tuple[int, int], count: int, *, distinct: int = 24) -> list[Path]:
    """Write JPEGs of 0.2 to 0.25 bytes per pixel at quality 85; from `distinct` scenes, all of different content."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    scenes = [_scene(size, random) for _ in range(min(distinct, count))]
    paths = []
    for n in range(count):
        path = folder / f"{n:05}.jpg"
        scene = scenes[n % len(scenes)]
        scene.paste((n % 256, n // 256 % 256, n // 65536), (0, 0, 8, 8))
        scene.save(path, quality=85)
        paths.append(path)
    return paths


def _scene(size: tuple[int, int], random: np.random.Generator) -> Image.Image:
    width, height = size
    total = np.zeros((height, width, 3), dtype=np.float32)
    for scale in (5, 20, 80, 320):
        noise = random.integers(0, 256, (max(2, scale * height // width), scale, 3), dtype=np.uint8)
        total += np.asarray(Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC), np.float32) / scale**0.5
    total -= total.min()
    total *= 235 / total.max()
    total += random.integers(0, 20, (height, width, 1))
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))
