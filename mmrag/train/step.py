"""One step of the optimizer: batches in, moved weights out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmrag.errors import InputError, TrainingError
from mmrag.train import distributed
from mmrag.train.gradcache import cached_backward
from mmrag.train.optimizer import make_optimizer, rate_share, set_rates, trained_parameters
from mmrag.train.recipe import TrainRecipe
from mmrag.train.task import Batch, ContrastiveTask, Layer, Losses, Moment, Task

BAD_STEPS = 10  # in a row, after which a run is given up
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

CHECKPOINTING: tuple[tuple[str, Any], ...] = (
    ("activation_checkpointing_enable", {"use_reentrant": False}),  # transformers since 5.23,
    ("gradient_checkpointing_enable", {"use_reentrant": False}),  # and before
    ("set_grad_checkpointing", True),  # timm, OpenCLIP
)


class Stepper:
    """The optimizer with all that a step needs.

    Parameters
    ----------
    task : Task
        Its network is on the device already.
    layers : sequence of Layer
        What is trained, from ``task.layers()``.
    recipe : TrainRecipe
        Rates, precision, parts.

    Attributes
    ----------
    optimizer : torch.optim.AdamW
    scaler : torch.amp.GradScaler
        Of fp16; does nothing in other precisions.

    Raises
    ------
    InputError
        If there is nothing to train, or GradCache is asked for where the loss is not of vectors alone.
    """

    def __init__(self, task: Task, layers: Sequence[Layer], recipe: TrainRecipe) -> None:
        if recipe.loop.grad_cache and not isinstance(task, ContrastiveTask):
            raise InputError("loop.grad_cache needs a loss of vectors alone, which this task's is not; set it to 0")
        self._task, self._recipe = task, recipe
        self._precision = recipe.loop.precision
        self._bad = 0
        self.optimizer = make_optimizer(task.network, layers, recipe.optimizer)
        self._parameters = trained_parameters(task.network)
        self.device = self._parameters[0].device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self._precision == "fp16")

    def __call__(self, batches: Iterator[Batch], moment: Moment) -> tuple[bool, dict[str, float]]:
        """Take the next step.

        Parameters
        ----------
        batches : iterator of Batch
            As many are taken as the recipe accumulates.
        moment : Moment
            With the steps done before this one.

        Returns
        -------
        bool
            Whether the weights moved: not if a gradient was no number.
        dict of str to float
            The losses, means over parts and processes; ``gradient_norm``, before clipping; ``learning_rate``.

        Raises
        ------
        TrainingError
            If gradients were no numbers in `BAD_STEPS` steps in a row.
        """
        settings, accumulate = self._recipe.optimizer, self._recipe.loop.accumulate
        share = rate_share(moment.step, moment.steps, warmup=settings.warmup, schedule=settings.schedule)
        set_rates(self.optimizer, share)
        self.optimizer.zero_grad()
        seen = [self._backward(moved(next(batches), self.device), moment) for _ in range(accumulate)]
        distributed.average_gradients(self._parameters)

        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self._parameters, settings.clip_norm or math.inf).item()
        finite = math.isfinite(norm)
        if finite:
            self.scaler.step(self.optimizer)
            self._bad = 0
        elif not self.scaler.is_enabled() or self.scaler.get_scale() < 1:  # else it is finding its scale
            self._bad += 1
        self.scaler.update()
        if self._bad == BAD_STEPS:
            raise TrainingError(self._advice(moment.step + 1))
        return finite, {**means(seen), "gradient_norm": norm, "learning_rate": settings.learning_rate * share}

    def _backward(self, batch: Batch, moment: Moment) -> Losses:
        """Add a part's share of the gradients."""
        accumulate, size = self._recipe.loop.accumulate, self._recipe.loop.grad_cache
        autocast = torch.autocast(self.device.type, PRECISIONS[self._precision], enabled=self._precision != "fp32")

        def scaled(loss: Tensor) -> Tensor:
            return self.scaler.scale(loss / accumulate)

        if size and isinstance(self._task, ContrastiveTask):
            return cached_backward(self._task, batch, moment, size=size, autocast=autocast, scale=scaled)
        with autocast:
            losses = self._task.losses(batch, moment)
        scaled(losses["loss"]).backward()  # type: ignore[no-untyped-call]
        return {name: loss.detach() for name, loss in losses.items()}

    def _advice(self, step: int) -> str:
        instead = "loop.precision=bf16 or fp32, or " if self._precision == "fp16" else ""
        return (
            f"the loss or its gradients were no numbers in {BAD_STEPS} steps in a row, the last of them step {step}: "
            f"try {instead}a lower optimizer.learning_rate than {self._recipe.optimizer.learning_rate:g}, "
            "a longer optimizer.warmup or a smaller optimizer.clip_norm"
        )


def means(seen: Sequence[Losses]) -> dict[str, float]:
    """Average the losses of parts, and of processes."""
    values = torch.stack([torch.stack([loss.float().reshape(()) for loss in losses.values()]) for losses in seen])
    mean = distributed.gather(values).mean(dim=0)
    return dict(zip(seen[0], mean.tolist(), strict=True))


def moved(value: Any, device: torch.device) -> Any:
    """Move the tensors of a batch to a device, those of tables inside too."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {name: moved(inner, device) for name, inner in value.items()}
    return value


def train_mode(network: nn.Module) -> None:
    """Switch dropout and batch norms on, but not in parts that are frozen."""
    network.train()
    for module in network.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def checkpoint_gradients(network: nn.Module) -> None:
    """Have a network compute activations again on the way back instead of keeping them.

    Raises
    ------
    InputError
        If no part of it knows how.
    """
    able = False
    for module in network.modules():
        if getattr(module, "supports_gradient_checkpointing", True):
            able |= _compute_again(module)
    if not able:
        raise InputError("no part of this network can compute activations again; set loop.checkpoint_gradients = false")


def _compute_again(module: nn.Module) -> bool:
    for name, switch in CHECKPOINTING:
        method: Callable[[Any], None] | None = getattr(module, name, None)
        if method is not None:
            method(switch)
            return True
    return False
