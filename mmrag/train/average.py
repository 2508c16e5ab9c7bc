"""The weights that are measured and kept: an average over steps, part of the way from the start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mmrag.errors import ModelError
from mmrag.train.task import Layer

WARM_STEPS = 10  # in the first steps an average follows faster: it shall not remember the start


def named_tensors(network: nn.Module) -> dict[str, Tensor]:
    """List the parameters and persistent buffers of a network, each once although two names may share it."""
    persistent = network.state_dict(keep_vars=True).keys()
    both = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return {name: tensor.data for name, tensor in both.items() if name in persistent}


@torch.no_grad()
def fill(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor], *, where: str) -> None:
    """Copy values into tensors of the same names.

    Raises
    ------
    ModelError
        If names or shapes differ.
    """
    if tensors.keys() != values.keys():
        other = sorted(tensors.keys() ^ values.keys())
        raise ModelError(f"{where} is of another network: {other[0]!r} is in one of the two only")
    for name, tensor in tensors.items():
        if tensor.shape != values[name].shape:
            raise ModelError(f"{where}: {name} is {tuple(values[name].shape)} and should be {tuple(tensor.shape)}")
        tensor.copy_(values[name])


class Average:
    """What would be kept if the run ended now.

    Parameters
    ----------
    network : nn.Module
        As it starts.
    layers : sequence of Layer
        What is trained; what is fresh has no start to keep near to.
    share : float in [0, 1)
        Of the average, what stays in every step; 0 averages nothing. Buffers such as a batch norm's are averaged too.
    tower_share : float in (0, 1]
        Of what training did to pretrained weights, what is kept (WiSE-FT, https://arxiv.org/abs/2109.01903).
    """

    def __init__(self, network: nn.Module, layers: Sequence[Layer], *, share: float, tower_share: float) -> None:
        self._share, self._tower_share = share, tower_share
        self.device = next(network.parameters()).device
        trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
        buffers = {name for name, _ in network.named_buffers()}
        self._live = {
            name: tensor
            for name, tensor in named_tensors(network).items()
            if name in trained or (name in buffers and tensor.is_floating_point())
        }
        fresh = {id(one) for layer in layers if layer.fresh for one in layer.module.parameters()}
        moved = {name for name, one in network.named_parameters() if name in trained and id(one) not in fresh}
        self.tensors = {name: tensor.clone() for name, tensor in self._live.items()} if share else {}
        self._origin = {name: self._live[name].clone() for name in sorted(moved)} if tower_share < 1 else {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow a step, the first of which is 1."""
        if self.tensors:
            stays = min(self._share, step / (step + WARM_STEPS))
            torch._foreach_lerp_(list(self.tensors.values()), list(self._live.values()), 1 - stays)

    @torch.no_grad()
    def candidate(self) -> dict[str, Tensor]:
        """Give the trained weights and the buffers as they would be kept, as copies."""
        candidate = {name: tensor.clone() for name, tensor in (self.tensors or self._live).items()}
        for name, origin in self._origin.items():
            candidate[name] = torch.lerp(origin, candidate[name], self._tower_share)
        return candidate

    def put(self, candidate: Mapping[str, Tensor]) -> None:
        """Have the network hold a candidate from now on."""
        fill(self._live, candidate, where="what was kept")

    @contextmanager
    def in_place(self, candidate: Mapping[str, Tensor]) -> Iterator[None]:
        """Have the network hold a candidate while the block runs."""
        before = {name: tensor.clone() for name, tensor in self._live.items()}
        self.put(candidate)
        try:
            yield
        finally:
            self.put(before)
