"""Judging pairs of texts and pictures: mmrag against transformers' own loop, at the same precision, in one run.

    python -m benchmarks.rerank [--model blip] [--precision fp32] [--pictures N] [--texts N] [--rounds 3]

Real architectures, random weights, features of pictures given except where "from pixels" is said. Rates are pairs per
second, medians of interleaved rounds; the loops' are measured on some of the pairs, since no pair of theirs knows of
another. The limit is the time that the matrix products alone, those that sharing leaves over, would take at the rate
of a large one on this machine. Of the feature cache: how far scores move if features have been kept in 16 or 8 bits,
in standard deviations of the scores over pictures. Whether it runs at all is told soonest by

    python -m benchmarks.rerank --pictures 4 --texts 2 --rounds 1 --model blip --precision fp32
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmarks.blip import blip2_in_memory, written
from benchmarks.report import publish
from mmrag.models.blip import BlipRetrieval, open_blip
from mmrag.models.blip2 import Blip2Retrieval, open_blip2
from mmrag.models.blip_base import BlipPairs
from mmrag.models.blip_match import absorbing_pays
from mmrag.stores.features import FeatureCache, Precision

CAPTIONS = (
    "a man in a red shirt is climbing a steep rock",
    "two children are playing football on a beach while the sun goes down",
    "a dog runs through the snow",
    "an old woman sells fruit at a market",
    "a black and white cat looks out of the window",
    "people are waiting for a train at night",
    "a girl jumps into a blue swimming pool",
    "three cyclists ride along a road between green fields and low hills",
)
BATCH = 16
"""Pictures that transformers' loops see at once."""

PADDED = 35
"""Tokens of every text in BLIP's own evaluation of retrieval."""

Way = tuple[Callable[[], Any], int]
"""Judges pairs, and how many."""


@dataclass(frozen=True)
class Subject:
    """A matcher, and transformers' ways of judging the same.

    Attributes
    ----------
    matcher : BlipPairs
    pixels : float32 array
        Of the pictures that are judged from pixels.
    loops : dict of (callable, int)
        transformers' judgements of one text with so many pictures, by name, and how many are measured.
    operations : callable
        How many operations the matrix products of judging a list of texts with so many pictures take.
    """

    matcher: BlipPairs
    pixels: np.ndarray
    loops: dict[str, tuple[Callable[[str, int], Any], int]]
    operations: Callable[[list[str], int], float]

    def features(self) -> np.ndarray:
        """See the pixels."""
        matcher = self.matcher
        with matcher.running() as network:
            return matcher.picture_states(network, matcher.tensor(self.pixels)).float().numpy()

    def judge(self, texts: list[str], features: np.ndarray | None = None) -> np.ndarray:
        """Give scores as to somebody who asks for the first time; from pixels where no features are given."""
        self.matcher.__dict__.pop("_remembered", None)
        return self.matcher.match(texts, self.features() if features is None else features).scores


def random_pixels(matcher: BlipPairs, count: int) -> np.ndarray:
    shape = (count, 3, matcher.preprocessing.height, matcher.preprocessing.width)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def random_features(matcher: BlipPairs, count: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, *matcher.feature_shape)).astype(np.float32)


def blip(precision: str, pictures: int) -> Subject:
    import torch

    matcher = open_blip(str(written())).on_device("cpu").at_precision(precision)
    assert isinstance(matcher, BlipRetrieval)
    network = matcher.network
    given = random_pixels(matcher, min(BATCH, pictures))
    pixels, states = matcher.tensor(given), matcher.tensor(random_features(matcher, BATCH))

    def tokens(text: str, length: int) -> dict[str, Any]:
        (ids,) = matcher.token_ids([text], "[CLS]")
        filled = torch.tensor([ids + [0] * (length - len(ids))])
        return {"input_ids": filled, "attention_mask": (filled > 0).long()}

    def own_forward(text: str, count: int) -> None:
        for one in range(count):
            network(**tokens(text, 0), pixel_values=pixels[one : one + 1])

    def vision_given(text: str, count: int, length: int) -> None:
        for start in range(0, count, BATCH):
            some = states[: count - start]
            given = {name: array.expand(len(some), -1) for name, array in tokens(text, length).items()}
            network.itm_head(network.text_encoder(**given, encoder_hidden_states=some).last_hidden_state[:, 0])

    return Subject(
        matcher=matcher,
        pixels=given,
        loops={
            "its own forward, a pair at a time": (own_forward, min(4, pictures)),
            f"vision tower given, {BATCH} pairs at a time, texts padded to {PADDED}": (
                partial(vision_given, length=PADDED),
                BATCH,
            ),
            f"vision tower given, {BATCH} pairs at a time, texts not padded": (partial(vision_given, length=0), BATCH),
        },
        operations=partial(blip_operations, matcher),
    )


