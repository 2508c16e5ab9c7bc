"""What words beside vectors are worth: Flickr8k's photographs, each with one caption, asked for with another.

    python -m benchmarks.hybrid --flickr8k ../shared/data/flickr8k

The vector of a photograph is that of its pixels; its first caption is the text that BM25 sees, and the second caption
asks. R@k of vectors alone, of BM25 alone, and of both, fused by reciprocal ranks and by weights, over the same
index in the same run; and how long a query takes, once the index is open.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mmrag
from benchmarks.report import publish
from mmrag.search.hybrid import content_words
from mmrag.search.pipeline import Pipeline, Recall
from mmrag.sources.pairs import read_pairs
from mmrag.stores.view import View
from mmrag.stores.words import WordsView

K = 10
PIPELINES = {
    "vectors": Recall(),
    "rrf": Recall(words="rrf"),
    **{f"weights, words {share}": Recall(words="weights", words_weight=share) for share in (0.3, 0.5)},
}


def measure(flickr8k: Path, home: Path, asked: int | None) -> dict[str, Any]:
    """Index the photographs with their first captions, and ask for the first of them with their second."""
    pairs = list(read_pairs([flickr8k / "val-00.tar"]))
    index = mmrag.create(home, model="builtin")
    index.add([mmrag.Item(f"{n}", id=f"{n}", image=one.image, text=one.texts[0]) for n, one in enumerate(pairs)])
    queries = [one.texts[1] for one in pairs][:asked]
    index.search(queries[0], pipeline="hybrid")  # makes the full-text index
    report: dict[str, Any] = {"photographs": len(pairs), "queries": len(queries), "encoder": index.manifest.model}
    for name, recall in PIPELINES.items():
        pipeline = Pipeline(recall=recall)
        report[name] = figures(queries, lambda query, pipeline=pipeline: uris(index.search(query, pipeline=pipeline)))
    report["BM25"] = figures(queries, by_words(index._view, home / ".mmrag" / "views" / "words"))
    return report


def uris(hits: Sequence[mmrag.Hit]) -> list[str]:
    return [hit.item.uri for hit in hits]


def by_words(view: View, folder: Path) -> Callable[[str], list[str]]:
    """Search by BM25 alone."""
    full_text = WordsView.open(folder)
    names = {stamp: uri for _, stamp, uri in view.scan(("stamp", "uri"))}
    return lambda query: [names[stamp] for stamp in full_text.search(content_words(query), K)[1].tolist()]


def figures(queries: Sequence[str], search: Callable[[str], list[str]]) -> dict[str, float]:
    """Recall in percent, and the median time of a query in milliseconds."""
    ranks, seconds = [], []
    for number, query in enumerate(queries):
        start = time.perf_counter()
        found = search(query)
        seconds.append(time.perf_counter() - start)
        ranks.append(found.index(str(number)) if str(number) in found else K)
    recall = {f"R@{k}": round(100 * sum(rank < k for rank in ranks) / len(ranks), 1) for k in (1, 5, 10)}
    return {**recall, "median ms": round(1000 * sorted(seconds)[len(seconds) // 2], 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flickr8k", type=Path, default=Path("../shared/data/flickr8k"))
    parser.add_argument("--asked", type=int, help="ask for so many photographs only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        report = measure(options.flickr8k, Path(home), options.asked)
    for name, value in report.items():
        print(name, value)
    publish("hybrid", report)


if __name__ == "__main__":
    main()
