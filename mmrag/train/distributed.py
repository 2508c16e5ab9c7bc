"""Several processes, each with its own accelerator and its own share of every batch, that train one network.

`torchrun --nproc-per-node 4 -m mmrag train …` starts them. Every process holds the whole network, computes the loss of
its own rows against the vectors of all (`gather`), and takes a step with the mean of all gradients. With the mean over
processes of what each computes from its rows as the loss of the batch ("local loss"), these are the gradients of one
process with the joined batch: the backward pass of `gather` brings each vector the gradients of all the processes that
saw it. A loss that every process computes in full, over all rows, has the same gradients too, at more cost.

The gradients are averaged here and not by DistributedDataParallel, whose hooks sit in one module's forward and expect
one backward pass: GradCache and accumulation have many.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmrag.errors import InputError

BUCKET_ELEMENTS = 1 << 23  # of gradients that travel together: 32 MB in float32
PATIENCE = timedelta(hours=2)  # the first process may be measuring that long while the others wait


def rank() -> int:
    """Which of the processes this is, from 0."""
    return dist.get_rank() if _many() else 0


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _many() else 1


def _many() -> bool:
    return dist.is_available() and dist.is_initialized()


@contextmanager
def joined(device: str) -> Iterator[torch.device]:
    """Join the processes that torchrun started, if it did; gives the device of this one.

    A process that fails leaves without a farewell: torchrun then ends the others, which wait for it.

    Raises
    ------
    InputError
        If torch has no such device here.
    """
    if _many() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield _checked(device)
        return
    chosen = torch.device(device)
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=PATIENCE)
    yield chosen
    dist.destroy_process_group()


def _checked(device: str) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # the latter where torch was built without it
        reason = str(error).splitlines()[0]
        raise InputError(
            f"torch cannot compute on {device!r} here ({reason}); take cpu, which is everywhere"
        ) from error


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:  # noqa: ARG004
        return _concatenated(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(world())[rank()]


def gather(tensor: Tensor) -> Tensor:
    """Concatenate a tensor of every process along the first dimension, in the order of their ranks.

    Parameters
    ----------
    tensor : ``(n, …)``
        The same shape in every process.

    Returns
    -------
    ``(world · n, …)``
        This process's rows begin at ``rank() * n``. Gradients flow back to the process that a row came from, as the
        sum of what all processes make of it. With one process, the tensor itself.
    """
    if world() == 1:
        return tensor
    if tensor.requires_grad:
        return cast(Tensor, _Gather.apply(tensor))
    return _concatenated(tensor)


def _concatenated(tensor: Tensor) -> Tensor:
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


@torch.no_grad()
def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Put the mean over processes in the place of every gradient; what got none anywhere stays without."""
    if world() == 1 or not parameters:
        return
    present = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.uint8)
    present = present.to(parameters[0].device)
    dist.all_reduce(present, dist.ReduceOp.MAX)
    gradients = []
    for parameter, somewhere in zip(parameters, present.tolist(), strict=True):
        if somewhere:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            gradients.append(parameter.grad)
    travelling = [(bucket, torch.cat([one.flatten() for one in bucket])) for bucket in _buckets(gradients)]
    waiting = [dist.all_reduce(flat, async_op=True) for _, flat in travelling]
    for (bucket, flat), work in zip(travelling, waiting, strict=True):
        work.wait()
        flat /= world()
        for gradient, mean in zip(bucket, flat.split_with_sizes([one.numel() for one in bucket]), strict=True):
            gradient.copy_(mean.view_as(gradient))


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Group neighbours of one type until a bucket is full."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (size + tensor.numel() > BUCKET_ELEMENTS or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel()
    if bucket:
        yield bucket


def share_tensors(tensors: Iterable[Tensor]) -> None:
    """Give every process the first one's values."""
    if world() > 1:
        for tensor in tensors:
            dist.broadcast(tensor.data, 0)


def from_first(value: Any) -> Any:
    """Give every process what the first one has: anything small that can be pickled."""
    if world() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, 0)
    return box[0]


def anywhere(flag: bool, device: torch.device) -> bool:
    """Whether it is so in any of the processes."""
    if world() == 1:
        return flag
    shared = torch.tensor(int(flag), device=device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return bool(shared.item())
