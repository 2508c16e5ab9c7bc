"""Runs that tests start in processes of their own, to kill them or to have several."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from mmrag.train import distributed
from mmrag.train.average import named_tensors
from mmrag.train.gradcache import cached_backward
from mmrag.train.recipe import DataPart, LoopPart, OptimizerPart, TrainRecipe
from mmrag.train.task import Moment
from tests.train.toy_task import HELD_OUT, PAIRS, ToyTask

RECIPE = TrainRecipe(
    task="toy",
    start="nowhere",
    data=DataPart(batch_size=12),
    optimizer=OptimizerPart(learning_rate=3e-3),
    loop=LoopPart(epochs=4, average=0.8, tower_share=0.9, save_every=3),
)


class SlowTask(ToyTask):
    """Leaves the test time to kill it."""

    def after_step(self, moment):
        time.sleep(0.1)


def run(out, *, task=None, resume=False, reporter=None):
    from mmrag.train.loop import fit

    task = task or ToyTask(dropout=0.2, normed=True)
    return fit(task, PAIRS, val=HELD_OUT, out=out, recipe=RECIPE, resume=resume, reporter=reporter)


def all_rows(task):
    return task.collate([task.prepare(pair, np.random.default_rng(row)) for row, pair in enumerate(PAIRS[:12])])


def gradients(objective, *, cached=False):
    """Compute the gradients of twelve rows, divided among the processes there are."""
    task = ToyTask(objective=objective)
    size = 12 // distributed.world()
    rows = PAIRS[distributed.rank() * size :][:size]
    first = distributed.rank() * size
    batch = task.collate([task.prepare(pair, np.random.default_rng(first + row)) for row, pair in enumerate(rows)])
    if cached:
        cached_backward(task, batch, Moment(0, 1, 1, 1), size=4)
    else:
        task.losses(batch, Moment(0, 1, 1, 1))["loss"].backward()
    distributed.average_gradients(list(task.network.parameters()))
    return {name: parameter.grad for name, parameter in task.network.named_parameters()}


def in_processes(out):
    """What a test of two processes looks at afterwards."""
    with distributed.joined("cpu"):
        for objective in ("info_nce", "sigmoid"):
            for cached in (False, True):
                found = gradients(objective, cached=cached)
                save_file(found, out / f"{objective}-{cached}-{distributed.rank()}.safetensors")
        parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]  # 0 everywhere, 1 in one process, 2 nowhere
        parameters[0].grad = torch.full((2,), float(distributed.rank()))
        if distributed.rank() == 1:
            parameters[1].grad = torch.ones(2)
        distributed.average_gradients(parameters)
        assert [None if one.grad is None else one.grad[0].item() for one in parameters] == [0.5, 0.5, None]
        task = ToyTask(normed=True, seed=distributed.rank())  # the first process's weights are everybody's
        run(out / "model", task=task)
        save_file(named_tensors(task.network), out / f"kept-{distributed.rank()}.safetensors")


def failing(out):
    """One of the processes cannot go on."""

    def fail(entry):
        raise OSError("the disk is full")

    with distributed.joined("cpu"):
        run(out / "model", reporter=fail if distributed.rank() == 0 else None)


if __name__ == "__main__":
    what, folder = sys.argv[1], Path(sys.argv[2])
    {"slow": lambda out: run(out, task=SlowTask(dropout=0.2, normed=True)), "two": in_processes, "failing": failing}[
        what
    ](folder)
