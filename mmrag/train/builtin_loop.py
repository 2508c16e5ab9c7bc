"""The training loop: pairs in, a better model out."""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from mmrag.machine import keep_freed_memory
from mmrag.models.towers import DualEncoder
from mmrag.sources.pairs import Pair
from mmrag.train.builtin_recipe import TrainRecipe
from mmrag.train.concepts import Concepts, class_texts
from mmrag.train.data import Dataset, Pictures, tokenize
from mmrag.train.losses import OBJECTIVES
from mmrag.train.start import Start
from mmrag.train.validation import Validation, encode_texts, mean_recall

logger = logging.getLogger("mmrag")

LOG_NAME = "log.jsonl"
WEIGHTS_NAME = "weights.safetensors"
LARGEST_SCALE = 100.0


@dataclass(frozen=True)
class TrainReport:
    """What came of a training.

    Attributes
    ----------
    network : DualEncoder
        The weights that were kept, in float32 on the CPU.
    epoch : int
        The epoch that they are from; 0 is the start.
    logit_scale : float
        What cosines were multiplied with by then: one over the learned temperature.
    figures : dict
        Their metrics on the validation pairs, as `RetrievalMetrics.as_dict` gives them; empty without.
    seconds : float
        How long it took.
    interrupted : bool
        Whether Ctrl-C ended it early.
    """

    network: DualEncoder
    epoch: int
    logit_scale: float
    figures: dict[str, Any]
    seconds: float
    interrupted: bool