def blip_operations(matcher: BlipRetrieval, texts: list[str], pictures: int) -> float:
    """Count multiplications and additions of what is left to do for each pair once everything is shared."""
    config = matcher.network.config.text_config
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    patches, heads = matcher.feature_shape[0], config.num_attention_heads
    lengths = [len(one) for one in matcher.token_ids(texts, "[CLS]")]

    def layer(readers: int) -> float:
        few = absorbing_pays(readers, patches, heads, width)
        own = 4 * width**2 + 4 * width * inner + 4 * width**2 * few  # query, output, feed-forward; absorbed maps
        reading = 4 * patches * width * (heads if few else 1)
        return readers * (own + reading) + (0 if few else 4 * patches * width**2)

    tokens = sum(lengths)
    looking = sum(8 * length * width**2 + 4 * length**2 * width for length in lengths)  # self-attention of a layer
    per_picture = (layers - 1) * (layer(tokens) + looking) + layer(len(texts))
    return per_picture * pictures + looking


def blip2(precision: str, pictures: int) -> Subject:
    import torch

    folder, weights = blip2_in_memory()
    matcher = open_blip2(str(folder)).on_device("cpu").at_precision(precision)
    assert isinstance(matcher, Blip2Retrieval)
    network = matcher.network = weights.to(matcher.dtype)
    given = random_pixels(matcher, min(2, pictures))  # a picture takes seconds
    pixels, states = matcher.tensor(given), matcher.tensor(random_features(matcher, BATCH))

    def tokens(text: str, count: int) -> dict[str, Any]:
        return {name: matcher.tensor(array).expand(count, -1) for name, array in matcher.tokenize([text]).items()}

    def own_forward(text: str, count: int) -> None:
        for one in range(count):
            network(**tokens(text, 1), pixel_values=pixels[one : one + 1], use_image_text_matching_head=True)

    def vision_given(text: str, count: int) -> None:
        for start in range(0, count, BATCH):
            some = states[: count - start]
            queries = network.query_tokens.expand(len(some), -1, -1)
            words = tokens(text, len(some))
            mask = torch.cat([torch.ones(queries.shape[:2], dtype=torch.long), words["attention_mask"]], dim=1)
            embedded = network.embeddings(input_ids=words["input_ids"], query_embeds=queries)
            hidden = network.qformer(
                query_embeds=embedded, query_length=queries.shape[1], attention_mask=mask, encoder_hidden_states=some
            ).last_hidden_state
            network.itm_head(hidden[:, : queries.shape[1]]).mean(dim=1)
            alone = network.qformer(query_embeds=queries, encoder_hidden_states=some).last_hidden_state
            network.vision_projection(alone)  # the score is logit + cosine

    return Subject(
        matcher=matcher,
        pixels=given,
        loops={
            "its own forward, a pair at a time": (own_forward, 1),
            f"vision tower given, {BATCH} pairs at a time": (vision_given, BATCH),
        },
        operations=partial(blip2_operations, matcher),
    )


def blip2_operations(matcher: Blip2Retrieval, texts: list[str], pictures: int) -> float:
    """Count as `blip_operations` does; a picture's own 32 vectors are part of the score."""
    network, (patches, seen) = matcher.network, matcher.feature_shape
    config, queries = network.config.qformer_config, network.query_tokens.shape[1]
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    looking = sum(layer.has_cross_attention for layer in network.qformer.encoder.layer)
    looks = looking * 4 * queries * width * (width + patches)  # query and output maps, and attention

    def attention(asking: int, asked: int) -> int:
        return 4 * width**2 * (asking + asked) + 4 * asking * asked * width

    def pair(length: int) -> int:  # beyond the first self-attention; in the last layer only queries are asked for
        every, feed = queries + length, 4 * width * inner
        between = (layers - 2) * attention(every, every) + attention(queries, every)
        return between + (layers - 1) * feed * every + feed * queries + looks

    lengths = [len(one) for one in matcher.ids(texts)]
    per_picture = looking * 4 * patches * seen * width + sum(pair(length) for length in lengths) + pair(0)
    return per_picture * pictures + sum(attention(queries + length, queries + length) for length in lengths)


