"""Pictures per second on a GPU, as a fraction of the matrix products that it was measured to do in the same run.

    python -m benchmarks.gpu                      # on a machine with CUDA: writes results/gpu.json
    python -m benchmarks.gpu --device cpu --tiny  # shows that it runs; writes nothing

ViT-B/32 and ViT-L/14 of CLIP and ViT-g with BLIP-2's Q-Former, in bfloat16 with random weights, through mmrag's own
classes: as they are, compiled, and as CUDA graphs; then with JPEGs read, decoded and prepared by mmrag beside it. And
the two towers of a CLIP ViT-B/32 in training: whole steps of mmrag's loop, optimizer included, on a batch that lies
ready, with texts of 77 tokens. Needs torch, transformers, tokenizers, safetensors and pillow, and of mmrag the source
tree alone. Without CUDA, results/gpu.json lists what has never run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.pictures import make_jpegs
from benchmarks.report import publish
from mmrag.machine import usable_cores
from mmrag.models.cards import Card
from mmrag.models.preprocess import Preprocessing
from mmrag.models.torch_encoder import TorchEncoder
from mmrag.roles import Identity
from mmrag.sources.image import read_image
from mmrag.train.recipe import DataPart, LoopPart, OptimizerPart, TrainRecipe
from mmrag.train.step import PRECISIONS, Stepper, moved, train_mode
from mmrag.train.task import Batch, Moment
from mmrag.train.tasks import open_task

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
VARIANTS = ("eager", "compiled", "CUDA graph")
ROUNDS = 5
JPEG_SIZE = (640, 480)


@dataclass(frozen=True)
class Shape:
    """A model of the field, by its size."""

    name: str
    vision: dict[str, int]
    projection: int
    queries: int = 1


SHAPES = (
    Shape(
        "ViT-B/32",
        {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "patch_size": 32,
        },
        512,
    ),
    Shape(
        "ViT-L/14",
        {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "patch_size": 14,
        },
        768,
    ),
    Shape("ViT-g/14 and Q-Former", {}, 256, queries=32),  # as transformers' own defaults say
)
TEXT = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8}
"""Of ViT-B/32's text tower."""

TOKENS = 77
TRAINING, TRAINED_IN = "ViT-B/32, training", ("bf16", "fp32")
TINY = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


class RandomEncoder(TorchEncoder):
    """An image tower of transformers' with random weights: speed does not depend on their values."""

    def __init__(self, shape: Shape, *, tiny: bool) -> None:
        self._shape, self._tiny = shape, tiny
        dimension = 16 if tiny else shape.projection
        self.card = Card(shape.name, "benchmark", "1", dimension, modalities=("image",), vectors=shape.queries)
        self.preprocessing = Preprocessing(224, 224, 3, MEAN, STD, shortest_edge=224)
        self.identity = Identity(shape.name, "1", "random", str(self.preprocessing), dimension)

    def load_network(self) -> torch.nn.Module:
        """Make the network with attention as fast as torch has it."""
        return self.build("sdpa")

    def build(self, attention: str) -> torch.nn.Module:
        """Make the network, its attention computed by "sdpa" or, as plain matrix products, by "eager"."""
        vision = {**self._shape.vision, **(TINY if self._tiny else {})}
        if self._shape.queries == 1:
            clip = transformers.CLIPVisionConfig(**vision, projection_dim=self.card.dimension)
            return transformers.CLIPVisionModelWithProjection._from_config(clip, attn_implementation=attention)
        former = {"vocab_size": 99, **TINY} if self._tiny else {}
        config = transformers.Blip2Config(
            vision_config=vision,
            qformer_config={**former, "encoder_hidden_size": vision.get("hidden_size", 1408)},
            num_query_tokens=self._shape.queries,
            image_text_hidden_size=self.card.dimension,
        )
        return transformers.Blip2ForImageTextRetrieval._from_config(config, attn_implementation=attention)

    def image_vectors(self, network: Any, pixels: torch.Tensor) -> torch.Tensor:
        """Embed ``(n, 3, 224, 224)`` into ``(n, dimension)``, or ``(n, queries, dimension)``."""
        if self._shape.queries == 1:
            return network(pixel_values=pixels).image_embeds
        seen = network.vision_model(pixel_values=pixels).last_hidden_state
        queries = network.query_tokens.expand(len(pixels), -1, -1)
        found = network.qformer(query_embeds=queries, encoder_hidden_states=seen).last_hidden_state
        return network.vision_projection(found)


