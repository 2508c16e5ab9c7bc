"""What each view takes to build and to hold, and how soon and how well it answers, beside the libraries themselves.

    python -m benchmarks.views --rows 100000
    python -m benchmarks.views --rows 1000000
    python -m benchmarks.views --flickr8k ../shared/data/flickr8k

Over unit vectors like those of pictures, asked for by vectors like those of texts (benchmarks/clouds.py), or over the
built-in model's vectors of Flickr8k. Each contestant is measured in a process of its own, and what is measured is kept
in .bench/views: a run that was stopped goes on, `--again` begins anew. Effort (nprobe, expansion) is the least of a
ladder that finds .95 of the ten best; what never gets there is shown as good as it gets. The bound is what reading the
bytes of an exact scan takes at the bandwidth of the memory, measured in the same process.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.clouds import Clouds
from benchmarks.report import RESULTS, publish
from mmrag.machine import usable_cores
from mmrag.stores.facts import facts_of
from mmrag.stores.files import size_on_disk
from mmrag.stores.registry import view_class
from mmrag.stores.rows import COLUMNS
from mmrag.stores.segment import Part, write_segment
from mmrag.stores.view_settings import ViewSettings

K = 10
QUERIES = 256
TARGET = 0.95
SECONDS = 2.0
LADDER = (4, 8, 16, 32, 64, 128, 256, 512)
CACHE = Path(".bench/views")

Search = Callable[[np.ndarray, int], np.ndarray]
"""Queries ``(n, dimension)`` and effort → numbers of rows ``(n, K)``."""


@dataclass(frozen=True)
class Contestant:
    """One way to search.

    Attributes
    ----------
    build : callable
        Writes what it needs of vectors into a folder.
    load : callable
        Opens that folder, and gives the way to search.
    most : int
        Rows that it can be built of in a few minutes.
    has_effort : bool
        Whether it may miss hits.
    """

    build: Callable[[np.ndarray, Path], None]
    load: Callable[[Path], Search]
    most: int = 2_000_000
    has_effort: bool = True


def build_view(settings: ViewSettings) -> Callable[[np.ndarray, Path], None]:
    def build(vectors: np.ndarray, folder: Path) -> None:
        numbers = np.arange(len(vectors))
        names = pa.array([f"images/{n}.jpg" for n in numbers])
        given = {"stamp": pa.array(numbers), "id": names, "uri": names, "modality": pa.array(["image"] * len(names))}
        columns = [given.get(field.name, pa.nulls(len(names), field.type)) for field in COLUMNS]
        table = pa.table(columns, schema=COLUMNS)
        part = Part(table, facts_of(table["metadata"]), vectors, numbers)
        shape = vectors.shape[1:]
        view = view_class(settings.kind)(folder, shape, settings=settings)
        view._publish([write_segment(folder, [part], shape)], 1).built()

    return build


def load_view(settings: ViewSettings) -> Callable[[Path], Search]:
    def load(folder: Path) -> Search:
        view = view_class(settings.kind).open(folder, dimension_of(folder), settings=settings)

        def search(queries: np.ndarray, effort: int, allowed: np.ndarray | None = None) -> np.ndarray:
            view.settings = replace(settings, nprobe=effort, ef_search=effort)
            return view.search(queries, K, allowed=None if allowed is None else [allowed]).refs

        return search

    return load


def dimension_of(folder: Path) -> int:
    return int(json.loads((folder / "view.json").read_text())["dimension"])


def build_faiss(factory: str) -> Callable[[np.ndarray, Path], None]:
    def build(vectors: np.ndarray, folder: Path) -> None:
        import faiss

        index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        index.train(np.array(vectors[:65_536]))
        for start in range(0, len(vectors), 65_536):
            index.add(np.array(vectors[start : start + 65_536]))
        faiss.write_index(index, str(folder / "index.faiss"))

    return build


def load_faiss(folder: Path) -> Search:
    import faiss

    faiss.omp_set_num_threads(usable_cores())
    (path,) = folder.glob("*.faiss")
    index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    lists = faiss.try_extract_index_ivf(index)

    def search(queries: np.ndarray, effort: int) -> np.ndarray:
        if lists is not None:
            lists.nprobe = effort
        return index.search(queries, K)[1]

    return search


def build_usearch(vectors: np.ndarray, folder: Path) -> None:
    from usearch.index import Index

    index = Index(ndim=vectors.shape[1], metric="ip", dtype="i8", connectivity=16, expansion_add=64)
    for start in range(0, len(vectors), 65_536):
        block = np.array(vectors[start : start + 65_536])
        index.add(np.arange(start, start + len(block)), block, threads=usable_cores())
    index.save(str(folder / "index.usearch"))


def load_usearch(folder: Path) -> Search:
    from usearch.index import Index

    index = Index.restore(str(folder / "index.usearch"), view=True)

    def search(queries: np.ndarray, effort: int) -> np.ndarray:
        index.expansion_search = effort
        return index.search(queries, K, threads=usable_cores()).keys.reshape(len(queries), -1).astype(np.int64)

    return search


def build_lancedb(indexed: bool) -> Callable[[np.ndarray, Path], None]:
    def build(vectors: np.ndarray, folder: Path) -> None:
        import lancedb
        from lancedb.index import IvfPq

        from mmrag.stores.lance_index import _batches

        schema = pa.schema([("row", pa.int64()), ("vector", pa.list_(pa.float32(), vectors.shape[1]))])
        table = lancedb.connect(folder).create_table("vectors", _batches(vectors, schema), schema=schema)
        if indexed:
            table.create_index("vector", config=IvfPq(distance_type="cosine"))

    return build


def load_lancedb(indexed: bool) -> Callable[[Path], Search]:
    def load(folder: Path) -> Search:
        import lancedb

        table = lancedb.connect(folder).open_table("vectors")

        def one(query: np.ndarray, effort: int) -> np.ndarray:
            asked = table.search(query, vector_column_name="vector").distance_type("cosine").limit(K)
            asked = asked.nprobes(effort).refine_factor(20) if indexed else asked
            return asked.select(["row", "_distance"]).to_arrow()["row"].to_numpy()

        return lambda queries, effort: np.stack([one(query, effort) for query in queries])

    return load


def of_view(settings: ViewSettings, **limits: Any) -> Contestant:
    return Contestant(build_view(settings), load_view(settings), **limits)


RAW = "IVF{lists},SQ8"
CONTESTANTS = {
    "mmrag exact": of_view(ViewSettings(), has_effort=False),
    "faiss Flat": Contestant(build_faiss("Flat"), load_faiss, has_effort=False),
    "faiss SQfp16": Contestant(build_faiss("SQfp16"), load_faiss, has_effort=False),
    "lancedb scan": Contestant(build_lancedb(False), load_lancedb(False), has_effort=False, most=200_000),
    f"mmrag faiss {RAW}": of_view(ViewSettings(kind="faiss", factory=RAW, rescore="", rescore_factor=1.0)),
    "mmrag faiss IVF{lists},PQ64x4fsr, rescored": of_view(
        ViewSettings(kind="faiss", factory="IVF{lists},PQ64x4fsr", rescore_factor=10.0)
    ),
    "mmrag faiss IVF{lists},RaBitQfs, rescored": of_view(
        ViewSettings(kind="faiss", factory="IVF{lists},RaBitQfs", rescore_factor=10.0)
    ),
    "mmrag faiss HNSW32,SQ8": of_view(ViewSettings(kind="faiss", factory="HNSW32,SQ8"), most=200_000),
    "usearch HNSW i8": Contestant(build_usearch, load_usearch, most=200_000),
    "mmrag lance IVF_PQ": of_view(ViewSettings(kind="lance", factory="IVF_PQ", rescore_factor=20.0)),
    "lancedb IVF_PQ": Contestant(build_lancedb(True), load_lancedb(True)),
}


def milliseconds(function: Callable[[int], object], seconds: float = SECONDS) -> list[float]:
    """Call it with 0, 1, 2 … for so many seconds."""
    function(0)
    times, began = [], time.perf_counter()
    while len(times) < 5 or (time.perf_counter() - began < seconds and len(times) < 1000):
        start = time.perf_counter()
        function(len(times))
        times.append(1000 * (time.perf_counter() - start))
    return times


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean([len(set(a.tolist()) & set(b.tolist())) / K for a, b in zip(found, truth, strict=True)]))


def best(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Find the ten best rows of each query by plain multiplication."""
    scores = np.concatenate([queries @ vectors[i : i + 65_536].T for i in range(0, len(vectors), 65_536)], axis=1)
    top = np.argpartition(-scores, K, axis=1)[:, :K]
    return np.take_along_axis(top, np.argsort(-np.take_along_axis(scores, top, axis=1), axis=1), axis=1)


