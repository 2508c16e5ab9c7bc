"""When is nothing here what was asked for? Fits and measures the probabilities that a model's card gives hits.

    python -m benchmarks.nothing                    # measures, on held-out pictures and queries
    python -m benchmarks.nothing --fit              # and writes [calibration] into the model's card
    python -m benchmarks.nothing --model ./trained-on-00-04 --fit --card mmrag/models/builtin

The pictures must be ones that the model was not trained on: fit with a model that has not seen train-05, and give the
calibration to its successor (--card). Half of the pictures make an index, and four kinds of queries are asked:

- captions of pictures that are in it, and of the other half;
- names ("a dog"), in names.txt, of what pictures show: a picture matches that says so in one of its five captions. The
  same names are asked of the index without all pictures that match;
- names of other domains, in outside.txt: documents, medicine, software, astronomy, cooking steps …

A hit of a caption matches if it is its own picture, or one with a caption of nearly the same words (a cosine of text to
text of at least .7): many pictures have the same content, and the data has no better judge. What is fitted on one half
is measured on the other. The false alarms that are listed, 100 of them, want looking at: many are true matches.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import publish
from mmrag.models.cards import Calibration, read_card
from mmrag.models.export import write_card
from mmrag.models.registry import load_encoder
from mmrag.search.likelihood import probability
from mmrag.sources.image import read_image
from mmrag.sources.pairs import Pair, read_pairs

HITS = 10
SAME_WORDS = 0.7
KEPT = 0.95
FALSE_ALARMS = 100
_LOOKED_AT = {"outside": 33, "names, held out": 33, "captions, held out": FALSE_ALARMS}


@dataclass(frozen=True)
class Asked:
    """Queries of one kind, and their best hits.

    Attributes
    ----------
    words : list of str
        What was asked, n times.
    cosines : float32 ``(n, hits)``
        Of the best, descending.
    matches : bool ``(n, hits)``
        Which of them match.
    rows : int64 ``(n, hits)``
        Which pictures those are.
    """

    words: list[str]
    cosines: np.ndarray
    matches: np.ndarray
    rows: np.ndarray

    @property
    def features(self) -> np.ndarray:
        """One, the cosine and the logarithm of the number of words, ``(n, hits, 3)``."""
        lengths = np.log([len(one.split()) for one in self.words])[:, None]
        return np.stack(np.broadcast_arrays(1.0, self.cosines, lengths), axis=-1)

    def best(self, calibration: Calibration) -> np.ndarray:
        """Probability of the likeliest hit of each query, ``(n,)``."""
        lengths = [len(one.split()) for one in self.words]
        first = self.cosines[:, 0].tolist()
        return np.array([probability(calibration, cosine, n) for cosine, n in zip(first, lengths, strict=True)])


@dataclass(frozen=True)
class Corpus:
    """Pictures with their captions, and everything's vectors."""

    pairs: list[Pair]
    pictures: np.ndarray
    captions: list[str]
    vectors: np.ndarray
    owner: np.ndarray
    names: dict[str, np.ndarray]
    name_vectors: np.ndarray
    outside: list[str]
    outside_vectors: np.ndarray


def read_corpus(paths: list[Path], model: str) -> Corpus:
    encoder = load_encoder(model)
    pairs = list(read_pairs(paths))
    pictures = np.concatenate(
        [encoder.encode_image([read_image(one.image) for one in pairs[i : i + 64]]) for i in range(0, len(pairs), 64)]
    )
    said = [set(re.findall(r"[a-z]+", " ".join(one.texts).lower())) for one in pairs]
    shown = {name: np.array([bool({name, f"{name}s"} & words) for words in said]) for name in _lines("names.txt")}
    names = {f"{'an' if name[0] in 'aeiou' else 'a'} {name}": found for name, found in shown.items()}
    captions = [text for one in pairs for text in one.texts]
    outside = _lines("outside.txt")
    return Corpus(
        pairs=pairs,
        pictures=pictures,
        captions=captions,
        vectors=encoder.encode_query(captions),
        owner=np.repeat(np.arange(len(pairs)), [len(one.texts) for one in pairs]),
        names=names,
        name_vectors=encoder.encode_query(list(names)),
        outside=outside,
        outside_vectors=encoder.encode_query(outside),
    )


