"""Contrastive batches larger than memory (Gao et al. 2021, https://arxiv.org/abs/2101.06983).

A contrastive loss needs the vectors of the whole batch, but not the activations behind them. So each part is embedded
twice: first without a graph, for its vectors; the loss of all vectors says how each of them should move; then again
with a graph, to carry that to the weights. The memory is that of one part's activations plus ``(n, d)`` vectors: the
activations, which are nearly all of it, do not grow with the batch. The price is one more forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from mmrag.train.task import Batch, ContrastiveTask, Losses, Moment

Embed = Callable[[Batch], tuple[Tensor, Tensor]]


def cached_backward(
    task: ContrastiveTask,
    batch: Batch,
    moment: Moment,
    *,
    size: int,
    autocast: torch.autocast | None = None,
    scale: Callable[[Tensor], Tensor] = lambda loss: loss,
) -> Losses:
    """Add the gradients of a batch's loss to the weights, as ``task.losses(batch, moment)["loss"].backward()`` does.

    They are the same as the whole batch's: dropout draws the same in both passes, because the state of torch's
    generators is put back. Only batch norms differ: they see a part, and see it twice.

    Parameters
    ----------
    task : ContrastiveTask
        Its batch is laid out so that rows of tensors and items of lists are samples (`parts`).
    batch : Batch
        On the device.
    moment : Moment
        Handed on.
    size : int
        Samples that are embedded at once.
    autocast : torch.autocast or None
        What the networks compute in.
    scale : callable
        What is done to the loss before its backward pass: the scaler of fp16.

    Returns
    -------
    Losses
        Without a graph.
    """
    pieces = list(parts(batch, size))
    device = batch["groups"].device
    precision = autocast or torch.autocast(device.type, enabled=False)
    states, vectors = [], []
    with torch.no_grad(), precision:
        for piece in pieces:
            states.append(random_state(device))
            vectors.append(task.embed(piece))
    images, texts = (torch.cat(side).detach().requires_grad_() for side in zip(*vectors, strict=True))
    with precision:
        losses = task.contrast(images, texts, batch, moment)
    scale(losses["loss"]).backward()  # type: ignore[no-untyped-call]

    after = random_state(device)
    first = 0
    for piece, state in zip(pieces, states, strict=True):
        set_random_state(state)
        with precision:
            again = task.embed(piece)
        rows = slice(first, first + len(piece["groups"]))
        first = rows.stop
        moving = [
            (out, leaf.grad[rows])
            for out, leaf in zip(again, (images, texts), strict=True)
            if out.requires_grad and leaf.grad is not None  # a frozen tower's vectors do not
        ]
        if moving:
            outputs, gradients = zip(*moving, strict=True)
            torch.autograd.backward(outputs, gradients)
    set_random_state(after)
    return {name: loss.detach() for name, loss in losses.items()}


def parts(batch: Mapping[str, Any], size: int) -> Iterator[Batch]:
    """Cut a batch into parts of at most `size` samples.

    Tensors and lists as long as ``batch["groups"]`` are cut, in tables inside too; everything else is in every part.
    """
    count = len(batch["groups"])
    for first in range(0, count, size):
        yield {name: _rows(value, slice(first, first + size), count) for name, value in batch.items()}


def _rows(value: Any, rows: slice, count: int) -> Any:
    if isinstance(value, Mapping):
        return {name: _rows(inner, rows, count) for name, inner in value.items()}
    cut = isinstance(value, list) or (isinstance(value, Tensor) and value.ndim > 0)
    return value[rows] if cut and len(value) == count else value


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Copy the state of torch's generators: uint8 by name, "cpu" and the accelerator's kind."""
    state = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        state[device.type] = getattr(torch, device.type).get_rng_state()
    return state


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Put back what `random_state` gave."""
    torch.set_rng_state(state["cpu"])
    for kind in state.keys() - {"cpu"}:
        getattr(torch, kind).set_rng_state(state[kind])