def memory() -> dict[str, float]:
    """MB of this process, its own and of files that are mapped."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[name].split()[0]) / 1000 for name in ("RssAnon", "RssFile")}


def bandwidth(vectors: np.ndarray) -> float:
    """GB/s at which all cores together read memory."""
    words = np.array(vectors[: 1 << 17]).reshape(-1).view(np.uint64)
    parts = np.array_split(words, 8 * usable_cores())
    with ThreadPoolExecutor(usable_cores()) as threads:
        times = milliseconds(lambda _: list(threads.map(np.max, parts)), 1.0)
    return words.nbytes / 1e6 / min(times)


def with_least_effort(search: Search, queries: np.ndarray, truth: np.ndarray) -> tuple[int, float]:
    effort, found = LADDER[0], 0.0
    for effort in LADDER:
        found = recall(search(queries, effort), truth)
        if found >= TARGET:
            break
    return effort, found


def measured(name: str, data: Path) -> dict[str, Any]:
    """Measure one contestant in this process."""
    contestant, folder = CONTESTANTS[name], data / name.replace("/", "-")
    vectors, queries = np.load(data / "vectors.npy", mmap_mode="r"), np.load(data / "queries.npy")
    truth = np.load(data / "truth.npy")
    if not (folder / "built").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        start = time.perf_counter()
        contestant.build(vectors, folder)
        (folder / "built").write_text(str(time.perf_counter() - start))
        return measured_in_a_process(name, data)  # what building took of memory is no matter of searching
    before = memory()
    search = contestant.load(folder)
    search(queries[:1], LADDER[0])
    effort, found = with_least_effort(search, queries, truth) if contestant.has_effort else (LADDER[0], None)
    one = milliseconds(lambda n: search(queries[n % QUERIES][None], effort))
    after = memory()
    report: dict[str, Any] = {
        "seconds to build": round(float((folder / "built").read_text()), 1),
        "MB on disk": round(size_on_disk(folder) / 1e6, 1),
        "MB of memory, its own": round(after["RssAnon"] - before["RssAnon"], 1),
        "MB of memory, mapped files": round(after["RssFile"] - before["RssFile"], 1),
        "effort": effort if contestant.has_effort else "all rows",
        "R@10": round(recall(search(queries, effort), truth) if found is None else found, 4),
        "one query, ms": {"p50": round(statistics.median(one), 2), "p99": round(float(np.percentile(one, 99)), 2)},
        "queries per second": {f"batches of {size}": speed(search, queries[:size], effort) for size in (1, 32, 256)},
    }
    if name.startswith("mmrag"):
        report["filtered"] = filtered(search, vectors, queries, effort, statistics.median(one))
    if name == "mmrag exact":
        fastest = bandwidth(vectors)
        report["bandwidth of memory, GB/s"] = round(fastest, 1)
        report["bound by bandwidth, ms"] = {
            kind: round(vectors.size * size / 1e6 / fastest, 1)
            for kind, size in (("int8", 1), ("fp16", 2), ("fp32", 4))
        }
    if name == f"mmrag faiss {RAW}":
        report["queries per second, of FAISS's own on the same index"] = compared(search, folder, queries, effort)
    return report


def speed(search: Search, queries: np.ndarray, effort: int) -> float:
    """Measure queries per second, in batches of these."""
    return round(1000 * len(queries) / statistics.median(milliseconds(lambda _: search(queries, effort))), 1)


def filtered(search: Any, vectors: np.ndarray, queries: np.ndarray, effort: int, plain: float) -> dict[str, Any]:
    report = {}
    for share in (0.1, 0.01):
        allowed = np.random.default_rng(5).random(len(vectors)) < share
        rows = np.flatnonzero(allowed)
        truth = rows[best(np.array(vectors[rows]), queries[:64])]
        times = milliseconds(lambda n, allowed=allowed: search(queries[n % QUERIES][None], effort, allowed))
        report[f"{share:.0%}"] = {
            "p50, ms": round(statistics.median(times), 2),
            "times unfiltered": round(statistics.median(times) / plain, 2),
            "R@10": round(recall(search(queries[:64], effort, allowed), truth), 4),
        }
    return report


def compared(search: Search, folder: Path, queries: np.ndarray, effort: int) -> dict[str, float]:
    """How fast the view is, as a share of FAISS's own speed on the view's index: in turns, medians."""
    raw = load_faiss(folder)
    report = {}
    for size in (1, 32, 256):
        ratios = []
        for _ in range(15):
            start = time.perf_counter()
            raw(queries[:size], effort)
            middle = time.perf_counter()
            search(queries[:size], effort)
            ratios.append((middle - start) / (time.perf_counter() - middle))
        report[f"batches of {size}"] = round(statistics.median(ratios), 3)
    return report


def measured_in_a_process(name: str, data: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.views", "--data", str(data), "--measure", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"not measured": done.stderr.strip().splitlines()[-1]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def prepare_clouds(data: Path, rows: int, dimension: int) -> None:
    clouds = Clouds(dimension=dimension)
    vectors = np.lib.format.open_memmap(data / "vectors.npy", "w+", np.float32, (rows, dimension))
    start = 0
    for block in clouds.images(rows):
        vectors[start : start + len(block)] = block
        start += len(block)
    finish_preparing(data, vectors, clouds.queries(QUERIES))


def prepare_flickr8k(data: Path, source: Path) -> None:
    import mmrag
    from mmrag.sources.image import read_image
    from mmrag.sources.pairs import read_pairs

    encoder: Any = mmrag.load_encoder("builtin")
    vectors, texts = [], []
    for tar in sorted(source.glob("*.tar")):
        pairs = list(read_pairs([tar]))
        images = [read_image(pair.image, at_least=encoder.decode_at_least) for pair in pairs]
        vectors.append(encoder.encode_image(images))
        texts += [pair.texts[0] for pair in pairs] if tar.name.startswith("val") else []
    np.save(data / "vectors.npy", np.concatenate(vectors))
    finish_preparing(data, np.load(data / "vectors.npy"), encoder.encode_text(texts[:QUERIES]))


def finish_preparing(data: Path, vectors: np.ndarray, queries: np.ndarray) -> None:
    np.save(data / "queries.npy", queries)
    np.save(data / "truth.npy", best(vectors, queries))


def run(data: Path, prepare: Callable[[Path], None], names: Sequence[str], *, again: bool) -> dict[str, Any]:
    if again:
        shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True, exist_ok=True)
    if not (data / "truth.npy").exists():
        prepare(data)
    rows = len(np.load(data / "vectors.npy", mmap_mode="r"))
    report: dict[str, Any] = {}
    for name in names:
        kept = data / f"{name}.json"
        if rows > CONTESTANTS[name].most:
            report[name] = {"not measured": "it takes too long"}
            continue
        if not kept.exists():
            print(f"{rows:,} rows, {name}", file=sys.stderr)
            kept.write_text(json.dumps(measured_in_a_process(name, data)))
        report[name] = json.loads(kept.read_text())
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--flickr8k", type=Path)
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--measure", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measured(given.measure, given.data)))
        return
    if given.flickr8k:
        title, data = "Flickr8k, the built-in model", CACHE / "flickr8k"
        report = run(data, lambda data: prepare_flickr8k(data, given.flickr8k), given.only, again=given.again)
    else:
        title, data = f"{given.rows:,} rows × {given.dimension}", CACHE / f"{given.rows}x{given.dimension}"
        report = run(
            data, lambda data: prepare_clouds(data, given.rows, given.dimension), given.only, again=given.again
        )
    published = RESULTS / "views.json"
    others = json.loads(published.read_text())["result"] if published.exists() else {}
    publish("views", {**others, title: report})
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
