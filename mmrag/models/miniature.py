"""Miniature: a small transformer that reads and writes texts while it looks at a picture, in plain torch.

One stack of layers both judges whether a text matches a picture and describes a picture, as in BLIP (Li et al. 2022,
https://arxiv.org/abs/2201.12086); here both are causal, so that the two share every weight but their last map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmrag.models.miniature_files import MiniatureConfig

__all__ = ["Miniature", "MiniatureConfig"]

_STD = 0.02


class MiniatureLayer(nn.Module):
    """One pre-norm transformer layer: a text looks at itself, then at a picture.

    Keys and values of pictures are not made here, but for all layers at once by `Miniature.read`.
    """

    def __init__(self, config: MiniatureConfig, dropout: float) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.self_norm, self.cross_norm, self.norm = (nn.LayerNorm(width) for _ in range(3))
        self.query_key_value = nn.Linear(width, 3 * width)
        self.self_output = nn.Linear(width, width)
        self.query = nn.Linear(width, width)
        self.cross_output = nn.Linear(width, width)
        self.expand = nn.Linear(width, config.hidden)
        self.project = nn.Linear(config.hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
        """Read once more.

        Parameters
        ----------
        x : (n, t, w)
        keys, values : (m, heads, cells, w / heads), of m pictures with n / m texts each
        visible : bool (t, t) or (n, 1, t, t), which token looks at which
        """
        x = x + self.dropout(self._look_at_text(self.self_norm(x), visible))
        x = x + self.dropout(self._look_at_picture(self.cross_norm(x), keys, values))
        read: Tensor = x + self.dropout(self.project(F.gelu(self.expand(self.norm(x)))))
        return read

    def _look_at_text(self, x: Tensor, visible: Tensor) -> Tensor:
        query, key, value = (self._split(part) for part in self.query_key_value(x).chunk(3, dim=-1))
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=visible)  # (n, heads, t, w / heads)
        output: Tensor = self.self_output(attended.transpose(1, 2).flatten(2))
        return output

    def _look_at_picture(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        together = x.reshape(keys.shape[0], -1, x.shape[-1])  # (m, n / m · t, w): a picture's texts in one product
        attended = F.scaled_dot_product_attention(self._split(self.query(together)), keys, values)
        output: Tensor = self.cross_output(attended.transpose(1, 2).reshape(x.shape))
        return output

    def _split(self, x: Tensor) -> Tensor:
        """(n, t, w) → (n, heads, t, w / heads)."""
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)


class Miniature(nn.Module):
    """Reads and writes texts about pictures.

    Texts are right-padded with token 0, begin with one token and end with another; no token looks at those after
    it, so padding changes nothing. The state of the last real token judges the pair.

    Parameters
    ----------
    config : MiniatureConfig
        Its size.
    dropout : float
        Share of what each layer adds that is dropped, in training.
    """

    def __init__(self, config: MiniatureConfig, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.grid_norm = nn.LayerNorm(config.grid_features)
        self.grid = nn.Linear(config.grid_features, width)
        self.cells = nn.Parameter(torch.empty(config.cells, width))
        self.seen_norm = nn.LayerNorm(width)
        self.keys_values = nn.Linear(width, config.layers * 2 * width)
        self.words = nn.Embedding(config.vocabulary, width)
        self.positions = nn.Embedding(config.max_tokens, width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(MiniatureLayer(config, dropout) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.match = nn.Linear(width, 1)
        self._initialise()

    def _initialise(self) -> None:
        """Start small; what layers add is smaller the more of them there are (Radford et al. 2019, section 2.3)."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                adds = name.endswith(("self_output.weight", "cross_output.weight", "project.weight"))
                nn.init.normal_(parameter, std=_STD / (3 * self.config.layers) ** 0.5 if adds else _STD)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def see(self, features: Tensor) -> Tensor:
        """(m, cells, grid_features) of the image tower → (m, cells, w), what is worth keeping of a picture."""
        seen: Tensor = self.seen_norm(self.grid(self.grid_norm(features)) + self.cells)
        return seen

    def read(self, grid: Tensor) -> Tensor:
        """(m, cells, w) as `see` gives it → each layer's keys and values, (m, layers, 2, heads, cells, w / heads)."""
        config = self.config
        made = self.keys_values(grid).unflatten(-1, (config.layers, 2, config.heads, -1))
        return made.permute(0, 2, 3, 4, 1, 5)  # type: ignore[no-any-return]

    def look(self, features: Tensor) -> Tensor:
        """(m, cells, grid_features) → what texts look at, (m, layers, 2, heads, cells, w / heads)."""
        return self.read(self.see(features))

    def forward(self, ids: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """Read texts while looking at pictures.

        Parameters
        ----------
        ids : int64 (n, t)
            Right-padded with 0; t is at most the config's `max_tokens`.
        memory : (m, layers, 2, heads, cells, w / heads)
            Of m pictures, as `look` gives it. n is a multiple of m, and the texts of a picture stand together.
        mask : bool (n, t), optional
            False for tokens that later ones must not see, such as words to be guessed. Padding needs none.

        Returns
        -------
        (n, t, w)
            What `next_logits` and `match_logits` take.
        """
        tokens = ids.shape[1]
        visible = torch.ones(tokens, tokens, dtype=torch.bool, device=ids.device).tril()
        if mask is not None:  # a token sees itself, or it would see nothing
            own = torch.eye(tokens, dtype=torch.bool, device=ids.device)
            visible = (visible & mask[:, None, None, :]) | own
        x = self.dropout(self.words(ids) + self.positions.weight[:tokens])
        for number, layer in enumerate(self.layers):
            x = layer(x, memory[:, number, 0], memory[:, number, 1], visible)
        hidden: Tensor = self.norm(x)
        return hidden

    def next_logits(self, hidden: Tensor) -> Tensor:
        """(…, w) → logits of the token that follows, (…, vocabulary)."""
        return F.linear(hidden, self.words.weight)

    def match_logits(self, hidden_at_end: Tensor) -> Tensor:
        """(…, w) of the last real token → logit that text and picture match, (…)."""
        logits: Tensor = self.match(hidden_at_end).squeeze(-1)
        return logits
