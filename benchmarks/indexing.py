"""How fast pictures are indexed: files → committed rows.

    python -m benchmarks.indexing

Against the forward pass alone, on the same engine, cores and pictures; and against rclip 4.0.8, which
runs the same ONNX file on the same pictures. Pictures per second of a command come from two runs, over all
pictures and over one of them, so that starting and loading cost neither anything.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import mmrag
from benchmarks import rclip
from benchmarks.clip import exported
from benchmarks.commands import MMRAG, environment, seconds
from benchmarks.pictures import SIZES, make_jpegs
from benchmarks.report import publish
from mmrag.ingest.profile import Profile
from mmrag.models.registry import load_encoder
from mmrag.sources.image import read_image

COUNTS = {"640 x 480": 240, "1600 x 1200": 120, "4000 x 3000": 60}
ROUNDS = 3
FLICKR8K = Path(__file__).resolve().parents[2] / "shared/data/flickr8k/val-00.tar"


def folders(scratch: Path) -> dict[str, Path]:
    """Make the pictures; Flickr8k's too, where it lies beside the checkout."""
    made = {name: scratch / name.replace(" ", "") for name in COUNTS}
    for name, folder in made.items():
        make_jpegs(folder, SIZES[name], COUNTS[name])
    if FLICKR8K.is_file():
        made["Flickr8k, 500 x 375"] = scratch / "flickr8k"
        with tarfile.open(FLICKR8K) as archive:
            jpegs = [member for member in archive if member.name.endswith(".jpg")][:240]
            archive.extractall(scratch / "flickr8k", jpegs, filter="data")
    return made


def against_rclip(pictures: Path, scratch: Path, model: Path, command: Path) -> dict[str, Any]:
    """Index a folder with rclip and with mmrag, in single precision and as mmrag chooses, in turns."""
    one = scratch / f"one-{pictures.name}"
    one.mkdir()
    shutil.copy(min(pictures.iterdir()), one)
    env = environment(scratch / "cache")
    count = len(list(pictures.iterdir()))
    rates: dict[str, list[float]] = {"rclip": [], "mmrag fp32": [], "mmrag": []}
    whole: dict[str, list[float]] = {name: [] for name in rates}
    for _ in range(ROUNDS):
        for name in rates:
            taken = {}
            for folder in (one, pictures):
                with tempfile.TemporaryDirectory(dir=scratch) as home:
                    taken[folder] = _index(name, folder, Path(home), model, command, env)
            whole[name].append(taken[pictures])
            rates[name].append((count - 1) / (taken[pictures] - taken[one]))
    medians = {name: statistics.median(found) for name, found in rates.items()}
    return {
        "pictures": count,
        **{f"{name}, pictures/s": round(rate, 1) for name, rate in medians.items()},
        **{f"{name}, seconds of the whole command": round(statistics.median(whole[name]), 2) for name in rates},
        "fp32, times rclip": round(medians["mmrag fp32"] / medians["rclip"], 2),
        "as mmrag chooses, times rclip": round(medians["mmrag"] / medians["rclip"], 2),
    }


def _index(name: str, folder: Path, home: Path, model: Path, command: Path, env: dict[str, str]) -> float:
    if name == "rclip":
        peer = {**env, **rclip.prepare(model, home / "data")}
        return seconds([command, "--top", "1", "a dog on a beach"], cwd=folder, env=peer)
    precision = ["--precision", "fp32"] if name == "mmrag fp32" else []
    return seconds([*MMRAG, "index", folder, "--model", model, "--quiet", *precision], cwd=home, env=env)


def against_forward(pictures: Path, scratch: Path, model: str, precision: str | None) -> dict[str, Any]:
    """Index a folder through the library, and run the forward pass alone on the same pictures, in turns."""
    encoder = load_encoder(model, precision=precision)
    encoder.verify()
    paths = sorted(pictures.iterdir())
    images = [read_image(path.read_bytes(), at_least=encoder.decode_at_least) for path in paths[:128]]
    pixels = np.stack([encoder.preprocess(image) for image in images])
    encoder.encode_pixels(pixels[:32])
    whole, forward, profile = [], [], Profile()
    for turn in range(ROUNDS):
        start = time.perf_counter()
        encoder.encode_pixels(pixels)
        forward.append(len(pixels) / (time.perf_counter() - start))
        index = mmrag.create(scratch / f"home-{turn}", model=model, precision=precision)
        _ = index.encoder.encode_pixels(pixels[:32])
        start = time.perf_counter()
        index.add(pictures, profile=profile)
        whole.append(len(paths) / (time.perf_counter() - start))
        shutil.rmtree(index.home)
    return {
        "engine": f"{encoder.engine} {encoder.precision}",
        "pictures/s": round(statistics.median(whole), 1),
        "forward pass alone, pictures/s": round(statistics.median(forward), 1),
        "fraction of the limit": round(statistics.median(whole) / statistics.median(forward), 3),
        "milliseconds per picture, of a thread": {
            one.stage: round(1000 * one.seconds / one.items, 2) for one in profile.times() if one.items
        },
    }


def main() -> None:
    model, command = exported(), rclip.install()
    report: dict[str, Any] = {"rclip": {}, "limit": {}}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        made = folders(scratch / "pictures")
        env = environment(scratch / "cache")
        warm = scratch / "warm"
        warm.mkdir()  # engines are measured once per machine and model; here
        seconds([*MMRAG, "index", made["640 x 480"], "--model", model, "--quiet"], cwd=warm, env=env)
        for size, pictures in made.items():
            report["rclip"][size] = against_rclip(pictures, scratch, model, command)
            print(size, json.dumps(report["rclip"][size], indent=1), flush=True)
            for label, reference, precision in (
                ("ViT-B-32-256 fp32", str(model), "fp32"),
                ("ViT-B-32-256 as chosen", str(model), None),
                ("built-in fp32", "builtin", "fp32"),
                ("built-in as chosen", "builtin", None),
            ):
                found = against_forward(pictures, scratch, reference, precision)
                report["limit"].setdefault(label, {})[size] = found
                print(size, label, json.dumps(found), flush=True)
    publish("indexing", report)


if __name__ == "__main__":
    main()