def _lines(name: str) -> list[str]:
    return Path(__file__).with_name(name).read_text("utf-8").splitlines()


def ask(corpus: Corpus, half: int) -> dict[str, Asked]:
    """Ask an index of every other picture, from `half` on, all kinds of queries."""
    index = np.arange(half, len(corpus.pairs), 2)
    mine = corpus.owner % 2 == half
    captions = np.array(corpus.captions)
    like = corpus.vectors @ corpus.vectors.T >= SAME_WORDS
    alike = np.stack([like[:, corpus.owner == row].any(axis=1) for row in index], axis=1)  # (captions, index)
    alike |= corpus.owner[:, None] == index
    there, absent = [], []
    for n, (name, shown) in enumerate(corpus.names.items()):
        if not shown[index].any():
            continue
        vector, without = corpus.name_vectors[n : n + 1], index[~shown[index]]
        there.append(_found([name], vector, corpus, index, shown[index][None]))
        absent.append(_found([name], vector, corpus, without, np.zeros((1, len(without)), bool)))
    nothing = np.zeros((len(corpus.outside), len(index)), bool)
    return {
        "captions, in the index": _found(captions[mine].tolist(), corpus.vectors[mine], corpus, index, alike[mine]),
        "captions, held out": _found(captions[~mine].tolist(), corpus.vectors[~mine], corpus, index, alike[~mine]),
        "names, in the index": _joined(there),
        "names, held out": _joined(absent),
        "outside": _found(corpus.outside, corpus.outside_vectors, corpus, index, nothing),
    }


def _found(words: list[str], vectors: np.ndarray, corpus: Corpus, index: np.ndarray, matches: np.ndarray) -> Asked:
    scores = vectors @ corpus.pictures[index].T
    best = np.argsort(-scores, axis=1, kind="stable")[:, :HITS]
    return Asked(words, np.take_along_axis(scores, best, 1), np.take_along_axis(matches, best, 1), index[best])


def _joined(parts: list[Asked]) -> Asked:
    joined = (np.concatenate([getattr(one, name) for one in parts]) for name in ("cosines", "matches", "rows"))
    return Asked([word for one in parts for word in one.words], *joined)


def fit(kinds: list[dict[str, Asked]], data: str) -> Calibration:
    """Fit a logistic regression, each kind of query weighing the same, by Newton's method.

    The operating point keeps `KEPT` of the queries whose picture is there, of captions and of names each.
    """
    asked = [one for some in kinds for one in some.values()]
    features = np.concatenate([one.features.reshape(-1, 3) for one in asked])
    matches = np.concatenate([one.matches.ravel() for one in asked]).astype(np.float64)
    share = np.concatenate([np.full(one.matches.size, 1 / one.matches.size) for one in asked]) * len(features)
    weights = np.zeros(3)
    for _ in range(50):
        chance = 1 / (1 + np.exp(-features @ weights))
        slope = features.T @ (share * (matches - chance)) - 1e-3 * weights
        curve = (features * (share * chance * (1 - chance))[:, None]).T @ features + 1e-3 * np.eye(3)
        weights += np.linalg.solve(curve, slope)
    bias, cosine, words = (round(float(one), 3) for one in weights)
    fitted = Calibration(bias, cosine, words, 0.0, data)
    there = [[one for kind, one in some.items() if "in the index" in kind] for some in kinds]
    least = min(float(np.quantile(one.best(fitted), 1 - KEPT)) for some in there for one in some)
    return dataclasses.replace(fitted, least=round(least, 4))


