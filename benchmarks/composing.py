"""What do "+", --without and --like do? Measured with names of things that captions of Flickr8k mention.

    python -m benchmarks.composing                 # about two minutes on two idle cores

A picture shows a thing if one of its five captions names it (names.txt). That misses what nobody mentioned, so the
shares are too low, for all queries alike. How much an exclusion counts is chosen on one half of the pictures, and all
is shown for both. Each query is asked of its half, and the first ten are looked at:

- without: "a dog" without "a ball", for all pairs that occur together in at least five pictures; and captions, without
  what their picture does not show but three of the first ten do: does it go away, and does the picture stay?
- rejecting: the same, and the built-in matcher judges the best 32 for what is not wanted
- plus: captions that do not name a thing that their picture shows, with the thing added
- parts: "a dog" + "a ball" against "a dog and a ball", and two captions of a picture against both as one text
- like: a picture that shows a dog and no ball, with "a ball": are dogs with balls found? Terms count by standard
  scores, as mmrag does it, or by their cosines
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import publish
from mmrag.models.registry import load_encoder, load_matcher
from mmrag.roles import Vectors
from mmrag.search.compose import EXCLUSION, compose
from mmrag.search.judge import judge_pairs, picture_blocks
from mmrag.search.rerank import REJECTED
from mmrag.sources.image import read_image
from mmrag.sources.pairs import Pair, read_pairs

HITS = 10
JUDGED = 32
TOGETHER = 5
LEFT = 10
STRENGTHS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
WEIGHTS = (0.25, 0.5, 1.0, 2.0)

Spread = Callable[[Vectors], float]


@dataclass(frozen=True)
class Half:
    """Half of the pictures, with what they show.

    Attributes
    ----------
    pairs : list of Pair
        The pictures and their captions.
    pictures : float32 ``(pictures, dimension)``
        Unit vectors.
    captions : float32 ``(pictures, 5, dimension)``
        Unit vectors.
    names : dict of str to float32 ``(dimension,)``
        Of things that enough pictures show: "a dog".
    shown : dict of str to bool ``(pictures,)``
        Which pictures show them.
    """

    pairs: list[Pair]
    pictures: Vectors
    captions: Vectors
    names: dict[str, Vectors]
    shown: dict[str, np.ndarray]

    def best(self, vector: Vectors, *, but: int | None = None, most: int = HITS) -> np.ndarray:
        """Find the pictures that are most similar to a query, without one of them."""
        scores = self.pictures @ vector
        if but is not None:
            scores[but] = -np.inf
        return np.argsort(-scores, kind="stable")[:most]

    def spread(self, vector: Vectors) -> float:
        """Tell the standard deviation of a query's cosines, as `mmrag.search.compose.corpus_spread` does."""
        return float((self.pictures @ vector).std())

    def pairs_of_names(self) -> Iterator[tuple[str, str]]:
        """Name two things that are shown together, and the first often enough alone."""
        for one, shown in self.shown.items():
            for other, also in self.shown.items():
                if one != other and (shown & also).sum() >= TOGETHER and (shown & ~also).sum() >= LEFT:
                    yield one, other

    def says(self, picture: int, caption: int, name: str) -> bool:
        """Tell whether a caption names a thing."""
        return bool(_forms(name) & _words([self.pairs[picture].texts[caption]]))


def read_halves(paths: list[Path]) -> list[Half]:
    encoder = load_encoder("builtin")
    pairs = list(read_pairs(paths))
    images = (read_image(one.image, at_least=encoder.decode_at_least) for one in pairs)
    pictures = np.concatenate([encoder.encode_image(list(islice(images, 64))) for _ in range(0, len(pairs), 64)])
    captions = encoder.encode_query([text for one in pairs for text in one.texts[:5]]).reshape(len(pairs), 5, -1)
    lines = Path(__file__).with_name("names.txt").read_text("utf-8").splitlines()
    names = [f"{'an' if one[0] in 'aeiou' else 'a'} {one}" for one in lines]
    vectors = dict(zip(names, encoder.encode_query(names), strict=True))
    said = [_words(one.texts) for one in pairs]
    shown = {name: np.array([bool(_forms(name) & words) for words in said]) for name in names}
    return [_half(pairs, pictures, captions, vectors, shown, slice(n, None, 2)) for n in (0, 1)]


