"""Patch dropout: a vision transformer that sees a random part of each picture in training, and all of it afterwards."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mmrag.errors import ModelError


class PatchDropout:
    """Leaves out patches behind an embedding: they are not masked but gone, so that a step costs less.

    FLIP (Li et al. 2023, https://arxiv.org/abs/2212.00794, section 3). Each picture keeps patches of its own; what
    stands before them, such as a class token, always stays.

    Parameters
    ----------
    tower : nn.Module
        Patches are left out while it is in training mode; of its parts some may be frozen, and in evaluation mode.
    share : float from 0 to 1
        Of the patches, how many are left out.
    """

    def __init__(self, tower: nn.Module, share: float) -> None:
        self._tower, self._share = tower, share

    def __call__(self, module: nn.Module, inputs: object, tokens: Tensor) -> Tensor | None:  # noqa: ARG002
        """Follow the forward pass of the embeddings, whose result is ``(n, prefix + patches, d)``."""
        if not self._tower.training:
            return None
        patches = math.isqrt(tokens.shape[1]) ** 2  # pictures are squares
        prefix = tokens.shape[1] - patches
        kept = max(1, round(patches * (1 - self._share)))
        chance = torch.rand(len(tokens), patches, device=tokens.device)
        chosen = chance.argsort(dim=1)[:, :kept] + prefix  # (n, kept)
        seen = tokens.gather(1, chosen[:, :, None].expand(-1, -1, tokens.shape[2]))  # (n, kept, d)
        return torch.cat([tokens[:, :prefix], seen], dim=1)


def drop_patches(model: nn.Module, share: float, *, name: str) -> None:
    """Let the image tower of a model leave out a share of its patches while it is trained.

    Raises
    ------
    ModelError
        If it has no patches, or is no plain vision transformer.
    """
    tower = getattr(model, "vision_model", None)
    embeddings = getattr(tower, "embeddings", None)
    positions = getattr(embeddings, "position_embedding", getattr(embeddings, "position_embeddings", None))
    if tower is None or embeddings is None or positions is None:
        raise ModelError(f"patch_dropout needs a vision transformer, which {name} has not; set it to 0")
    embeddings.register_forward_hook(PatchDropout(tower, share))
