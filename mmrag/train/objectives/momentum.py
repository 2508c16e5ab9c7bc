"""A slower twin of a network, and a queue of what it saw (MoCo, https://arxiv.org/abs/1911.05722, section 3.2)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

NOBODY = -1
"""The group of a place in the queue that holds nothing yet."""


def twin_of(network: nn.Module) -> nn.Module:
    """Copy a network into one that is never trained itself, in evaluation mode."""
    return copy.deepcopy(network).requires_grad_(False).eval()


@torch.no_grad()
def follow(twin: nn.Module, network: nn.Module, *, momentum: float) -> None:
    """Move a twin's weights towards the network's; its buffers become the network's.

    Parameters
    ----------
    twin, network : Module
        Of the same layout.
    momentum : float from 0 to 1
        Share of the twin's own weights that stays. ALBEF and BLIP: .995.
    """
    mine: list[Tensor] = list(twin.parameters())
    theirs: list[Tensor] = list(network.parameters())
    torch._foreach_lerp_(mine, theirs, 1 - momentum)
    for old, new in zip(twin.buffers(), network.buffers(), strict=True):
        old.copy_(new)


class Queue(nn.Module):
    """The twin's last vectors of pictures and texts, side by side; the oldest make room for new ones.

    Its state is a network's: a checkpoint keeps it.

    Parameters
    ----------
    size : int
        How many pairs it holds. ALBEF: 65,536, BLIP: 57,600; 0 holds none.
    dimension : int
        Of the vectors.
    """

    images: Tensor
    texts: Tensor
    members: Tensor
    pushed: Tensor

    def __init__(self, size: int, dimension: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("images", torch.zeros(size, dimension))
        self.register_buffer("texts", torch.zeros(size, dimension))
        self.register_buffer("members", torch.full((size,), NOBODY))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        """How many pairs it holds by now."""
        return min(self.size, int(self.pushed))

    @property
    def image_vectors(self) -> Tensor:
        """Of the pictures, ``(len, d)``."""
        return self.images[: len(self)]

    @property
    def text_vectors(self) -> Tensor:
        """Of the texts, ``(len, d)``; row i is of the same pair as the picture's row i."""
        return self.texts[: len(self)]

    @property
    def groups(self) -> Tensor:
        """Of the pairs, int64 ``(len,)``."""
        return self.members[: len(self)]

    @torch.no_grad()
    def push(self, image_vectors: Tensor, text_vectors: Tensor, groups: Tensor) -> None:
        """Add n pairs in the place of the n oldest; of more than it can hold, the last.

        Parameters
        ----------
        image_vectors, text_vectors : ``(n, d)``
            Of several processes, those of all, so that their queues stay the same.
        groups : int64 ``(n,)``
            What they are of.
        """
        count = len(groups)
        kept = slice(max(0, count - self.size), count)
        steps = torch.arange(count, device=groups.device)[kept]
        places = (int(self.pushed) + steps) % max(1, self.size)
        self.images[places] = image_vectors[kept].to(self.images.dtype)
        self.texts[places] = text_vectors[kept].to(self.texts.dtype)
        self.members[places] = groups[kept]
        self.pushed += count
