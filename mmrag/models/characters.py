"""A text tower that reads characters: small, for scripts whose characters mean something by themselves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["CharacterConfig", "CharacterLayer", "CharacterTower"]


@dataclass(frozen=True)
class CharacterConfig:
    """Size of a `CharacterTower`."""

    vocabulary: int
    width: int = 256
    layers: int = 4
    heads: int = 4
    hidden: int = 1024
    max_tokens: int = 64
    dimension: int = 384


class CharacterLayer(nn.Module):
    """One pre-norm transformer layer (https://arxiv.org/abs/2002.04745)."""

    def __init__(self, config: CharacterConfig, dropout: float) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.attention_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        self.expand = nn.Linear(width, config.hidden)
        self.project = nn.Linear(config.hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(n, t, w) characters and (n, 1, 1, t), zero where there is one and very negative where not → (n, t, w)."""
        normed = self.attention_norm(x)
        query, key, value = (
            project(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (n, heads, t, w / heads)
            for project in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5 + bias  # (n, heads, t, t)
        attended = scores.softmax(dim=-1) @ value
        x = x + self.dropout(self.output(attended.transpose(1, 2).flatten(2)))
        y: Tensor = x + self.dropout(self.project(F.gelu(self.expand(self.norm(x)))))
        return y


class CharacterTower(nn.Module):
    """Characters → one vector: their mean and their maximum after a few layers, mapped into an encoder's space.

    Parameters
    ----------
    config : CharacterConfig
        Its size.
    dropout : float
        Share of what each layer adds that is dropped, in training.
    """

    def __init__(self, config: CharacterConfig, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.characters = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Embedding(config.max_tokens, config.width)
        nn.init.normal_(self.characters.weight, std=0.5)
        nn.init.normal_(self.positions.weight, std=0.1)
        self.embedding_norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(CharacterLayer(config, dropout) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.project = nn.Linear(2 * config.width, config.dimension)

    def forward(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(n, t) character ids and (n, t) ones where there is a character → (n, d)."""
        x: Tensor = self.dropout(
            self.embedding_norm(self.characters(token_ids) + self.positions.weight[: token_ids.shape[1]])
        )
        weights = attention_mask.to(x.dtype).unsqueeze(-1)  # (n, t, 1)
        bias = (1 - weights).mT.unsqueeze(1) * torch.finfo(x.dtype).min  # (n, 1, 1, t)
        for layer in self.layers:
            x = layer(x, bias)
        x = self.norm(x)
        mean = (x * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
        largest = (x + (weights - 1) * 1e4).amax(dim=1)
        vectors: Tensor = self.project(torch.cat([mean, largest], dim=-1))
        return vectors
