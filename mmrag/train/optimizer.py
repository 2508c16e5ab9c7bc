"""AdamW over the layers of a task, and the course of its rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from mmrag.errors import InputError
from mmrag.train.recipe import OptimizerPart
from mmrag.train.task import Layer


def make_optimizer(network: nn.Module, layers: Sequence[Layer], settings: OptimizerPart) -> torch.optim.AdamW:
    """Make AdamW over what the layers hold; everything else of the network stops asking for gradients.

    A parameter that several layers hold belongs to the first of them. Each group has, beside what AdamW needs,
    ``"highest"``: the rate that `set_rates` takes a share of. What has less than two dimensions (biases, norms,
    the temperature) is not decayed.

    Raises
    ------
    InputError
        If there is nothing to train.
    """
    network.requires_grad_(False)
    groups = []
    seen: set[int] = set()
    for layer in layers:
        parameters = [one for one in layer.module.parameters() if id(one) not in seen]
        seen.update(map(id, parameters))
        fresh_rate = settings.fresh_learning_rate if layer.fresh else None
        highest = (fresh_rate or settings.learning_rate) * settings.layer_decay**layer.depth
        for decay in (True, False):
            chosen = [one.requires_grad_(True) for one in parameters if (one.ndim > 1) == decay]
            weight_decay = settings.weight_decay if decay else 0.0
            groups.append({"params": chosen, "lr": highest, "highest": highest, "weight_decay": weight_decay})
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise InputError("there is nothing to train: every part is frozen. Unfreeze one in [settings]")
    beta1, beta2 = settings.betas
    fused = all(one.is_cuda for one in trained_parameters(network))
    return torch.optim.AdamW(groups, betas=(beta1, beta2), fused=fused or None)


def trained_parameters(network: nn.Module) -> list[nn.Parameter]:
    """List what the optimizer moves, each once."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def set_rates(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Set the rate of every group to a share of its highest."""
    for group in optimizer.param_groups:
        group["lr"] = group["highest"] * share


def rate_share(
    step: int, steps: int, *, warmup: float, schedule: Literal["cosine", "one_cycle", "constant"] = "cosine"
) -> float:
    """Give the share of the highest rate for a step.

    Parameters
    ----------
    step, steps : int
        How many steps were done, and how many there will be.
    warmup : float in [0, 1)
        Share of the steps in which the rate rises: in a line, or for one_cycle along half a cosine from a 25th
        (https://arxiv.org/abs/1708.07120).
    schedule : {"cosine", "one_cycle", "constant"}
        The first two then fall to zero along half a cosine (https://arxiv.org/abs/1608.03983).

    Examples
    --------
    >>> [round(rate_share(step, 10, warmup=0.2), 2) for step in (0, 1, 2, 6, 10)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    >>> [round(rate_share(step, 10, warmup=0.2, schedule="one_cycle"), 2) for step in (0, 1, 2, 6, 10)]
    [0.04, 0.52, 1.0, 0.5, 0.0]
    """
    rising = warmup * steps
    if step < rising:
        if schedule == "one_cycle":
            return 0.04 + 0.96 * (1 - math.cos(math.pi * step / rising)) / 2
        return min(1.0, (step + 1) / rising)  # the first step is not wasted at a rate of zero
    if schedule == "constant":
        return 1.0
    return (1 + math.cos(math.pi * min(1.0, (step - rising) / (steps - rising)))) / 2
