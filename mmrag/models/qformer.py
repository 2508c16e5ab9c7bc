"""BLIP-2's Q-Former over many pairs of texts and pictures, where nothing is computed twice.

The network is transformers' own; only the order of the computation is ours (Li et al. 2023,
https://arxiv.org/abs/2301.12597, section 3.1): what depends on the picture alone is computed once a picture, what comes
before the first look at a picture once a text, and texts are never padded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

KeysValues = tuple[Tensor, Tensor]


class QFormer:
    """The Q-Former of a `Blip2ForImageTextRetrieval`.

    Parameters
    ----------
    network : Blip2ForImageTextRetrieval
        Of transformers, for inference.
    """

    def __init__(self, network: Any) -> None:
        self._network = network
        self._layers = list(network.qformer.encoder.layer)
        self._queries = network.query_tokens.shape[1]

    def embed(self, ids: Tensor) -> Tensor:
        """Embed the tokens ``(u, t)`` of texts that are equally long into ``(u, t, width)``."""
        embedded: Tensor = self._network.embeddings(input_ids=ids)
        return embedded

    def look(self, features: Tensor) -> list[KeysValues | None]:
        """Compute what the queries attend to in pictures.

        Parameters
        ----------
        features : ``(n, patches, features)``
            The image tower's last hidden state.

        Returns
        -------
        list
            For each layer its keys and values, each ``(n, heads, patches, head)``, or None if it does not look.
        """
        return [
            _keys_values(layer.crossattention.attention, features) if layer.has_cross_attention else None
            for layer in self._layers
        ]

    def __call__(self, seen: list[KeysValues | None], pictures: Tensor, words: Tensor, texts: Tensor) -> Tensor:
        """Let the queries attend to a picture, together with a text.

        Parameters
        ----------
        seen : list
            Of n pictures, as `look` gives it.
        pictures : int64 ``(p,)``
            The picture of each pair, from 0 to n − 1.
        words : ``(u, t, width)``
            u texts, as `embed` gives them; with t = 0 the queries are alone.
        texts : int64 ``(p,)``
            The text of each pair, from 0 to u − 1.

        Returns
        -------
        ``(p, queries, width)``
            The queries' last hidden state.
        """
        first, *middle, last = zip(self._layers, seen, strict=True)
        hidden = self._begin(*first, pictures, words, texts)
        for layer, keys_values in middle:
            attended = _attend(layer.attention, hidden, _keys_values(layer.attention.attention, hidden))
            queries = self._ask(layer, attended[:, : self._queries], keys_values, pictures)
            spoken = layer.feed_forward_chunk(attended[:, self._queries :])
            hidden = torch.cat([queries, spoken], dim=1)  # (p, queries + t, width)
        layer, keys_values = last
        queries = _attend(
            layer.attention, hidden[:, : self._queries], _keys_values(layer.attention.attention, hidden)
        )  # nobody reads what the words become
        return self._ask(layer, queries, keys_values, pictures)

    def _begin(
        self, layer: Any, keys_values: KeysValues | None, pictures: Tensor, words: Tensor, texts: Tensor
    ) -> Tensor:
        """Run the first layer, whose self-attention has seen no picture yet: once a text, not once a pair."""
        tokens = self._network.query_tokens.expand(len(words), -1, -1).to(words.dtype)
        hidden = self._network.qformer.layernorm(torch.cat([tokens, words], dim=1))  # (u, queries + t, width)
        attended = _attend(layer.attention, hidden, _keys_values(layer.attention.attention, hidden))
        queries = self._ask(layer, attended[:, : self._queries][texts], keys_values, pictures)
        spoken = layer.feed_forward_chunk(attended[:, self._queries :])
        return torch.cat([queries, spoken[texts]], dim=1)  # (p, queries + t, width)

    @staticmethod
    def _ask(layer: Any, queries: Tensor, keys_values: KeysValues | None, pictures: Tensor) -> Tensor:
        if keys_values is not None:
            keys, values = keys_values
            queries = _attend(layer.crossattention, queries, (keys[pictures], values[pictures]))
        asked: Tensor = layer.feed_forward_chunk_query(queries)
        return asked


def _attend(attention: Any, asking: Tensor, keys_values: KeysValues) -> Tensor:
    """Attend from ``(n, s, width)`` to keys and values, and add what was found."""
    queries = _heads(attention.attention, attention.attention.query(asking))
    found = F.scaled_dot_product_attention(queries, *keys_values)  # (n, heads, s, head)
    attended: Tensor = attention.output(found.transpose(1, 2).flatten(2), asking)
    return attended


def _keys_values(attention: Any, source: Tensor) -> KeysValues:
    return _heads(attention, attention.key(source)), _heads(attention, attention.value(source))


def _heads(attention: Any, projected: Tensor) -> Tensor:
    count, length, _ = projected.shape
    return projected.view(count, length, attention.num_attention_heads, -1).transpose(1, 2)  # (n, heads, s, head)
