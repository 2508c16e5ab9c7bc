"""Texts → vectors of the built-in model's text tower."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from mmrag.errors import ItemError
from mmrag.models.tokens import Tokens, laid_out
from mmrag.models.towers import DualEncoder
from mmrag.sources.pairs import Pair

TEXTS_AT_ONCE = 256


def texts_of(pairs: Sequence[Pair]) -> Iterator[tuple[str, ...]]:
    """Yield the texts of each pair that can be read; whoever looks at the pictures tells of the others."""
    for row in range(len(pairs)):
        try:
            yield pairs[row].texts
        except ItemError:
            continue


def tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[Tokens, Tokens]:
    """Texts → token ids and attention mask, each int64 ``(n, t)``, t being the longest text's length."""
    arrays = laid_out(tokenizer.encode_batch(list(texts)))
    return arrays["input_ids"], arrays["attention_mask"]


def filled(ids: Sequence[Sequence[int]]) -> Tensor:
    """Fill token ids up with 0 to the longest, int64 ``(n, t)``."""
    return nn.utils.rnn.pad_sequence([torch.tensor(one) for one in ids], batch_first=True)


@torch.no_grad()
def encode_texts(network: DualEncoder, tokenizer: Tokenizer, texts: tuple[str, ...] | list[str]) -> Tensor:
    """Encode texts to unit vectors ``(texts, d)`` on the network's device; texts of like length share a batch."""
    device = next(network.parameters()).device
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    vectors = torch.empty(len(texts), network.text.config.dimension, device=device)
    for first in range(0, len(texts), TEXTS_AT_ONCE):
        batch = order[first : first + TEXTS_AT_ONCE]
        ids, mask = (torch.from_numpy(part).to(device) for part in tokenize(tokenizer, [texts[i] for i in batch]))
        vectors[batch] = network.encode_text(ids, mask)
    return vectors