def flops_per_picture(encoder: RandomEncoder) -> float:
    """Count the matrix products of one picture, on a network without weights."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.inference_mode():
        network = encoder.build("eager").eval()
        with FlopCounterMode(display=False) as counter:
            encoder.image_vectors(network, torch.zeros(1, 3, 224, 224))
    return float(counter.get_total_flops())


def peak_flops(device: str, side: int, dtype: torch.dtype = torch.bfloat16) -> float:
    """Measure what one large matrix product reaches, per second."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    seconds = timed(lambda: a @ b, device, repeat=10)
    return 2 * side**3 / seconds


def timed(function: Callable[[], Any], device: str, *, repeat: int) -> float:
    """Median seconds of one call, over rounds of some calls."""
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    for _ in range(3):
        function()
    seconds = []
    for _ in range(ROUNDS):
        synchronize()
        start = time.perf_counter()
        for _ in range(repeat):
            function()
        synchronize()
        seconds.append((time.perf_counter() - start) / repeat)
    return statistics.median(seconds)


def forward(encoder: RandomEncoder, variant: str, pixels: torch.Tensor) -> Callable[[], Any]:
    """Make what runs the network on these pixels once, in one of `VARIANTS`."""
    network = encoder.network

    def eager() -> torch.Tensor:
        with torch.no_grad():  # torch.compile does not take inference mode
            return encoder.image_vectors(network, pixels)

    if variant == "CUDA graph":
        for _ in range(3):
            eager()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            eager()
        return graph.replay
    return torch.compile(eager) if variant == "compiled" else eager


def with_decoding(encoder: RandomEncoder, jpegs: list[bytes]) -> Iterator[np.ndarray]:
    """Read, decode and prepare on all cores, and encode beside it, as `mmrag index` does."""

    def prepared(data: bytes) -> np.ndarray:
        return encoder.preprocess(read_image(data, at_least=encoder.decode_at_least))

    with ThreadPoolExecutor(usable_cores()) as decoders, ThreadPoolExecutor(encoder.streams) as encoders:
        pixels = decoders.map(prepared, jpegs)
        running: deque[Any] = deque()
        for start in range(0, len(jpegs), encoder.batch):
            batch = np.stack([next(pixels) for _ in jpegs[start : start + encoder.batch]])
            running.append(encoders.submit(encoder.encode_pixels, batch))
            if len(running) > encoder.streams:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def pictures_per_second(encoder: RandomEncoder, jpegs: list[bytes]) -> float:
    start = time.perf_counter()
    vectors = np.concatenate(list(with_decoding(encoder, jpegs)))
    rate = len(jpegs) / (time.perf_counter() - start)
    if not np.isfinite(vectors).all() or len(vectors) != len(jpegs):
        raise RuntimeError(f"{encoder.card.name} gave {len(vectors)} vectors for {len(jpegs)} pictures")
    return rate


def measure(shape: Shape, device: str, *, tiny: bool, peak: float, jpegs: list[bytes]) -> dict[str, Any]:
    encoder = RandomEncoder(shape, tiny=tiny).on_device(device).at_precision("bf16")
    flops = flops_per_picture(encoder)
    batch = 4 if tiny else encoder.batch
    pixels = encoder.tensor(np.random.default_rng(0).normal(size=(batch, 3, 224, 224)).astype(np.float32))
    found: dict[str, Any] = {"GFLOP per picture": round(flops / 1e9, 3), "batch": batch}
    for variant in VARIANTS if device == "cuda" else VARIANTS[:1]:
        try:
            rate = batch / timed(forward(encoder, variant, pixels), device, repeat=1 if tiny else 10)
        except Exception as error:  # a compiler that is missing, an operator that cannot be captured
            found[variant] = f"did not run: {type(error).__name__}: {str(error).splitlines()[0][:200]}"
            continue
        found[variant] = {"pictures/s": round(rate, 1), "fraction of peak": round(rate * flops / peak, 4)}
    pictures_per_second(encoder, jpegs[: 2 * batch])
    rate = pictures_per_second(encoder, jpegs)
    found["eager, decoding included"] = {
        "pictures/s": round(rate, 1),
        "fraction of peak": round(rate * flops / peak, 4),
    }
    return found


