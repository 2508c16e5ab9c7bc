"""Training: mmrag's loop against the bare steps of the same network, and against other trainers, in one run.

    python -m benchmarks.train [--sizes tiny,b32] [--only speed|peers|memory] [--steps 24] [--rounds 3] [--pairs TAR]

Two towers of transformers' CLIP with random weights learn photographs with their captions, in single precision.

- speed: pairs per second of `mmrag.train.loop.fit` with the `clip` recipe's pictures, decoded and augmented by its own
  loader, against forward, backward and AdamW alone on batches that lie ready; and the loader with nothing beside it.
- peers: the same network and files in sentence-transformers' trainer (MultipleNegativesRankingLoss, both directions)
  and in OpenCLIP's (`open_clip_train.train.train_one_epoch`), each with two workers, preparing pictures and texts in
  its own usual way: neither augments more than mmrag, and OpenCLIP pads every text to 77 tokens. OpenCLIP's reader of
  CSV files needs a package more than its loop does, so its images and tokens come through a plain DataLoader.
- memory: what GradCache and the chunked sigmoid loss take as the batch grows, and what they take at once, each in a
  process of its own. Linux only.

Rates are medians of interleaved rounds over the steps after the first four: all trainers' loaders are a few batches
ahead by then. Before anything is measured, all sides have to give the same loss of the same first batch. Whether it
runs at all is told soonest by

    python -m benchmarks.train --sizes tiny --steps 6 --rounds 1
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.pictures import make_jpegs
from benchmarks.report import publish
from mmrag.machine import keep_freed_memory
from mmrag.sources.pairs import open_pairs, read_pairs
from mmrag.train.gradcache import cached_backward, parts
from mmrag.train.loader import Loader
from mmrag.train.loop import fit
from mmrag.train.objectives.contrastive import ROWS_AT_ONCE, sigmoid
from mmrag.train.recipe import TrainRecipe, load_recipe
from mmrag.train.task import Batch, Moment
from mmrag.train.tasks import open_task

BENCH = Path(__file__).resolve().parents[1] / ".bench"
PHOTOGRAPHS = Path(__file__).resolve().parents[2] / "shared" / "data" / "flickr8k" / "train-00.tar"
CAPTION = "a man in a red shirt is climbing a steep rock"
WARM_UP = 4
"""Steps that are not counted."""

WORKERS = 2
PARTS = ("speed", "peers", "memory")


@dataclass(frozen=True)
class Size:
    """A CLIP, by the size of its towers, and how many pairs a step has."""

    vision: dict[str, int]
    text: dict[str, int]
    dimension: int
    batch: int


def tower(width: int, layers: int, heads: int) -> dict[str, int]:
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return dict(zip(names, (width, 4 * width, layers, heads), strict=True))


SIZES = {
    "tiny": Size({**tower(64, 2, 2), "image_size": 64, "patch_size": 16}, tower(64, 2, 2), 64, batch=64),
    "b32": Size({**tower(768, 12, 12), "image_size": 224, "patch_size": 32}, tower(512, 12, 8), 512, batch=16),
}


def written(name: str) -> Path:
    """Give the folder of a CLIP as a hub has it, with random weights; written once."""
    folder = BENCH / f"clip-{name}"
    if not (folder / "preprocessor_config.json").is_file():
        import transformers

        from mmrag.models.open_clip import tokenizer_json

        size, side = SIZES[name], SIZES[name].vision["image_size"]
        torch.manual_seed(0)
        ends = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
        config = transformers.CLIPConfig(
            vision_config=size.vision, text_config={**size.text, **ends}, projection_dim=size.dimension
        )
        transformers.CLIPModel(config).save_pretrained(folder)
        content = tokenizer_json().replace("<start_of_text>", "<|startoftext|>")
        (folder / "tokenizer.json").write_text(content.replace("<end_of_text>", "<|endoftext|>"), encoding="utf-8")
        ends_told = {"pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "model_max_length": 77}
        told = {"tokenizer_class": "CLIPTokenizer", **ends_told}
        (folder / "tokenizer_config.json").write_text(json.dumps(told), encoding="utf-8")
        crop = {"height": side, "width": side}
        transformers.CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=crop).save_pretrained(folder)
    return folder


def photographs(source: Path, folder: Path, count: int) -> Path:
    """Write pictures as files, with a JSONL file of one text each; gives that file."""
    if source.exists():
        found = itertools.islice(read_pairs([source]), count)
        pairs = [(pair.image, pair.texts[0]) for pair in found]
    else:
        pairs = [(path.read_bytes(), CAPTION) for path in make_jpegs(folder / "made", (500, 375), min(count, 96))]
    lines = []
    for number, (image, text) in enumerate(itertools.islice(itertools.cycle(pairs), count)):
        (folder / f"{number:05}.jpg").write_bytes(image)
        lines.append(json.dumps({"image": f"{number:05}.jpg", "text": text}) + "\n")
    (folder / "pairs.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder / "pairs.jsonl"


@dataclass(frozen=True)
class Subject:
    """A model and pairs to train it on, in all the ways that there are.

    Attributes
    ----------
    name : str
        In `SIZES`.
    jsonl : path
        The pairs: a step's for every step.
    steps : int
        How many.
    home : path
        A folder for whatever a trainer writes.
    """

    name: str
    jsonl: Path
    steps: int
    home: Path

    @property
    def batch(self) -> int:
        """Pairs in a step."""
        return SIZES[self.name].batch

    @cached_property
    def recipe(self) -> TrainRecipe:
        """The `clip` recipe for one epoch, without what peers do not do: averages, and embedding in parts."""
        changes = {
            "start": f"hf:{written(self.name)}",
            "data.batch_size": self.batch,
            "data.threads": WORKERS,
            "loop.epochs": 1,
            "loop.grad_cache": 0,
            "loop.average": 0.0,
            "loop.tower_share": 1.0,
        }
        return load_recipe("clip", changes=changes)

    def task(self) -> Any:
        """Open what mmrag trains."""
        return open_task("contrastive", start=self.recipe.start, settings=self.recipe.settings)

    def network(self) -> Any:
        """Open the same in transformers."""
        import transformers

        return transformers.CLIPModel.from_pretrained(written(self.name)).train()

    def loader(self) -> Loader:
        """Make mmrag's loader."""
        return Loader(open_pairs([self.jsonl]), self.task(), batch_size=self.batch, seed=0, threads=WORKERS)

    @cached_property
    def batches(self) -> list[Batch]:
        """A few batches that lie ready."""
        return list(itertools.islice(self.loader().epoch(1), min(4, self.steps)))

    # --- ways to train; each takes all steps --------------------------------------------------------------------------

    def ours(self) -> None:
        """Train as `mmrag train` does."""
        with tempfile.TemporaryDirectory(dir=self.home) as out:
            fit(self.task(), open_pairs([self.jsonl]), out=Path(out) / "model", recipe=self.recipe)

    def bare(self) -> None:
        """Take forward, backward and AdamW, and nothing else."""
        network = self.network()
        optimizer = torch.optim.AdamW(network.parameters(), lr=self.recipe.optimizer.learning_rate)
        for batch in itertools.islice(itertools.cycle(self.batches), self.steps):
            optimizer.zero_grad()
            bare_loss(network, batch).backward()
            optimizer.step()

    def sentence_transformers(self) -> None:
        """Train as sentence-transformers does."""
        import datasets
        from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

        lines = [json.loads(line) for line in self.jsonl.read_text(encoding="utf-8").splitlines()]
        columns = {
            "image": [str(self.jsonl.parent / line["image"]) for line in lines],
            "text": [line["text"] for line in lines],
        }
        settings = SentenceTransformerTrainingArguments(
            output_dir=str(self.home / "sentence-transformers"),
            max_steps=self.steps,
            per_device_train_batch_size=self.batch,
            learning_rate=self.recipe.optimizer.learning_rate,
            dataloader_num_workers=WORKERS,
            dataloader_drop_last=True,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        model, loss = sentence_model(self.name)
        pairs = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
        SentenceTransformerTrainer(model=model, args=settings, train_dataset=pairs, loss=loss).train()

    def open_clip(self) -> None:
        """Train as OpenCLIP does."""
        import open_clip
        from open_clip_train.train import train_one_epoch

        side = SIZES[self.name].vision["image_size"]
        transform = open_clip.image_transform(side, is_train=True)
        data: Any = torch.utils.data.DataLoader(
            FilesAndTokens(self.jsonl, transform), batch_size=self.batch, shuffle=True, num_workers=WORKERS
        )
        data.num_samples, data.num_batches = self.steps * self.batch, self.steps
        network = ForOpenClip(self.network())
        settings = SimpleNamespace(
            device="cpu",
            precision="fp32",
            grad_clip_norm=self.recipe.optimizer.clip_norm,
            batch_size=self.batch,
            accum_freq=1,
            skip_scheduler=True,  # a constant rate
            log_every_n_steps=100,
            rank=0,
            world_size=1,
            distill=False,
            horovod=False,
            wandb=False,
        )
        optimizer = torch.optim.AdamW(network.parameters(), lr=self.recipe.optimizer.learning_rate)
        given = {"train": SimpleNamespace(dataloader=data, set_epoch=lambda _: None)}
        train_one_epoch(network, given, open_clip.ClipLoss(), 0, optimizer, None, None, None, settings)

    # --- before they are measured -------------------------------------------------------------------------------------

    @torch.no_grad()
    def first_losses(self, *, peers: bool) -> dict[str, float]:
        """Give the loss of one batch by each side, and refuse to go on if they differ."""
        batch, network = self.batches[0], self.network()
        losses = {"mmrag": self.task().losses(batch, Moment(0, 1, 1, 1))["loss"], "bare": bare_loss(network, batch)}
        if peers:
            from open_clip import ClipLoss

            _, loss = sentence_model(self.name)
            texts = {"modality": "text"} | {key: batch[key] for key in ("input_ids", "attention_mask")}
            images = {"modality": "image", "pixel_values": batch["pixels"]}
            losses["sentence-transformers"] = loss([images, texts], torch.empty(0))
            losses["open_clip"] = ClipLoss()(**ForOpenClip(network)(batch["pixels"], batch["input_ids"]))
        values = {name: round(float(loss), 5) for name, loss in losses.items()}
        if max(values.values()) - min(values.values()) > 1e-4:
            raise RuntimeError(f"the sides do not compute the same: {values}")
        return values


def bare_loss(network: Any, batch: Batch) -> Tensor:
    given = {name: batch[name] for name in ("input_ids", "attention_mask")}
    loss: Tensor = network(**given, pixel_values=batch["pixels"], return_loss=True).loss
    return loss


class ForOpenClip(nn.Module):
    """transformers' CLIP, called and answering as OpenCLIP's own models are and do."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.logit_scale = network.logit_scale

    def forward(self, images: Tensor, texts: Tensor) -> dict[str, Tensor]:
        """Embed pictures ``(n, 3, height, width)`` and tokens ``(n, t)``."""
        found = self.network(pixel_values=images, input_ids=texts)
        return {
            "image_features": found.image_embeds,
            "text_features": found.text_embeds,
            "logit_scale": self.logit_scale.exp(),
        }


class FilesAndTokens(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """What OpenCLIP's own CsvDataset gives, of a JSONL file."""

    def __init__(self, jsonl: Path, transform: Callable[[Image.Image], Tensor]) -> None:
        import open_clip

        self._folder, self._transform, self._tokenizer = jsonl.parent, transform, open_clip.get_tokenizer("ViT-B-32")
        self._lines = [json.loads(line) for line in jsonl.read_text(encoding="utf-8").splitlines()]

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        line = self._lines[row]
        image = self._transform(Image.open(self._folder / line["image"]))
        return image, self._tokenizer([line["text"]])[0]


def sentence_model(name: str) -> tuple[Any, nn.Module]:
    """Open a model in sentence-transformers, with the loss that is CLIP's; its temperature does not move."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    model = SentenceTransformer(modules=[Transformer(str(written(name)))], device="cpu")
    scale = float(model[0].model.logit_scale.detach().exp())
    both = ("query_to_doc", "doc_to_query")
    return model, MultipleNegativesRankingLoss(model, scale=scale, directions=both, partition_mode="per_direction")


# --- speed ------------------------------------------------------------------------------------------------------------


@contextmanager
def step_times() -> Iterator[list[float]]:
    """Note when each step of any optimizer ends: the one clock that all trainers share."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    times: list[float] = []
    handle = register_optimizer_step_post_hook(lambda *_: times.append(time.perf_counter()))
    try:
        yield times
    finally:
        handle.remove()


def rate(subject: Subject, train: Callable[[], None]) -> float:
    """Pairs per second after the first steps."""
    with step_times() as times:
        train()
    if len(times) != subject.steps:
        raise RuntimeError(f"{len(times)} steps were taken, not {subject.steps}")
    return subject.batch * (len(times) - WARM_UP) / (times[-1] - times[WARM_UP - 1])


def loader_rate(subject: Subject) -> float:
    """Pairs per second that the loader prepares with nothing beside it."""
    start = time.perf_counter()
    batches = sum(1 for _ in subject.loader().epoch(1))
    return subject.batch * batches / (time.perf_counter() - start)


def measure_speed(subject: Subject, rounds: int, *, peers: bool) -> dict[str, Any]:
    """Measure every way, one after another, `rounds` times."""
    losses = subject.first_losses(peers=peers)
    ways: dict[str, Callable[[], float]] = {
        "mmrag": partial(rate, subject, subject.ours),
        "bare steps": partial(rate, subject, subject.bare),
        "its loader alone": partial(loader_rate, subject),
    }
    if peers:
        ways["sentence-transformers"] = partial(rate, subject, subject.sentence_transformers)
        ways["open_clip"] = partial(rate, subject, subject.open_clip)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(way())
    rates = {name: statistics.median(some) for name, some in found.items()}
    return {
        "pairs in a step, steps": [subject.batch, subject.steps],
        "loss of the first batch": losses,
        "pairs/s": {name: round(value, 2) for name, value in rates.items()},
        "mmrag, as a multiple of": {name: round(rates["mmrag"] / value, 3) for name, value in rates.items()},
    }


# --- memory -----------------------------------------------------------------------------------------------------------

PART = 32
"""Pairs that GradCache embeds at once here."""

PROBES = {
    "contrastive, at once": (256, 512, 1024, 2048),
    "contrastive, GradCache": (256, 512, 1024, 2048),
    "sigmoid, at once": (2048, 4096, 6144),
    "sigmoid, in chunks": (2048, 4096, 6144),
}


def measure_memory() -> dict[str, Any]:
    """Take each probe at each size, in processes of their own."""
    found: dict[str, Any] = {}
    for kind, sizes in PROBES.items():
        told = [probed(kind, size) for size in sizes]
        megabytes = [one["bytes"] / 1e6 for one in told]
        (slope, start), *_ = np.polyfit(sizes, megabytes, 1, full=True)
        line = np.polyval((slope, start), sizes)
        found[kind] = {
            "MB, by pairs in the batch": dict(zip(map(str, sizes), np.round(megabytes, 1).tolist(), strict=True)),
            "kB more for each more pair": round(1000 * float(slope), 2),
            "largest departure from a line": round(float(np.abs(line - megabytes).max() / max(megabytes)), 3),
            "loss": [round(one["loss"], 4) for one in told],
        }
    kinds = list(PROBES)
    for one, other in zip(kinds[::2], kinds[1::2], strict=True):
        if not np.allclose(found[one]["loss"], found[other]["loss"], rtol=1e-3):
            raise RuntimeError(f"{one} and {other} do not compute the same: {found}")
    return found


def probed(kind: str, size: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.train", "--probe", kind, "--pairs-at-once", str(size)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=BENCH.parent, check=False)
    if done.returncode:
        raise RuntimeError(f"{kind} of {size} failed: {done.stderr[-2000:]}")
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


def probe(kind: str, size: int) -> None:
    """Print by how much the peak of this process's memory rises while a loss and its gradients are computed."""
    compute = sigmoid_probe(kind, size) if kind.startswith("sigmoid") else contrastive_probe(kind, size)
    compute(PART)  # what is allocated once, gradients of weights among it, does not grow with the batch
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: importing has one of its own
    loss = compute(size)
    print(json.dumps({"bytes": resident("VmHWM") - before, "loss": loss}))


def resident(name: str) -> int:
    """Read what this process holds; ru_maxrss would begin at that of the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def contrastive_probe(kind: str, size: int) -> Callable[[int], float]:
    """Make what computes the loss and the gradients of so many pairs, of `size` that lie ready."""
    task = open_task("contrastive", start=f"hf:{written('tiny')}", settings={})
    side, random = SIZES["tiny"].vision["image_size"], np.random.default_rng(0)
    ids = torch.from_numpy(random.integers(1, 49000, (size, 16)))
    ids[:, 0], ids[:, -1] = 49406, 49407
    whole: Batch = {
        "groups": torch.arange(size),
        "pixels": torch.from_numpy(random.normal(size=(size, 3, side, side)).astype(np.float32)),
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
    }
    moment = Moment(0, 1, 1, 1)

    def compute(count: int) -> float:
        batch = next(parts(whole, count))
        if kind.endswith("GradCache"):
            return cached_backward(task, batch, moment, size=PART)["loss"].item()
        loss = task.losses(batch, moment)["loss"]
        loss.backward()
        return float(loss.item())

    return compute


def sigmoid_probe(kind: str, size: int) -> Callable[[int], float]:
    """Make what does the same with the sigmoid loss of vectors."""
    torch.manual_seed(0)
    images, texts = (nn.functional.normalize(torch.randn(size, 64), dim=1).requires_grad_() for _ in range(2))
    rows = size if kind.endswith("at once") else ROWS_AT_ONCE

    def compute(count: int) -> float:
        loss = sigmoid(images[:count], texts[:count], math.exp(2.0), -4.0, rows_at_once=rows)
        loss.backward()
        return loss.item()

    return compute


# --- all of it --------------------------------------------------------------------------------------------------------


def run(sizes: list[str], parts: list[str], *, steps: int, rounds: int, pairs: Path) -> dict[str, Any]:
    keep_freed_memory()  # as fit does; once it is on, it is on for all
    report: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "photographs": pairs.name if pairs.exists() else "made by code",
    }
    for name in sizes if {"speed", "peers"} & set(parts) else ():
        with tempfile.TemporaryDirectory() as folder:
            jsonl = photographs(pairs, Path(folder), steps * SIZES[name].batch)
            subject = Subject(name, jsonl, steps, Path(folder))
            report[name] = measure_speed(subject, rounds, peers="peers" in parts)
    if "memory" in parts:
        report["memory"] = measure_memory()
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=",".join(SIZES), help="of models, with commas between them")
    parser.add_argument("--only", choices=PARTS, help="by default all")
    parser.add_argument("--steps", type=int, default=24, help=f"of each training; more than {WARM_UP}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=Path, default=PHOTOGRAPHS, help="photographs with captions; else some are made")
    parser.add_argument("--probe", choices=PROBES, help=argparse.SUPPRESS)
    parser.add_argument("--pairs-at-once", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    if given.probe:
        probe(given.probe, given.pairs_at_once)
        return
    sizes = given.sizes.split(",")
    if not set(sizes) <= set(SIZES) or given.steps <= WARM_UP:
        parser.error(f"sizes are {', '.join(SIZES)}, and steps more than {WARM_UP}")
    parts = [given.only] if given.only else list(PARTS)
    report = run(sizes, parts, steps=given.steps, rounds=given.rounds, pairs=given.pairs)
    publish("train", report)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
