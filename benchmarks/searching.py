"""How soon a search answers: a new process, and a library call.

    python -m benchmarks.searching

Over 100,000 rows of random unit vectors. A cold `mmrag search` against an empty Typer command that imports the same
modules, and against `rclip --no-indexing` over as many rows of the same length with the same text tower. A warm search
against LanceDB's own scan of the same table, and against reading the vectors once.
"""

from __future__ import annotations

import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import mmrag
from benchmarks import rclip
from benchmarks.clip import exported
from benchmarks.commands import MMRAG, environment, in_turns, seconds
from benchmarks.pictures import make_jpegs
from benchmarks.report import publish
from mmrag.stores.rows import Row
from mmrag.stores.table import Table

ROWS = 100_000
ROUNDS = 11
WORDS = "a dog on a beach"

FLOOR = """
import os
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import typer, numpy, pyarrow, onnxruntime, tokenizers
app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
@app.command()
def search(words: str) -> None: ...
app()
"""

PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""

IMPORTED = """
import sys
sys.argv = ["mmrag", "search", "a dog on a beach"]
from mmrag.cli.main import main
try:
    main()
except SystemExit:
    pass
print(sorted({"torch", "transformers", "lancedb", "openvino", "PIL", "rich"} & set(sys.modules)), file=sys.stderr)
"""


def unit_vectors(dimension: int) -> np.ndarray:
    vectors = np.random.default_rng(1).normal(size=(ROWS, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def fill(home: Path, model: str) -> mmrag.Index:
    """Make an index of random unit vectors; only their number and length matter here."""
    index = mmrag.create(home, model=model)
    table = Table(index.folder / "table", index.encoder.card.dimension)
    vectors = unit_vectors(index.encoder.card.dimension)
    for start in range(0, ROWS, 20_000):
        rows = [
            Row(id=f"i{n}", uri=f"images/{n}.jpg", modality="image", size=1, mtime_ns=1, vector=vectors[n])
            for n in range(start, start + 20_000)
        ]
        table.upsert(rows)
    index.refresh()
    return index


def fill_rclip(data: Path, home: Path, command: Path, env: dict[str, str]) -> None:
    """Let rclip make its database on a picture, and put as many rows into it."""
    make_jpegs(home, (64, 64), 1)
    seconds([command, "--top", "1", WORDS], cwd=home, env=env)
    vectors = unit_vectors(512)
    with sqlite3.connect(data / "db.sqlite3") as database:
        database.executemany(
            "INSERT INTO images (filepath, modified_at, size, vector, hash) VALUES (?, 1, 1, ?, ?)",
            ((str(home / f"images/{n}.jpg"), vectors[n].tobytes(), f"{n:064}") for n in range(ROWS)),
        )
    database.close()


def cold(scratch: Path) -> dict[str, Any]:
    model, command = exported(), rclip.install()
    env = environment(scratch / "cache")
    os.environ["XDG_CACHE_HOME"] = env["XDG_CACHE_HOME"]  # where the choice of engines is remembered
    homes = {"built-in": scratch / "builtin", "ViT-B/32": scratch / "vit", "rclip": scratch / "rclip"}
    fill(homes["built-in"], "builtin")
    fill(homes["ViT-B/32"], str(model))
    peer = {**env, **rclip.prepare(model, scratch / "rclip-data")}
    fill_rclip(scratch / "rclip-data", homes["rclip"], command, peer)
    (scratch / "floor.py").write_text(FLOOR)
    search = [*MMRAG, "search", WORDS]
    commands = {
        "floor": [sys.executable, scratch / "floor.py", "a dog"],
        "built-in": search,
        "ViT-B/32": search,
        "rclip": [command, "--no-indexing", "--top", "10", WORDS],
        "--help": [*MMRAG, "--help"],
    }
    cwd = {**homes, "floor": scratch, "--help": scratch}
    times = in_turns(commands, cwd=cwd, env=dict.fromkeys(commands, env) | {"rclip": peer}, rounds=ROUNDS)
    report: dict[str, Any] = {f"{name}, seconds": round(taken, 3) for name, taken in times.items()}
    for name in ("built-in", "ViT-B/32"):
        report[f"{name}, times the floor"] = round(times[name] / times["floor"], 2)
        report[f"{name}, peak memory in MB (mapped vectors included)"] = _peak(search, homes[name], env)
    report["ViT-B/32, times faster than rclip"] = round(times["rclip"] / times["ViT-B/32"], 2)
    report["of torch, transformers, lancedb, openvino, PIL and rich imported"] = _imported(homes["built-in"], env)
    return report


def _peak(command: list[str], home: Path, env: dict[str, str]) -> float:
    watched = [sys.executable, "-c", PEAK, *command]
    done = subprocess.run(watched, cwd=home, env=env, capture_output=True, text=True, check=True)
    return round(int(done.stdout.split()[-1]) / 1000, 1)


def _imported(home: Path, env: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED], cwd=home, env=env, capture_output=True, text=True, check=True
    )
    return done.stderr.splitlines()[-1]


def warm(home: Path) -> dict[str, Any]:
    index = mmrag.open(home)
    table: Any = Table(index.folder / "table", index.encoder.card.dimension)._table
    vector = index.encoder.encode_text([WORDS])[0]
    segments = [segment.vectors for segment in index._view.segments]
    ours, theirs, encode, read = interleaved(
        lambda: index.search(WORDS, k=10),
        lambda: table.search(vector).metric("cosine").limit(10).to_arrow(),
        lambda: index.encoder.encode_text([WORDS]),
        lambda: [vectors @ vector for vectors in segments],
    )
    return {
        "milliseconds, text encoder included": round(ours * 1000, 2),
        "of these, text encoder alone": round(encode * 1000, 2),
        "of these, multiplying every vector once": round(read * 1000, 2),
        "LanceDB's scan without encoding, milliseconds": round(theirs * 1000, 2),
        "times faster": round(theirs / ours, 1),
    }


def interleaved(*functions: Callable[[], object]) -> list[float]:
    """Median seconds of each, called twenty times in its turn; the first five of a turn are not counted."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(4):
        for function, found in zip(functions, times, strict=True):
            found += timed(function)[5:]
    return [statistics.median(found) for found in times]


def timed(function: Callable[[], object]) -> list[float]:
    times = []
    for _ in range(20):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return times


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        report = {f"cold, {ROWS:,} rows": cold(scratch)}
        report[f"warm, {ROWS:,} rows, built-in"] = warm(scratch / "builtin")
        report[f"warm, {ROWS:,} rows, ViT-B/32"] = warm(scratch / "vit")
    publish("searching", report)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
