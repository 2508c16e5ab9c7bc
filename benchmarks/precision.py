"""What each engine and precision costs the built-in model in recall, and what it gains in speed.

    python -m benchmarks.precision --flickr8k ../shared/data/flickr8k

On Flickr8k val, against ONNX Runtime in single precision: cosines of the photographs' vectors, R@k of its captions, and
how many of each caption's ten best photographs stay among the ten best.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import publish
from mmrag.errors import ModelError
from mmrag.evaluate import retrieval_metrics
from mmrag.models.registry import load_encoder
from mmrag.models.tower import REFERENCE, Way
from mmrag.sources.image import read_image
from mmrag.sources.pairs import read_pairs

WAYS = (REFERENCE, Way("openvino", "fp32"), Way("openvino", "bf16"))


def best_ten(vectors: np.ndarray, texts: np.ndarray) -> np.ndarray:
    return np.argpartition(-(texts @ vectors.T), 10, axis=1)[:, :10]


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(first, second, strict=True)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flickr8k", type=Path, default=Path("../shared/data/flickr8k"))
    folder = parser.parse_args().flickr8k
    if not folder.is_dir():
        parser.error(f"there is no folder {folder}; nothing was measured")
    pairs = list(read_pairs([folder / "val-00.tar"]))
    owner = [number for number, pair in enumerate(pairs) for _ in pair.texts]
    encoder: Any = load_encoder("builtin", precision="fp32")
    texts = encoder.encode_text([text for pair in pairs for text in pair.texts])
    images = [read_image(pair.image, at_least=encoder.decode_at_least) for pair in pairs]
    pixels = np.stack([encoder.preprocess(image) for image in images])
    report: dict[str, Any] = {}
    reference = np.empty(0)
    for way in WAYS:
        encoder._towers["vision"].way, encoder._towers["vision"]._session = way, None
        try:
            encoder.encode_pixels(pixels[:64])
        except (ModelError, ImportError) as error:
            report[f"{way.engine} {way.precision}"] = f"not measured: {error}"
            continue
        start = time.perf_counter()
        vectors = encoder.encode_pixels(pixels)
        rate = len(pixels) / (time.perf_counter() - start)
        reference = vectors if way == REFERENCE else reference
        cosines = (vectors * reference).sum(axis=1)
        metrics = retrieval_metrics(texts, vectors, owner).as_dict()["text_to_image"]
        report[f"{way.engine} {way.precision}"] = {
            "forward pass, pictures/s": round(rate, 1),
            "lowest cosine": round(float(cosines.min()), 5),
            "mean cosine": round(float(cosines.mean()), 5),
            "text to image": metrics,
            "top-10 overlap": round(overlap(best_ten(vectors, texts), best_ten(reference, texts)), 4),
        }
    publish("precision", report)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
