"""BLIP-2 judging pairs of texts and pictures: mmrag against transformers' own loops, in one run.

    python -m benchmarks.rerank_blip2 [--precision fp32] [--pictures 32] [--texts 8] [--rounds 3]

ViT-g at 224 pixels and the Q-Former, random weights; features of the pictures given, except to transformers' own
forward, which sees the picture again for every pair. Rates are pairs per second, medians of interleaved rounds. Both
mmrag and the loop over given features also compute each picture's 32 vectors, since the score is logit + cosine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import publish
from mmrag.models.blip2 import Blip2Retrieval, open_blip2

FOLDER = Path(__file__).resolve().parents[1] / ".bench" / "blip2-itm-vit-g"
CAPTIONS = (
    "a dog runs through the snow",
    "two children are playing football on a beach while the sun goes down",
    "a man in a red shirt is climbing a steep rock",
    "an old woman sells fruit at a market",
)


def opened(precision: str) -> Blip2Retrieval:
    """Give BLIP-2 with random weights. Its tokenizer knows no word: each is one token."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vision = {"initializer_range": 0.02}  # 1e-10, its own, makes denormal numbers
    qformer = {"use_qformer_text_input": True}
    config = transformers.Blip2Config(vision_config=vision, qformer_config=qformer, image_token_index=None)
    config.architectures = [Blip2Retrieval.architecture]
    config.save_pretrained(FOLDER)
    transformers.BlipImageProcessorPil(size={"height": 224, "width": 224}).save_pretrained(FOLDER)
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(FOLDER / "tokenizer.json"))
    matcher = open_blip2(str(FOLDER)).on_device("cpu").at_precision(precision)
    assert isinstance(matcher, Blip2Retrieval)
    torch.manual_seed(0)
    network = transformers.Blip2ForImageTextRetrieval(config).eval().requires_grad_(False).to(matcher.dtype)
    torch.nn.init.normal_(network.query_tokens)
    matcher.network = network  # 4.7 GB that need not go through a file
    return matcher


def tokens(matcher: Blip2Retrieval, text: str, count: int) -> dict[str, Any]:
    return {name: matcher.tensor(array).expand(count, -1) for name, array in matcher.tokenize([text]).items()}


def own_forward(matcher: Blip2Retrieval, text: str, count: int) -> None:
    """Judge as transformers does: a pair at a time, from pixels."""
    side = matcher.preprocessing.height
    pixels = matcher.tensor(np.zeros((1, 3, side, side), dtype=np.float32))
    for _ in range(count):
        matcher.network(**tokens(matcher, text, 1), pixel_values=pixels, use_image_text_matching_head=True)


def vision_given(matcher: Blip2Retrieval, text: str, features: Any) -> None:
    """Judge 16 pairs at a time with transformers' Q-Former, pictures seen before; and embed the pictures."""
    import torch

    network = matcher.network
    for start in range(0, len(features), 16):
        states = matcher.tensor(features[start : start + 16])
        queries = network.query_tokens.expand(len(states), -1, -1)
        given = tokens(matcher, text, len(states))
        mask = torch.cat([torch.ones(queries.shape[:2], dtype=torch.long), given["attention_mask"]], dim=1)
        embedded = network.embeddings(input_ids=given["input_ids"], query_embeds=queries)
        hidden = network.qformer(
            query_embeds=embedded, query_length=queries.shape[1], attention_mask=mask, encoder_hidden_states=states
        ).last_hidden_state
        network.itm_head(hidden[:, : queries.shape[1]]).mean(dim=1)
        alone = network.qformer(query_embeds=queries, encoder_hidden_states=states).last_hidden_state
        network.vision_projection(alone)


def measured(matcher: Blip2Retrieval, texts: list[str], pictures: int, rounds: int) -> dict[str, Any]:
    """Measure every way, one after another, `rounds` times."""
    features = np.random.default_rng(0).normal(size=(pictures, *matcher.feature_shape)).astype(np.float32)
    one = texts[:1]
    ways: dict[str, tuple[Callable[[], Any], int]] = {
        "mmrag, one text": (lambda: matcher.match(one, features), pictures),
        "mmrag, many texts": (lambda: matcher.match(texts, features), pictures * len(texts)),
        "transformers, vision tower given": (lambda: vision_given(matcher, texts[0], features[:16]), 16),
        "transformers, its own forward": (lambda: own_forward(matcher, texts[0], 1), 1),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, (judge, _) in ways.items():
            start = time.perf_counter()
            judge()
            if number:  # the first round only warms up
                seconds[name].append(time.perf_counter() - start)
    rates = {name: count / statistics.median(seconds[name]) for name, (_, count) in ways.items()}
    loops = [name for name in ways if name.startswith("transformers")]
    return {
        "pairs/s": {name: round(rate, 3) for name, rate in rates.items()},
        "times as fast": {
            name: {loop: round(rates[name] / rates[loop], 2) for loop in loops} for name in ways if name not in loops
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=("fp32", "bf16"), action="append", help="by default both")
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--texts", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    import torch

    texts = [CAPTIONS[number % len(CAPTIONS)] for number in range(given.texts)]
    report: dict[str, Any] = {"pictures": given.pictures, "texts": given.texts, "threads": torch.get_num_threads()}
    for precision in given.precision or ("fp32", "bf16"):
        with torch.inference_mode():
            report[precision] = measured(opened(precision), texts, given.pictures, given.rounds)
    publish("rerank_blip2", report)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
