"""Low-rank adaptation: small matrices are trained beside large ones, and added to them when all is done."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from mmrag.errors import MissingExtraError, ModelError, RecipeError
from mmrag.train.towers import Tower, tower_of


@dataclass(frozen=True)
class Lora:
    """Low-rank adaptation (Hu et al. 2021, https://arxiv.org/abs/2106.09685, section 4).

    Attributes
    ----------
    rank : int
        Of the matrices that are trained; every linear layer inside the towers gets a pair of them.
    alpha : float
        Their product is added to the layer's matrix times ``alpha / rank``.
    dropout : float from 0 to 1
        Of their input.
    towers : tuple of str
        Where: "image", "text" or both. Of these, nothing else is trained.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    towers: tuple[Tower, ...] = ("image", "text")

    def __post_init__(self) -> None:
        """Refuse what trains nothing."""
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1 or not self.towers:
            raise RecipeError(
                f"lora needs a rank of at least 1, an alpha above 0, a dropout in [0, 1) and a tower, not {self}"
            )


def adapt(model: nn.Module, lora: Lora) -> None:
    """Put low-rank matrices beside the linear layers of a model's towers, in place; it computes the same as before.

    Raises
    ------
    MissingExtraError
        If peft is not installed.
    ModelError
        If there is no linear layer.
    """
    if find_spec("peft") is None:
        raise MissingExtraError("peft", "train")
    import peft

    # not what inherits from it: the inside of torch's own attention never calls its layers
    names = [
        name for name, layer in model.named_modules() if type(layer) is nn.Linear and tower_of(name) in lora.towers
    ]
    if not names:
        raise ModelError(f"lora finds no linear layer in the towers {', '.join(lora.towers)}")
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type] # a float will do
        lora_dropout=lora.dropout,
        target_modules=names,
        bias="none",
    )
    peft.inject_adapter_in_model(config, model)


@torch.no_grad()
def merged(model: Any) -> Any:
    """Copy a model with its low-rank matrices added to the layers that they stand beside."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    model = copy.deepcopy(model)
    adapted = {name: layer for name, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)}
    for name, layer in adapted.items():
        layer.merge()
        model.set_submodule(name, layer.get_base_layer())
    return model