def measure(calibration: Calibration, kinds: dict[str, Asked]) -> dict[str, Any]:
    """AUROC of the likeliest hit's probability, the operating point, and how well probabilities are kept."""
    best = {kind: one.best(calibration) for kind, one in kinds.items()}
    pairs = [
        ("captions, in the index", "captions, held out"),
        ("names, in the index", "names, held out"),
        ("captions, in the index", "outside"),
        ("names, in the index", "outside"),
    ]
    return {
        "AUROC": {f"{there} | {absent}": round(auroc(best[there], best[absent]), 3) for there, absent in pairs},
        "said to be likely, % of queries": {
            kind: round(100 * float((found >= calibration.least).mean()), 1) for kind, found in best.items()
        },
        "reliability": reliability(calibration, list(kinds.values())),
    }


def auroc(higher: np.ndarray, lower: np.ndarray) -> float:
    """Share of pairs in which the first is higher; equal ones count half."""
    compared = higher[:, None] - lower
    return float(((compared > 0) + 0.5 * (compared == 0)).mean())


def reliability(calibration: Calibration, asked: list[Asked]) -> list[dict[str, float]]:
    """Of hits of about the same probability, the mean probability and the share that matches."""
    weights = np.array([calibration.bias, calibration.cosine, calibration.words])
    chance = np.concatenate([(1 / (1 + np.exp(-one.features @ weights))).ravel() for one in asked])
    matches = np.concatenate([one.matches.ravel() for one in asked])
    bins = np.minimum((10 * chance).astype(int), 9)
    return [
        {
            "hits": int((bins == n).sum()),
            "probability": round(float(chance[bins == n].mean()), 3),
            "match": round(float(matches[bins == n].mean()), 3),
        }
        for n in np.unique(bins)
    ]


def false_alarms(calibration: Calibration, kinds: dict[str, Asked], corpus: Corpus) -> list[dict[str, Any]]:
    """List queries whose picture is not there and for which something is likely all the same, drawn by lot.

    Other domains and names come first; captions, which have the most, fill up the rest.
    """
    chance = np.random.default_rng(0)
    chosen: list[dict[str, Any]] = []
    for kind, most in _LOOKED_AT.items():
        best = kinds[kind].best(calibration)
        alarms = chance.permutation(np.flatnonzero(best >= calibration.least))
        for n in alarms[: min(most, FALSE_ALARMS - len(chosen))].tolist():
            pair = corpus.pairs[kinds[kind].rows[n, 0]]
            about = {"kind": kind, "asked": kinds[kind].words[n], "probability": round(float(best[n]), 3)}
            chosen.append({**about, "found": pair.id, "its caption": pair.texts[0]})
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--pairs", type=Path, nargs="+", default=[Path("../shared/data/flickr8k/train-05.tar")])
    parser.add_argument("--fit", action="store_true", help="write [calibration] into the card")
    parser.add_argument("--card", type=Path, help="folder of the card to write; by default the model's own")
    options = parser.parse_args()
    corpus = read_corpus(options.pairs, options.model)
    halves = [ask(corpus, 0), ask(corpus, 1)]
    data = f"{', '.join(path.stem for path in options.pairs)}, names and other domains: benchmarks/nothing.py"
    trial, fitted = fit(halves[:1], data), fit(halves, data)
    report = {
        "model": Path(options.model).name,
        "fitted on one half": dataclasses.asdict(trial),
        "measured on the other": measure(trial, halves[1]),
        "fitted on both": dataclasses.asdict(fitted),
        "false alarms": false_alarms(trial, halves[1], corpus),
    }
    publish("nothing", report)
    for kind, said in report["measured on the other"].items():
        print(kind, said, sep="\n  ")
    if options.fit:
        folder = options.card or load_encoder(options.model).folder
        write_card(dataclasses.replace(read_card(folder), calibration=fitted), folder)
        print(f"{fitted} → {folder}")


if __name__ == "__main__":
    main()
