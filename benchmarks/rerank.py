"""Judging pairs of texts and pictures: mmrag against transformers' own loop, at the same precision, in one run.

    python -m benchmarks.rerank [--model blip] [--pictures 128] [--texts 16] [--rounds 3]

Real architectures, random weights, features of pictures given except where "from pixels" is said. Rates are pairs per
second, medians of interleaved rounds; the loops' are measured on some of the pairs, since no pair of theirs knows of
another. The limit is the time that the matrix products alone, those that sharing leaves over, would take at the rate
of a large one on this machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks.blip import written
from benchmarks.report import publish
from mmrag.models.blip import BlipRetrieval, open_blip
from mmrag.models.blip_match import absorbing_pays
from mmrag.models.blip_network import picture_states

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
    matcher : Matcher
    features : float32 array
        Of the pictures.
    from_pixels : callable
        mmrag's judgement of a list of texts with so many pictures, from their pixels.
    loops : dict of (callable, int)
        transformers' judgements of one text with so many pictures, by name, and how many are measured.
    operations : callable
        How many operations the matrix products of judging a list of texts with so many pictures take.
    """

    matcher: Any
    features: np.ndarray
    from_pixels: Callable[[list[str], int], Any]
    loops: dict[str, tuple[Callable[[str, int], Any], int]]
    operations: Callable[[list[str], int], float]


def blip(precision: str, pictures: int) -> Subject:
    import torch

    matcher = open_blip(str(written())).on_device("cpu").at_precision(precision)
    assert isinstance(matcher, BlipRetrieval)
    network, random = matcher.network, np.random.default_rng(0)
    shape = (BATCH, 3, matcher.preprocessing.height, matcher.preprocessing.width)
    pixels = matcher.tensor(random.normal(size=shape).astype(np.float32))
    features = random.normal(size=(pictures, *matcher.feature_shape)).astype(np.float32)
    states = matcher.tensor(random.normal(size=(BATCH, *matcher.feature_shape)).astype(np.float32))

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

    def from_pixels(texts: list[str], count: int) -> None:
        seen = [picture_states(network, pixels) for _ in range(0, count, BATCH)]
        matcher.match(texts, torch.cat(seen)[:count].float().numpy())

    return Subject(
        matcher=matcher,
        features=features,
        from_pixels=from_pixels,
        loops={
            "its own forward, a pair at a time": (own_forward, 4),
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


def measured(subject: Subject, texts: list[str], rounds: int, precision: str) -> dict[str, Any]:
    """Measure every way, one after another, `rounds` times, and a large matrix product beside them."""
    one, pictures = texts[:1], len(subject.features)
    some, words = min(BATCH, pictures), statistics.mean(len(text.split()) for text in texts)
    ours: dict[str, Way] = {
        "one text": (lambda: subject.matcher.match(one, subject.features), pictures),
        "many texts": (lambda: subject.matcher.match(texts, subject.features), pictures * len(texts)),
        "one text, from pixels": (lambda: subject.from_pixels(one, some), some),
        "many texts, from pixels": (lambda: subject.from_pixels(texts, some), some * len(texts)),
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
    }


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


SUBJECTS = {"blip": blip}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SUBJECTS, action="append", help="by default all")
    parser.add_argument("--precision", choices=("fp32", "bf16"), action="append", help="by default both")
    parser.add_argument("--pictures", type=int, default=128)
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    import torch

    texts = [CAPTIONS[number % len(CAPTIONS)] for number in range(given.texts)]
    report: dict[str, Any] = {"pictures": given.pictures, "texts": given.texts, "threads": torch.get_num_threads()}
    for model in given.model or SUBJECTS:
        for precision in given.precision or ("fp32", "bf16"):
            with torch.inference_mode():
                subject = SUBJECTS[model](precision, given.pictures)
                report[f"{model} {precision}"] = measured(subject, texts, given.rounds, precision)
    publish("rerank", report)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
