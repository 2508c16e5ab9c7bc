"""Two towers to train: the networks that a search runs, their temperature, and which part is how deep."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmrag.errors import ModelError
from mmrag.train.objectives.momentum import Queue
from mmrag.train.task import Layer

Tower = Literal["image", "text"]

LARGEST_SCALE = 100.0
"""Cosines are multiplied with no more (CLIP, Radford et al. 2021, section 2.5), unless a model began with more."""

FRESH_BIAS = -10.0
"""Of a model that has none: most pairs do not match (SigLIP, Zhai et al. 2023, section 3.2)."""

_PREFIXES: dict[str, Tower] = {"vision": "image", "visual": "image", "image": "image", "text": "text"}
_BLOCK = re.compile(r"\.(?:layers?|blocks)\.(\d+)\.")
_INPUT = re.compile(r"embed|cls_token|pre_layrnorm")
_LORA = "lora_"


class Towers(nn.Module):
    """An image tower and a text tower of transformers', with a learned temperature.

    Parameters
    ----------
    model : nn.Module
        As an encoder's `load_network` gives it.
    name : str
        What it is called in errors.
    temperature : float
        Where the learned one begins; 0 keeps the model's.
    biased : bool
        Whether the loss needs a bias: the model's own is taken, or a fresh one.

    Attributes
    ----------
    epochs_done : int64, a scalar
        A buffer, so that a run that goes on knows its stage.

    Raises
    ------
    ModelError
        If the model learns no temperature.
    """

    epochs_done: Tensor

    def __init__(self, model: nn.Module, *, name: str, temperature: float = 0.0, biased: bool = False) -> None:
        super().__init__()
        if not isinstance(getattr(model, "logit_scale", None), nn.Parameter):
            raise ModelError(
                f"{name} has no learned temperature (logit_scale), so this task cannot train it; it trains CLIP, "
                "SigLIP, SigLIP 2, Chinese-CLIP, AltCLIP and pairs of towers in transformers' layout"
            )
        self.model: Any = model
        self.register_buffer("epochs_done", torch.zeros((), dtype=torch.int64))
        if temperature:
            nn.init.constant_(self.log_scale, -math.log(temperature))
        self.largest_scale = max(LARGEST_SCALE, float(self.log_scale.detach().exp()))
        if biased and not hasattr(model, "logit_bias"):
            self.logit_bias = nn.Parameter(torch.tensor(FRESH_BIAS))

    @property
    def log_scale(self) -> nn.Parameter:
        """The logarithm of what cosines are multiplied with: of one over the temperature."""
        scale: nn.Parameter = self.model.logit_scale
        return scale

    @property
    def bias(self) -> nn.Parameter:
        """What is added to scaled cosines where pairs are judged one by one."""
        bias: nn.Parameter = self.logit_bias if hasattr(self, "logit_bias") else self.model.logit_bias
        return bias

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied with, a scalar."""
        return self.log_scale.exp().squeeze()

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.log_scale.device

    @torch.no_grad()
    def bound(self) -> None:
        """Keep the scale where a softmax over a batch still learns."""
        self.log_scale.clamp_(max=math.log(self.largest_scale))

    def follow_with(self, twin: nn.Module, queue: Queue) -> None:
        """Take in a slower twin of the model and the queue of what it saw; both are state, and neither is trained."""
        self.twin, self.queue = twin, queue

    def train(self, mode: bool = True) -> Towers:
        """Change between training and evaluation; a twin is always in evaluation."""
        super().train(mode)
        if hasattr(self, "twin"):
            self.twin.eval()
        return self

    def parameters_of(self, tower: Tower) -> Iterator[tuple[str, nn.Parameter]]:
        """Name the parameters of one tower, its projection among them."""
        for name, parameter in self.model.named_parameters():
            if tower_of(name) == tower:
                yield name, parameter

    def parts(self, tower: Tower) -> list[Layer]:
        """Part a tower by depth: what follows the blocks is 0, the last block 1, what precedes the first is deepest.

        Of a tower that holds low-rank matrices, these are all that is trained.
        """
        named = dict(self.parameters_of(tower))
        low_rank = [parameter for name, parameter in named.items() if _LORA in name]
        if low_rank:
            return [Layer(f"{tower} low rank", nn.ParameterList(low_rank), fresh=True)]
        blocks = 1 + max((int(found[1]) for found in map(_BLOCK.search, named) if found), default=-1)
        by_depth: dict[int, list[nn.Parameter]] = {}
        for name, parameter in named.items():
            by_depth.setdefault(_depth(name, blocks), []).append(parameter)
        return [
            Layer(f"{tower} {depth}", nn.ParameterList(found), depth=depth) for depth, found in sorted(by_depth.items())
        ]

    def own_parts(self, *, biased: bool) -> list[Layer]:
        """Give what belongs to no tower."""
        parts = [Layer("temperature", nn.ParameterList([self.log_scale]))]
        return [*parts, Layer("bias", nn.ParameterList([self.bias]))] if biased else parts


def tower_of(name: str) -> Tower | None:
    """Tell which tower a parameter or module of this name belongs to; None if to neither.

    Examples
    --------
    >>> tower_of("visual_projection.weight"), tower_of("text_model.embeddings"), tower_of("logit_scale")
    ('image', 'text', None)
    """
    return next((tower for prefix, tower in _PREFIXES.items() if name.startswith(prefix)), None)


def _depth(name: str, blocks: int) -> int:
    block = _BLOCK.search(name)
    if block:
        return blocks - int(block[1])
    return blocks + 1 if _INPUT.search(name) else 0
