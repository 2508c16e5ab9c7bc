"""Large folders: looking at 50,000 unchanged files again, and memory while they are indexed.

    python -m benchmarks.folders

Looking again is compared with rclip 4.0.8, whose search looks at the folder first: what that costs is its search with
looking, less its search without. Both indexes hold a row for every file.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import mmrag
from benchmarks import rclip
from benchmarks.clip import exported
from benchmarks.commands import MMRAG, environment, in_turns, seconds
from benchmarks.report import publish
from mmrag.sources.uri import item_id
from mmrag.stores.rows import Row
from mmrag.stores.table import Table

FILES = 50_000
ROUNDS = 5
WORDS = "a dog on a beach"

WATCHED = """
import json, sys, mmrag
from pathlib import Path
marks = {}
def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    kinds = dict(line.split(":") for line in lines if line.startswith("Rss"))
    return {kind: int(size.split()[0]) // 1000 for kind, size in kinds.items()}
def progress(done, total):
    if done in (total // 4, total // 2, total * 3 // 4, total):
        marks[done] = resident()
index = mmrag.create(".", model="builtin")
index.add(sys.argv[1], progress=progress)
print(json.dumps(marks))
"""


def make_tiny(folder: Path) -> None:
    """Write small pictures, all different, a thousand in a folder."""
    random = np.random.default_rng(0)
    for n in range(FILES):
        if n % 1000 == 0:
            (folder / f"{n // 1000:03}").mkdir(parents=True)
        noise = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((48, 48)).save(folder / f"{n // 1000:03}" / f"{n:05}.jpg", quality=80)


def index_with_memory(home: Path, pictures: Path, env: dict[str, str]) -> dict[str, Any]:
    """Index them all with the built-in model, noting the resident memory on the way."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, pictures], cwd=home, env=env, capture_output=True, text=True, check=True
    )
    marks = {int(count): size for count, size in json.loads(done.stdout.splitlines()[-1]).items()}
    return {
        "resident MB after (RssFile: mapped vectors and libraries)": {
            f"{count:,}": sizes for count, sizes in marks.items()
        },
        "the second half adds, MB": {kind: size - marks[FILES // 2][kind] for kind, size in marks[FILES].items()},
    }


def fill(home: Path, pictures: Path) -> None:
    """Make an index with a row for every file, as if it had indexed them."""
    index = mmrag.create(home, model="builtin")
    index.add([pictures / "000"])
    table = Table(index.folder / "table", index.encoder.card.dimension)
    vector = index.encoder.encode_text([WORDS])[0]
    rows = []
    for path in sorted(pictures.rglob("*.jpg")):
        about, uri = path.stat(), str(path)
        rows.append(Row(item_id(uri), uri, "image", f"{len(rows)}", about.st_size, about.st_mtime_ns, vector=vector))
    table.upsert(rows)
    index.refresh()
    index.add([pictures])


def fill_rclip(data: Path, pictures: Path) -> None:
    """Give rclip a row for every file, as if it had indexed them."""
    vector = np.full(512, 512**-0.5, np.float32).tobytes()
    with sqlite3.connect(data / "db.sqlite3") as database:
        for n, path in enumerate(sorted(pictures.rglob("*.jpg"))):
            about = os.stat(path)
            database.execute(
                "INSERT OR REPLACE INTO images (filepath, modified_at, size, vector, hash) VALUES (?, ?, ?, ?, ?)",
                (str(path), about.st_mtime, about.st_size, vector, f"{n:064}"),
            )
    database.close()


def look_again(scratch: Path, home: Path, pictures: Path, env: dict[str, str]) -> dict[str, Any]:
    command = rclip.install()
    fill(home, pictures)
    data = scratch / "rclip-data"
    peer = {**env, **rclip.prepare(exported(), data)}
    empty = scratch / "empty"
    empty.mkdir()
    seconds([command, "--top", "1", WORDS], cwd=empty, env=peer)  # makes the database
    fill_rclip(data, pictures)
    commands = {
        "mmrag index": [*MMRAG, "index", "--quiet"],
        "rclip, looking": [command, "--top", "1", WORDS],
        "rclip, not looking": [command, "--no-indexing", "--top", "1", WORDS],
    }
    cwd = {"mmrag index": home, "rclip, looking": pictures, "rclip, not looking": pictures}
    envs = {"mmrag index": env, "rclip, looking": peer, "rclip, not looking": peer}
    times = in_turns(commands, cwd=cwd, env=envs, rounds=ROUNDS)
    looking = times["rclip, looking"] - times["rclip, not looking"]
    return {
        **{f"{name}, seconds": round(taken, 3) for name, taken in times.items()},
        "the whole command, times faster than rclip's": round(times["rclip, looking"] / times["mmrag index"], 2),
        "times faster than looking alone in rclip": round(looking / times["mmrag index"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--without-memory", action="store_true", help="leave out the ten minutes of indexing")
    options = parser.parse_args()
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        pictures, indexed, filled = scratch / "pictures", scratch / "indexed", scratch / "filled"
        make_tiny(pictures)
        env = environment(scratch / "cache")
        report[f"{FILES:,} unchanged files"] = look_again(scratch, filled, pictures, env)
        print(json.dumps(report, indent=1), flush=True)
        if not options.without_memory:
            indexed.mkdir()
            report[f"memory, indexing {FILES:,}"] = index_with_memory(indexed, pictures, env)
    publish("folders", report)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