def measured(subject: Subject, texts: list[str], pictures: int, rounds: int, precision: str) -> dict[str, Any]:
    """Measure every way, one after another, `rounds` times, and a large matrix product beside them."""
    one, some = texts[:1], len(subject.pixels)
    features = random_features(subject.matcher, pictures)
    words = statistics.mean(len(text.split()) for text in texts)
    ours: dict[str, Way] = {
        "one text": (lambda: subject.judge(one, features), pictures),
        "many texts": (lambda: subject.judge(texts, features), pictures * len(texts)),
        "one text, from pixels": (lambda: subject.judge(one), some),
        "many texts, from pixels": (lambda: subject.judge(texts), some * len(texts)),
    }
    theirs: dict[str, Way] = {name: (partial(judge, one[0], n), n) for name, (judge, n) in subject.loops.items()}
    seconds, products = interleaved({**ours, **theirs}, rounds, precision)
    rates = {name: count / seconds[name] for name, (_, count) in {**ours, **theirs}.items()}
    limits = {
        "one text": subject.operations(one, pictures) / products,
        "many texts": subject.operations(texts, pictures) / products,
    }
    return {
        "words of the one text, of many texts on average": [len(one[0].split()), words],
        "mmrag, pairs/s": {name: round(rates[name], 2) for name in ours},
        "transformers, pairs/s": {name: round(rates[name], 2) for name in theirs},
        "times as fast": {name: {loop: round(rates[name] / rates[loop], 1) for loop in theirs} for name in ours},
        "fraction of the limit": {name: round(limit / seconds[name], 2) for name, limit in limits.items()},
        "large matrix product, operations/s": f"{products:.3g}",
        "feature cache, difference in standard deviations of scores": cached(subject, texts),
    }


def cached(subject: Subject, texts: list[str]) -> dict[str, dict[str, float]]:
    """Tell how far scores move if features come out of the cache."""
    matcher, seen = subject.matcher, subject.features()
    plain, moved = subject.judge(texts, seen), {}
    with tempfile.TemporaryDirectory() as folder:
        for kept_in in get_args(Precision):
            cache = FeatureCache(
                Path(folder),
                matcher.identity,
                computed_in=matcher.precision,
                shape=matcher.feature_shape,
                limit=1 << 30,
                precision=kept_in,
            )
            kept = np.stack([cache.keep(str(number), one) for number, one in enumerate(seen)])
            off = np.abs(subject.judge(texts, kept) - plain) / plain.std(axis=1, keepdims=True)
            moved[kept_in] = {"mean": float(f"{off.mean():.2g}"), "largest": float(f"{off.max():.2g}")}
    return moved


def interleaved(ways: dict[str, Way], rounds: int, precision: str) -> tuple[dict[str, float], float]:
    """Give the median seconds of each way, and the median rate of a large matrix product."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    products = []
    for judge, _ in ways.values():  # warms up
        judge()
    for _ in range(rounds):
        for name, (judge, _) in ways.items():
            products.append(matmul_rate(precision))
            start = time.perf_counter()
            judge()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in seconds.items()}, statistics.median(products)


def matmul_rate(precision: str) -> float:
    """Measure operations per second of a large matrix product."""
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    left, right = torch.randn(2048, 768).to(dtype), torch.randn(3072, 768).to(dtype)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        torch.nn.functional.linear(left, right)
        seconds.append(time.perf_counter() - start)
    return 2 * 2048 * 768 * 3072 / statistics.median(seconds)


SUBJECTS = {"blip": blip, "blip2": blip2}
USUAL = {"blip": (128, 16), "blip2": (32, 8)}
"""How many pictures and texts, so that all together takes about ten minutes on two cores."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SUBJECTS, action="append", help="by default all")
    parser.add_argument("--precision", choices=("fp32", "bf16"), action="append", help="by default both")
    parser.add_argument("--pictures", type=int, help=f"by default {USUAL['blip'][0]}; of BLIP-2 {USUAL['blip2'][0]}")
    parser.add_argument("--texts", type=int, help=f"by default {USUAL['blip'][1]}; of BLIP-2 {USUAL['blip2'][1]}")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    import torch

    report: dict[str, Any] = {"threads": torch.get_num_threads()}
    for model in given.model or SUBJECTS:
        pictures, count = given.pictures or USUAL[model][0], given.texts or USUAL[model][1]
        texts = [CAPTIONS[number % len(CAPTIONS)] for number in range(count)]
        for precision in given.precision or ("fp32", "bf16"):
            with torch.inference_mode():
                found = measured(SUBJECTS[model](precision, pictures), texts, pictures, given.rounds, precision)
            report[f"{model} {precision}"] = {"pictures": pictures, "texts": count, **found}
    publish("rerank", report)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