def _half(
    pairs: list[Pair],
    pictures: Vectors,
    captions: Vectors,
    names: dict[str, Vectors],
    shown: dict[str, np.ndarray],
    part: slice,
) -> Half:
    enough = {name: here[part] for name, here in shown.items() if here[part].sum() >= TOGETHER}
    return Half(pairs[part], pictures[part], captions[part], {name: names[name] for name in enough}, enough)


def _words(texts: Iterable[str]) -> set[str]:
    return set(re.findall(r"[a-z]+", " ".join(texts).lower()))


def _forms(name: str) -> set[str]:
    noun = name.split()[1]
    return {noun, f"{noun}s"}


def without(half: Half, strength: float) -> dict[str, float]:
    """Ask for one thing without another."""
    asked = [
        (one, other, half.best(_less(half, half.names[one], other, strength))) for one, other in half.pairs_of_names()
    ]
    return _alone(half, asked)


def _less(half: Half, vector: Vectors, unwanted: str, strength: float) -> Vectors:
    unwanted_parts = [(strength / EXCLUSION, half.names[unwanted])] if strength else []
    return compose([(1.0, vector)], unwanted_parts, spread=half.spread)


def _alone(half: Half, asked: list[tuple[str, str, np.ndarray]]) -> dict[str, float]:
    wanted = [half.shown[one][best].mean() for one, _, best in asked]
    unwanted = [half.shown[other][best].mean() for _, other, best in asked]
    alone = [(half.shown[one] & ~half.shown[other])[best].mean() for one, other, best in asked]
    return _percent(wanted=wanted, unwanted=unwanted, as_asked=alone) | {"queries": len(asked)}


def rejecting(half: Half, strength: float, contained: dict[str, np.ndarray]) -> dict[str, float]:
    """Ask for one thing without another, and leave out what the matcher believes to contain it."""
    asked = []
    for one, other in half.pairs_of_names():
        best = half.best(_less(half, half.names[one], other, strength), most=JUDGED + HITS)
        kept = (contained[other][best] < REJECTED) | (np.arange(len(best)) >= JUDGED)
        asked.append((one, other, best[kept][:HITS]))
    return _alone(half, asked)


def judge(half: Half) -> dict[str, np.ndarray]:
    """Let the built-in matcher say how likely each thing is in each picture."""
    matcher = load_matcher("builtin")
    images = ((n, read_image(one.image, at_least=matcher.decode_at_least)) for n, one in enumerate(half.pairs))
    every = np.array([(name, n) for name in range(len(half.names)) for n in range(len(half.pairs))])
    judged = judge_pairs(matcher, list(half.names), every, picture_blocks(matcher, images), cosines=False)
    return dict(zip(half.names, judged.probabilities.reshape(len(half.names), -1), strict=True))


def captions_without(half: Half, strength: float) -> dict[str, float]:
    """Ask for a caption without what its picture does not show, but what it finds does."""
    unwanted, stays = [], []
    for n in range(len(half.pairs)):
        vector = half.captions[n, n % 5]
        first = half.best(vector)
        for name, shown in half.shown.items():
            if shown[n] or shown[first].mean() < 0.3:
                continue
            best = half.best(_less(half, vector, name, strength))
            unwanted.append(shown[best].mean())
            stays.append(n in best)
    return _percent(unwanted=unwanted, own_picture=stays) | {"queries": len(stays)}


def plus(half: Half, weight: float) -> dict[str, float]:
    """Ask for a caption, with a thing that its picture shows and it does not name."""
    added, stays = [], []
    for n in range(len(half.pairs)):
        for name, shown in half.shown.items():
            if shown[n] and not half.says(n, n % 5, name):
                more = [(weight, half.names[name])] if weight else []
                best = half.best(compose([(1.0, half.captions[n, n % 5]), *more], [], spread=half.spread))
                added.append(shown[best].mean())
                stays.append(n in best)
    return _percent(added=added, own_picture=stays) | {"queries": len(stays)}


