"""How fast indexing and a cold search are, each against its own limit in the same run.

    python -m benchmarks.speed

- Indexing 640 × 480 JPEGs, files → committed rows, against the forward pass alone on the same pictures.
- A cold `mmrag search` (a new process) over 100,000 rows, against an empty Typer command that imports the same modules.
- A warm search through the library, the text encoder included, against LanceDB's own scan of the same rows.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import mmrag
from benchmarks.report import publish
from mmrag.models.registry import load_encoder
from mmrag.sources.image import read_image
from mmrag.stores.rows import Row
from mmrag.stores.table import Table

PICTURES = 400
ROWS = 100_000
ROUNDS = 7

FLOOR = """
import typer, numpy, pyarrow, onnxruntime, tokenizers
app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
@app.command()
def search(words: str) -> None: ...
app()
"""


def make_jpegs(folder: Path) -> None:
    """Write pictures with the weight of real photographs: smooth noise at several scales, about 70 kB each."""
    random = np.random.default_rng(0)
    for n in range(PICTURES):
        image = np.zeros((480, 640, 3))
        for scale in (5, 20, 80, 320):
            noise = random.uniform(0, 255, (max(2, scale * 3 // 4), scale, 3)).astype(np.uint8)
            image += np.asarray(Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC), float) / scale**0.3
        image = (image - image.min()) / (image.max() - image.min()) * 255
        Image.fromarray(image.astype(np.uint8)).save(folder / f"{n:04}.jpg", quality=85)


def indexing(folder: Path) -> dict[str, Any]:
    make_jpegs(folder)
    encoder = load_encoder("builtin")
    files = sorted(folder.iterdir())
    pixels = np.stack([encoder.preprocess(read_image(path.read_bytes())) for path in files[:64]])
    encoder.encode_pixels(pixels[:16])
    whole, forward = [], []
    for round_ in range(3):
        start = time.perf_counter()
        encoder.encode_pixels(pixels)
        forward.append(len(pixels) / (time.perf_counter() - start))
        index = mmrag.create(folder.parent / f"index{round_}", model="builtin")
        _ = index.encoder.encode_pixels(pixels[:1])
        start = time.perf_counter()
        index.add(folder)
        whole.append(len(files) / (time.perf_counter() - start))
    return {
        "kilobytes per picture": round(sum(path.stat().st_size for path in files) / len(files) / 1000, 1),
        "pictures/s": round(statistics.median(whole), 1),
        "forward pass alone, pictures/s": round(statistics.median(forward), 1),
        "fraction of the limit": round(statistics.median(whole) / statistics.median(forward), 3),
    }


def fill(home: Path) -> mmrag.Index:
    """Make an index of random unit vectors; only their number matters here."""
    index = mmrag.create(home, model="builtin")
    dimension = index.encoder.card.dimension
    random = np.random.default_rng(1)
    table = Table(index.folder / "table", dimension)
    for start in range(0, ROWS, 20_000):
        vectors = random.normal(size=(20_000, dimension)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        rows = [
            Row(id=f"i{start + n}", uri=f"images/{start + n}.jpg", modality="image", size=1, mtime_ns=1, vector=vector)
            for n, vector in enumerate(vectors)
        ]
        table.upsert(rows)
    index.refresh()
    return index


def cold_search(home: Path) -> dict[str, Any]:
    floor_script = home / "floor.py"
    floor_script.write_text(FLOOR)
    search = [sys.executable, "-m", "mmrag.cli.main", "search", "a dog on a beach"]
    times = interleaved({"search": search, "floor": [sys.executable, str(floor_script), "a dog"]}, home)
    peak = subprocess.run(
        [sys.executable, "-c", PEAK, *search], cwd=home, capture_output=True, text=True, check=True
    ).stdout.split()[-1]
    return {
        "seconds": round(times["search"], 3),
        "floor, seconds": round(times["floor"], 3),
        "ratio to the floor": round(times["search"] / times["floor"], 2),
        "peak memory, MB (mapped vectors included)": round(int(peak) / 1000, 1),
    }


PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def interleaved(commands: dict[str, list[str]], folder: Path) -> dict[str, float]:
    """Median seconds of each command, run in turns."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS + 1):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, env=os.environ)
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def warm_search(index: mmrag.Index) -> dict[str, Any]:
    table: Any = Table(index.folder / "table", index.encoder.card.dimension)._table
    vector = index.encoder.encode_text(["a dog on a beach"])[0]
    ours = timed(lambda: index.search("a dog on a beach", k=10))
    theirs = timed(lambda: table.search(vector).metric("cosine").limit(10).to_arrow())
    return {
        "milliseconds, text encoder included": round(ours * 1000, 2),
        "LanceDB's scan without encoding, milliseconds": round(theirs * 1000, 2),
        "times faster": round(theirs / ours, 1),
    }


def timed(function: Callable[[], object]) -> float:
    times = []
    for _ in range(30):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times[5:])


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        pictures = Path(scratch, "pictures")
        pictures.mkdir()
        report = {"indexing 640 x 480": indexing(pictures)}
        home = Path(scratch, "large")
        index = fill(home)
        report[f"cold search, {ROWS:,} rows"] = cold_search(home)
        report[f"warm search, {ROWS:,} rows"] = warm_search(index)
    publish("speed", report)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
