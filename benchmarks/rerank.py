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
from typing import Any

import numpy as np

from benchmarks.report import publish
from mmrag.models.blip import BlipRetrieval, open_blip
from mmrag.models.blip_match import absorbing_pays

CAPTIONS = (
    "a dog runs through the snow",
    "two children are playing football on a beach while the sun goes down",
    "a man in a red shirt is climbing a steep rock",
    "an old woman sells fruit at a market",
    "a black and white cat looks out of the window",
    "people are waiting for a train at night",
    "a girl jumps into a blue swimming pool",
    "three cyclists ride along a road between green fields and low hills",
)
PADDED = 35
"""Tokens of every text in BLIP's own evaluation of retrieval."""

Loop = Callable[[str, int], Any]


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
    loops : dict
        Judges one text with so many pictures, by name.
    sizes : dict
        How many pictures are judged by each loop in a round.
    operations : callable
        How many operations the matrix products of judging a list of texts with so many pictures take.
    """

    matcher: Any
    features: np.ndarray
    from_pixels: Callable[[list[str], int], Any]
    loops: dict[str, Loop]
    sizes: dict[str, int]
    operations: Callable[[list[str], int], float]


def blip(precision: str, pictures: int) -> Subject:
    import torch

    matcher = open_blip(str(blip_folder())).on_device("cpu").at_precision(precision)
    assert isinstance(matcher, BlipRetrieval)
    random = np.random.default_rng(0)
    shape = (16, 3, matcher.preprocessing.height, matcher.preprocessing.width)
    pixels = matcher.tensor(random.normal(size=shape).astype(np.float32))
    network = matcher.network
    features = random.normal(size=(pictures, *matcher.feature_shape)).astype(np.float32)
    states = matcher.tensor(features[:16])

    def ids(text: str, length: int = 0) -> Any:
        (tokens,) = matcher.token_ids([text], "[CLS]")
        filled = torch.tensor([tokens + [0] * (length - len(tokens))])
        return {"input_ids": filled, "attention_mask": (filled > 0).long()}

    def own_forward(text: str, count: int) -> None:
        for one in range(count):
            network(**ids(text), pixel_values=pixels[one : one + 1])

    def vision_given(length: int) -> Loop:
        def judge(text: str, count: int) -> None:
            for start in range(0, count, len(states)):
                some = states[: count - start]
                tokens = {name: array.expand(len(some), -1) for name, array in ids(text, length).items()}
                network.itm_head(network.text_encoder(**tokens, encoder_hidden_states=some).last_hidden_state[:, 0])

        return judge

    def from_pixels(texts: list[str], count: int) -> None:
        with matcher.running():
            seen = [network.vision_model(pixel_values=pixels).last_hidden_state for _ in range(0, count, len(pixels))]
            matcher.match(texts, torch.cat(seen)[:count].float().numpy())

    return Subject(
        matcher=matcher,
        features=features,
        from_pixels=from_pixels,
        loops={
            "its own forward, a pair at a time": own_forward,
            f"vision tower given, 16 pairs at a time, texts padded to {PADDED}": vision_given(PADDED),
            "vision tower given, 16 pairs at a time, texts not padded": vision_given(0),
        },
        sizes=dict(zip(("own", "padded", "unpadded"), (4, 16, 16), strict=True)),
        operations=lambda texts, count: blip_operations(matcher, texts, count),
    )


def blip_folder() -> Any:
    from benchmarks.blip import written

    return written()


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


def measured(subject: Subject, texts: list[str], rounds: int, gemm: float) -> dict[str, Any]:
    """Measure every way, one after another, `rounds` times."""
    pictures = len(subject.features)
    sizes = dict(zip(subject.loops, subject.sizes.values(), strict=True))
    one, some = texts[:1], min(16, pictures)
    ways: dict[str, tuple[Callable[[], Any], int]] = {
        "one text": (lambda: subject.matcher.match(one, subject.features), pictures),
        "many texts": (lambda: subject.matcher.match(texts, subject.features), pictures * len(texts)),
        "one text, from pixels": (lambda: subject.from_pixels(one, some), some),
        "many texts, from pixels": (lambda: subject.from_pixels(texts, some), some * len(texts)),
        **{
            name: (lambda judge=judge, n=sizes[name]: judge(texts[0], n), sizes[name])
            for name, judge in subject.loops.items()
        },
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, (judge, _) in ways.items():
            start = time.perf_counter()
            judge()
            if number or rounds == 0:  # the first round only warms up
                seconds[name].append(time.perf_counter() - start)
    rates = {name: count / statistics.median(seconds[name]) for name, (_, count) in ways.items()}
    limits = {"one text": subject.operations(one, pictures), "many texts": subject.operations(texts, pictures)}
    return {
        "mmrag, pairs/s": {name: round(rates[name], 2) for name in ways if name not in subject.loops},
        "transformers, pairs/s": {name: round(rates[name], 2) for name in subject.loops},
        "times as fast": {
            name: {loop: round(rates[name] / rates[loop], 1) for loop in subject.loops}
            for name in ways
            if name not in subject.loops
        },
        "fraction of the limit": {
            name: round(total / gemm / statistics.median(seconds[name]), 2) for name, total in limits.items()
        },
        "matrix products, operations/s": f"{gemm:.3g}",
    }


def matmul_rate(precision: str) -> float:
    """Measure operations per second of a large matrix product."""
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    left, right = torch.randn(2048, 768).to(dtype), torch.randn(3072, 768).to(dtype)
    seconds = []
    for _ in range(30):
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
                report[f"{model} {precision}"] = measured(subject, texts, given.rounds, matmul_rate(precision))
    publish("rerank", report)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