def parts(half: Half) -> dict[str, Any]:
    """Ask for two things in two terms, or in one."""
    encoder = load_encoder("builtin")
    both = [pair for pair in half.pairs_of_names() if pair[0] < pair[1]]
    joined = encoder.encode_query([f"{one} and {other}" for one, other in both])
    sums = [compose([(1.0, half.names[one]), (1.0, half.names[other])], [], spread=half.spread) for one, other in both]
    show = [half.shown[one] & half.shown[other] for one, other in both]
    things = {
        name: [shown[half.best(vector)].mean() for shown, vector in zip(show, vectors, strict=True)]
        for name, vectors in (("A + B", sums), ("A and B", joined), ("A", [half.names[one] for one, _ in both]))
    }
    texts = encoder.encode_query([f"{one.texts[0]} {one.texts[1]}" for one in half.pairs])
    pairs = [compose([(1.0, one[0]), (1.0, one[1])], [], spread=half.spread) for one in half.captions]
    asked = {"first + second": pairs, "as one text": texts, "first": half.captions[:, 0]}
    return {
        "both things, % of the first 10": _percent(**things) | {"queries": len(both)},
        "captions, R@1": _percent(
            **{name: [n in half.best(one, most=1) for n, one in enumerate(vectors)] for name, vectors in asked.items()}
        ),
    }


def like(half: Half, weight: float | None, spread: Spread, *, words: bool = True) -> dict[str, float]:
    """Ask for a picture of one thing, of weight 1 or none, with the words for another."""
    chance = np.random.default_rng(0)
    first, second, both = [], [], []
    for one, other in half.pairs_of_names():
        here, there = half.shown[one], half.shown[other]
        for n in chance.permutation(np.flatnonzero(here & ~there))[:3].tolist():
            wanted = [(weight, half.pictures[n])] if weight else []
            wanted += [(1.0, half.names[other])] if words else []
            best = half.best(compose(wanted, [], spread=spread), but=n)
            first.append(here[best].mean())
            second.append(there[best].mean())
            both.append((here & there)[best].mean())
    return _percent(pictures_thing=first, words_thing=second, both=both) | {"queries": len(both)}


def _percent(**shares: list[Any]) -> dict[str, float]:
    return {name: round(100 * float(np.mean(values)), 1) for name, values in shares.items()}


def _no_spread(_: Vectors) -> float:
    return 1.0


def measure(half: Half) -> dict[str, Any]:
    """All that needs no matcher."""
    return {
        "A without B, by strength": {str(one): without(half, one) for one in STRENGTHS},
        "caption without B, by strength": {str(one): captions_without(half, one) for one in STRENGTHS},
        "caption + B, by weight": {str(one): plus(half, one) for one in (0.0, *WEIGHTS)},
        "parts": parts(half),
        "like a picture of A, and B": {
            "picture alone": like(half, 1.0, half.spread, words=False),
            "words alone": like(half, None, half.spread),
            "standard scores, by the picture's weight": {str(one): like(half, one, half.spread) for one in WEIGHTS},
            "cosines, by the picture's weight": {str(one): like(half, one, _no_spread) for one in WEIGHTS},
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, nargs="+", default=[Path("../shared/data/flickr8k/val-00.tar")])
    options = parser.parse_args()
    chosen_on, other = read_halves(options.pairs)
    contained = judge(other)
    reject = partial(rejecting, other, contained=contained)
    report = {
        "chosen": {"strength of an exclusion": EXCLUSION, "rejected from probability": REJECTED},
        "the half it was chosen on": measure(chosen_on),
        "the other half": measure(other)
        | {"A without B, rejected by the built-in matcher, by strength": {str(one): reject(one) for one in STRENGTHS}},
    }
    publish("composing", report)
    for what, figures in report["the other half"].items():
        print(what, *(f"  {name:<16} {value}" for name, value in figures.items()), sep="\n")


if __name__ == "__main__":
    main()