def train(  # one function, because a training step is best read in one piece, from top to bottom
    pairs: Iterable[Pair],
    *,
    val: Iterable[Pair] | None = None,
    out: Path,
    start: Start,
    recipe: TrainRecipe | None = None,
    device: str = "cpu",
    threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> TrainReport:
    """Train a dual encoder on pairs and keep the best epoch.

    Parameters
    ----------
    pairs : iterable of Pair
        Held in memory, undecoded.
    val : iterable of Pair or None
        Decides, by the mean of both R@1, which epoch is kept; without it the last one is.
    out : path
        Folder for ``log.jsonl`` (a line an epoch) and ``weights.safetensors`` (what was kept so far,
        in half precision).
    start : Start
        What to begin with, from `load_start`; its networks are trained in place.
    recipe : TrainRecipe or None
        None is ``TrainRecipe()``.
    device : str
        As torch names it.
    threads : int
        How many of them decode pictures.
    progress : callable or None
        Called with how many pictures were seen and how many will be.

    Raises
    ------
    InputError
        If there are too few pairs.
    """
    recipe = recipe or TrainRecipe()
    began = time.monotonic()
    keep_freed_memory()
    out.mkdir(parents=True, exist_ok=True)
    (out / LOG_NAME).unlink(missing_ok=True)
    torch.manual_seed(recipe.seed)
    rng, generator = np.random.default_rng(recipe.seed), torch.Generator().manual_seed(recipe.seed)

    data = Dataset.read(pairs)
    pictures = Pictures(data.images, start.preprocessing, threads=threads)
    validation = None
    if val is not None:
        validation = Validation(Dataset.read(val), start, texts_move=recipe.train_text, threads=threads)
    network = start.network.to(device).to(memory_format=torch.channels_last)
    log_scale = nn.Parameter(torch.tensor(-math.log(recipe.temperature), device=device))
    origin, average = copy.deepcopy(network), copy.deepcopy(network)
    kept = origin
    epoch_kept, interrupted = 0, False
    scale = scale_kept = log_scale.exp().detach()
    figures_kept: dict[str, Any] = {}

    # A frozen text tower says the same in every epoch: ask it once.
    text_vectors = None if recipe.train_text else encode_texts(network, start.tokenizer, data.texts)
    concepts = None
    if recipe.concepts and start.classifier is not None and not recipe.train_text:
        concepts = Concepts(start.classifier, encode_texts(network, start.tokenizer, class_texts()).cpu())

    batch_size = min(recipe.batch_size, len(data))
    steps_per_epoch = len(data) // batch_size
    steps = steps_per_epoch * recipe.epochs
    optimizer = make_optimizer(network, log_scale, recipe)
    schedule = LambdaLR(optimizer, lambda step: one_cycle(step, steps, warmup=recipe.warmup))
    objective = OBJECTIVES[recipe.objective]
    step = 0
    try:
        for epoch in range(1, recipe.epochs + 1):
            losses = []
            order = rng.permutation(len(data))[: steps_per_epoch * batch_size].reshape(-1, batch_size)
            views = pictures.batches(order, augmentation=recipe.augmentation, seed=(recipe.seed, epoch))
            for rows, view in zip(order, views, strict=True):
                # a text of each picture, at random
                chosen = data.choose_texts(rows, rng)
                if text_vectors is not None:
                    wanted = text_vectors[torch.from_numpy(chosen)]  # (n, d)
                else:
                    tokens = tokenize(start.tokenizer, [data.texts[index] for index in chosen])
                    wanted = network.encode_text(*(torch.from_numpy(part).to(device) for part in tokens))

                # the pictures, without a graph through the frozen stages
                pixels = torch.from_numpy(view).to(device, memory_format=torch.channels_last)  # (n, 3, h, w)
                with torch.autocast(torch.device(device).type, torch.bfloat16):
                    with torch.no_grad():
                        grid = network.image(pixels, stop=recipe.frozen_stages)
                    grid = network.image(grid, start=recipe.frozen_stages)  # (n, features, h / 32, w / 32)
                vectors = F.normalize(network.head(grid.float()), dim=-1)  # (n, d)
                groups = torch.from_numpy(rows)  # (n,)

                # pairs that a classifier makes up: m more rows
                if concepts:
                    features, names, classes = concepts.sample(recipe.concepts, generator)
                    vectors = torch.cat([vectors, F.normalize(network.head(features.to(device)), dim=-1)])
                    wanted = torch.cat([wanted, names.to(device)])
                    groups = torch.cat([groups, -1 - classes])  # (n + m,)

                scale = log_scale.exp().clamp(max=LARGEST_SCALE)
                groups = groups.to(device)
                loss = objective(vectors, wanted, scale, groups=groups, label_smoothing=recipe.label_smoothing)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                step += 1
                update_average(average, network, share=min(recipe.average, step / (step + 10)))
                losses.append(loss.detach())
                if progress:
                    progress(step * batch_size, steps * batch_size)

            candidate = mix_towers(origin, average, share=recipe.tower_share)
            figures = validation.measure(candidate) if validation else {}
            entry = {
                "epoch": epoch,
                "loss": round(torch.stack(losses).mean().item(), 4),
                "temperature": round(1 / scale.item(), 4),
                "seconds": round(time.monotonic() - began, 1),
                **figures,
            }
            append_line(out / LOG_NAME, entry)
            logger.info("%s", entry)
            if not figures_kept or mean_recall(figures) > mean_recall(figures_kept):
                epoch_kept, scale_kept, figures_kept, kept = epoch, scale, figures, candidate
                save_weights(kept, out / WEIGHTS_NAME)
    except KeyboardInterrupt:
        interrupted = True
        if not figures_kept:  # nothing was measured: what there is, is the best
            kept = mix_towers(origin, average, share=recipe.tower_share)
            epoch_kept, scale_kept = step // steps_per_epoch, scale
            save_weights(kept, out / WEIGHTS_NAME)
    kept = kept.to("cpu").to(memory_format=torch.contiguous_format).eval()
    return TrainReport(kept, epoch_kept, scale_kept.item(), figures_kept, time.monotonic() - began, interrupted)


def make_optimizer(network: DualEncoder, log_scale: nn.Parameter, recipe: TrainRecipe) -> torch.optim.Optimizer:
    """AdamW over what is trained; everything else stops asking for gradients."""
    network.requires_grad_(False)
    parts: list[tuple[nn.Module, float]] = [
        (network.image.stages[recipe.frozen_stages :], recipe.tower_learning_rate),
        (network.head, recipe.learning_rate),
    ]
    if recipe.train_text:
        parts.append((network.text, recipe.tower_learning_rate))
    groups: list[dict[str, Any]] = [{"params": [log_scale], "lr": recipe.learning_rate, "weight_decay": 0.0}]
    for part, rate in parts:
        parameters = list(part.requires_grad_(True).parameters())
        for decay in (True, False):
            chosen = [parameter for parameter in parameters if (parameter.ndim > 1) == decay]
            weight_decay = recipe.weight_decay if decay else 0.0
            groups.append({"params": chosen, "lr": rate, "weight_decay": weight_decay})
    return torch.optim.AdamW([group for group in groups if group["params"]])


def one_cycle(step: int, steps: int, *, warmup: float) -> float:
    """Share of the highest rate: up from a 25th and down to zero along half cosines (arXiv:1708.07120).

    Examples
    --------
    >>> [round(one_cycle(step, 10, warmup=0.2), 2) for step in (0, 1, 2, 6, 10)]
    [0.04, 0.52, 1.0, 0.5, 0.0]
    """
    rising = warmup * steps
    if step < rising:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * step / rising)) / 2
    return (1 + math.cos(math.pi * min(1.0, (step - rising) / max(1e-9, steps - rising)))) / 2


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, *, share: float) -> None:
    """Move an average of weights towards the network's; `share` of it stays."""
    pairs = zip(average.parameters(), network.parameters(), strict=True)
    moving = [(mine, theirs) for mine, theirs in pairs if theirs.requires_grad]
    mine, theirs = zip(*moving, strict=True)
    torch._foreach_lerp_(mine, theirs, 1 - share)


@torch.no_grad()
def mix_towers(origin: DualEncoder, trained: DualEncoder, *, share: float) -> DualEncoder:
    """Copy a trained model with `share` of what training did to its towers, and with all of its head (WiSE-FT)."""
    mixed = copy.deepcopy(trained)
    for new, old in ((mixed.image, origin.image), (mixed.text, origin.text)):
        for mine, theirs in zip(new.parameters(), old.parameters(), strict=True):
            mine.lerp_(theirs, 1 - share)
    return mixed


def save_weights(network: nn.Module, path: Path) -> None:
    """Write a state dict in half precision, whole or not at all."""
    weights = {name: tensor.cpu().half().contiguous() for name, tensor in network.state_dict().items()}
    aside = path.with_suffix(".partial")
    save_file(weights, aside)
    aside.replace(path)


def append_line(path: Path, entry: dict[str, Any]) -> None:
    """Add an object to a JSONL file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