def clip_config(*, tiny: bool) -> transformers.CLIPConfig:
    narrower, ends = (TINY if tiny else {}), {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    vision, text = SHAPES[0].vision | narrower, TEXT | narrower
    return transformers.CLIPConfig(vision_config=vision, text_config=text | ends, projection_dim=SHAPES[0].projection)


def clip_batch(size: int) -> Batch:
    """Make pictures and texts of noise; a text ends where CLIP's do."""
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(49000, (size, TOKENS), generator=random)
    ids[:, -1] = 49407
    return {
        "groups": torch.arange(size),
        "pixels": torch.randn(size, 3, 224, 224, generator=random),
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
    }


def flops_per_pair(config: transformers.CLIPConfig) -> float:
    """Count the matrix products of one pair, forward and backward, on a network without weights."""
    from torch.utils.flop_counter import FlopCounterMode

    given = clip_batch(1)
    with torch.device("meta"):
        network = transformers.CLIPModel._from_config(config, attn_implementation="eager")
        ids, pixels = given["input_ids"].to("meta"), given["pixels"].to("meta")
        with FlopCounterMode(display=False) as counter:
            network(input_ids=ids, pixel_values=pixels, return_loss=True).loss.backward()
    return float(counter.get_total_flops())


def measure_training(device: str, *, tiny: bool, peaks: dict[str, float]) -> dict[str, Any]:
    """Measure whole steps of two towers."""
    config, size = clip_config(tiny=tiny), 4 if tiny else 512
    flops = flops_per_pair(config)
    found: dict[str, Any] = {"GFLOP per pair": round(flops / 1e9, 3), "pairs in a step": size}
    with tempfile.TemporaryDirectory() as folder:
        transformers.CLIPModel(config).save_pretrained(folder)
        preprocessing = Preprocessing(224, 224, 3, MEAN, STD, shortest_edge=224)
        preprocessing.write(Path(folder) / "preprocessor_config.json")
        for precision in TRAINED_IN:
            seconds = timed(step(folder, precision, clip_batch(size), device), device, repeat=1 if tiny else 10)
            rate, fraction = size / seconds, size / seconds * flops / peaks[precision]
            found[precision] = {"pairs/s": round(rate, 1), "fraction of peak": round(fraction, 4)}
    return found


def step(folder: str, precision: Any, batch: Batch, device: str) -> Callable[[], Any]:
    """Make what takes one step of the loop's."""
    task = open_task("contrastive", start=f"hf:{folder}", settings={})
    train_mode(task.network.to(device))
    loop = LoopPart(precision=precision)
    recipe = TrainRecipe("contrastive", "random", data=DataPart(), optimizer=OptimizerPart(warmup=0.0), loop=loop)
    stepper, here = Stepper(task, task.layers(), recipe), moved(batch, torch.device(device))

    def once() -> None:
        went, told = stepper(iter([here]), Moment(0, 1000, 1, 1))
        if not went:
            raise RuntimeError(f"training in {precision} found no gradients: {told}")

    return once


def decoding_alone(jpegs: list[bytes]) -> float:
    """Pictures per second that all cores read, decode and prepare, with nothing beside it."""
    preprocessing = Preprocessing(224, 224, 3, MEAN, STD, shortest_edge=224)
    start = time.perf_counter()
    with ThreadPoolExecutor(usable_cores()) as pool:
        list(pool.map(lambda data: preprocessing(read_image(data, at_least=224)).shape, jpegs))
    return len(jpegs) / (time.perf_counter() - start)


def run(device: str, *, tiny: bool, count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        paths = make_jpegs(Path(folder), JPEG_SIZE, count, distinct=2 if tiny else 24)
        jpegs = [path.read_bytes() for path in paths]
    side = 256 if tiny else 8192
    peaks = {precision: peak_flops(device, side, PRECISIONS[precision]) for precision in TRAINED_IN}
    peak = peaks["bf16"]
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "measured peak, bf16 TFLOP/s": round(peak / 1e12, 3),
        "measured peak, fp32 TFLOP/s": round(peaks["fp32"] / 1e12, 3),
        "decoding alone, 640 x 480, pictures/s": round(decoding_alone(jpegs), 1),
        "cores": usable_cores(),
    }
    report |= {shape.name: measure(shape, device, tiny=tiny, peak=peak, jpegs=jpegs) for shape in SHAPES}
    return report | {TRAINING: measure_training(device, tiny=tiny, peaks=peaks)}


def never_ran() -> dict[str, Any]:
    columns = [*VARIANTS, "eager, decoding included"]
    shapes = {shape.name: columns for shape in SHAPES}
    return {"never run, for want of a GPU": {**shapes, TRAINING: list(TRAINED_IN)}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="networks of two narrow layers: a check of this script")
    parser.add_argument("--count", type=int, help="JPEGs to decode; 4096, or 16 with --tiny")
    given = parser.parse_args()
    if given.device == "cpu" and not given.tiny:
        parser.error("on the CPU this is a check only: give --tiny")
    if given.device == "cuda" and not torch.cuda.is_available():
        report = never_ran()
    else:
        report = run(given.device, tiny=given.tiny, count=given.count or (16 if given.tiny else 4096))
    if not given.tiny:
        publish("gpu", report)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
