"""BLIP's judgement of many pairs, without computing anything twice.

A text reads a picture through cross-attention in every layer. What transformers computes anew for every pair is
shared here: a picture's keys and values by all its texts, a text's first self-attention by all its pictures. Texts
are not padded: every linear map sees the tokens of many pairs one after another. The numbers are those of
transformers up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from mmrag.models.network import import_torch
from mmrag.roles import Wanted

if TYPE_CHECKING:
    from torch import Tensor

LIMITS = {"cpu": (1024, 64), "cuda": (16384, 256), "mps": (4096, 64)}
"""How many tokens of texts, of all pairs together, and how many pictures go through a layer at once."""

TEXTS = 256
"""How many texts are read at once, before they look at pictures."""

STARTED = 1 << 16
"""Of how many tokens, of all texts together, memory holds what they are before they look at pictures: 200 MB."""

Logits = npt.NDArray[np.float32]
Turn = list[list[int]]


class Ragged:
    """Rows of different lengths, one after another, and padded to the longest where attention needs a rectangle.

    Parameters
    ----------
    lengths : sequence of int
        Of the rows, each at least 1.
    device : torch device
        Where they are.
    """

    def __init__(self, lengths: Sequence[int], device: Any) -> None:
        torch = import_torch()
        self.lengths = np.asarray(lengths)
        self.rows, self.longest = len(lengths), int(self.lengths.max())
        self.even = bool((self.lengths == self.longest).all())
        self.starts = np.cumsum(self.lengths) - self.lengths
        filled = np.arange(self.longest) < self.lengths[:, None]  # (rows, longest)
        self.positions = np.nonzero(filled)[1]  # of each token in its row
        self._slots = torch.from_numpy(np.flatnonzero(filled)).to(device)
        self.mask = None if self.even else torch.from_numpy(filled).to(device)

    def pad(self, flat: Tensor) -> Tensor:
        """Give ``(tokens, …)`` as ``(rows, longest, …)``, filled up with zeros."""
        if self.even:
            return flat.reshape(self.rows, self.longest, *flat.shape[1:])
        padded = flat.new_zeros((self.rows * self.longest, *flat.shape[1:]))
        return padded.index_copy_(0, self._slots, flat).reshape(self.rows, self.longest, *flat.shape[1:])

    def flatten(self, padded: Tensor) -> Tensor:
        """Undo `pad`."""
        flat = padded.flatten(0, 1)
        return flat if self.even else flat[self._slots]


class Memory(Protocol):
    """What texts read of some pictures in one layer."""

    def read(self, flat: Tensor, by_picture: Ragged) -> Tensor:
        """Attend from ``(tokens, width)``, each picture's together, and give the context in the same shape."""


class Projected:
    """Keys and values, computed once for all texts.

    Parameters
    ----------
    attention : BlipTextSelfAttention
        A layer's cross-attention.
    states : tensor ``(pictures, patches, picture's width)``
    """

    def __init__(self, attention: Any, states: Tensor) -> None:
        self._attention = attention
        self._keys = _heads(attention, attention.key(states)).transpose(1, 2)  # (pictures, heads, patches, d)
        self._values = _heads(attention, attention.value(states)).transpose(1, 2)

    def read(self, flat: Tensor, by_picture: Ragged) -> Tensor:
        """Attend; see `Memory`."""
        query = by_picture.pad(_heads(self._attention, self._attention.query(flat)))
        context = _attend(query.transpose(1, 2), self._keys, self._values)
        return by_picture.flatten(context.transpose(1, 2)).flatten(1)


class Absorbed:
    """No keys and no values: the maps that make them are applied to the few queries and contexts instead.

    With keys X·Wk + bk, a query's scores are (q·Wkᵀ)·Xᵀ plus the same number q·bk for every patch, which softmax
    ignores; the context is (P·X)·Wv + bv, since P's rows sum up to 1.

    Parameters
    ----------
    attention : BlipTextSelfAttention
        A layer's cross-attention.
    states : tensor ``(pictures, patches, picture's width)``
    """

    def __init__(self, attention: Any, states: Tensor) -> None:
        self._attention, self._states = attention, states

    def read(self, flat: Tensor, by_picture: Ragged) -> Tensor:
        """Attend; see `Memory`."""
        attention, states = self._attention, self._states
        heads, d = attention.num_attention_heads, attention.attention_head_size
        query = _heads(attention, attention.query(flat) * d**-0.5).transpose(0, 1)  # (heads, tokens, d)
        query = query @ attention.key.weight.view(heads, d, -1)  # (heads, tokens, picture's width)
        rows = by_picture.pad(query.transpose(0, 1)).flatten(1, 2)  # (pictures, tokens · heads, picture's width)
        seen = (rows @ states.mT).softmax(-1) @ states
        seen = by_picture.flatten(seen.reshape(len(states), -1, heads, states.shape[2])).transpose(0, 1)
        context = seen @ attention.value.weight.view(heads, d, -1).mT  # (heads, tokens, d)
        biased: Tensor = context.transpose(0, 1).flatten(1) + attention.value.bias
        return biased


def absorbing_pays(tokens: float, patches: int, heads: int, width: int) -> bool:
    """Tell whether so few tokens read a picture that its keys and values are not worth computing.

    Keys and values of a picture cost 4·patches·width² operations; without them, each token costs
    4·patches·width·(heads - 1) more in attention, and 4·width² more around it.
    """
    return tokens * (patches * (heads - 1) + width) < patches * width


def match_logits(
    network: Any, ids: Sequence[Sequence[int]], pictures: Callable[[Sequence[int]], Tensor], wanted: Wanted
) -> Logits:
    """Judge pairs with a `BlipForImageTextRetrieval`.

    Parameters
    ----------
    network : BlipForImageTextRetrieval
    ids : sequence of n sequences of int
        Tokens of the texts, special ones included, not padded.
    pictures : callable
        Gives the last hidden states ``(some, patches, width)`` of the pictures that it is asked for.
    wanted : bool ``(n, pictures)``
        Which pairs to judge.

    Returns
    -------
    float32 ``(n, pictures, 2)``
        Logits of "no match" and "match"; not a number where nobody asked.
    """
    logits = np.full((*wanted.shape, 2), np.nan, dtype=np.float32)
    for some in _parts([len(one) for one in ids]):
        logits[some] = _match_some(network, ids[some], pictures, wanted[some])
    return logits


def _parts(lengths: Sequence[int]) -> Iterator[slice]:
    """Divide texts of so many tokens into parts of about `STARTED` tokens."""
    part_of = (np.cumsum(lengths) - 1) // STARTED
    starts = np.unique(part_of, return_index=True)[1].tolist()
    for start, end in pairwise([*starts, len(lengths)]):
        yield slice(start, end)


def _match_some(
    network: Any, ids: Sequence[Sequence[int]], pictures: Callable[[Sequence[int]], Tensor], wanted: Wanted
) -> Logits:
    logits = np.full((*wanted.shape, 2), np.nan, dtype=np.float32)
    lengths = np.array([len(one) for one in ids], dtype=np.int64)
    device = network.itm_head.weight.device
    started = _start(network.text_encoder, ids)
    for block in _blocks(wanted, lengths, *LIMITS[device.type]):
        states = pictures(block.pictures)
        count = block.tokens / len(block.pictures), block.pairs / len(block.pictures)
        memories = _memories(network.text_encoder.encoder.layer, states, *count)
        if len(block.turns) > 1:
            memories = cache(memories)
        for turn in block.turns:
            texts = [text for some in turn for text in some]
            columns = [picture for picture, some in zip(block.pictures, turn, strict=True) for _ in some]
            logits[texts, columns] = _judge(network, started, turn, memories).float().cpu().numpy()
    return logits


@dataclass(frozen=True)
class _Block:
    """Pictures that are read at once, and for each turn, the texts that read each of them."""

    pictures: list[int]
    turns: list[Turn]
    tokens: int

    @property
    def pairs(self) -> int:
        return sum(len(some) for turn in self.turns for some in turn)


def _blocks(wanted: Wanted, lengths: npt.NDArray[np.int64], tokens: int, pictures: int) -> Iterator[_Block]:
    """Divide the pairs into blocks of at most so many tokens, or of one picture and as many in each turn."""
    readers = lengths @ wanted  # tokens that read each picture
    block: list[int] = []
    for picture in np.argsort(readers, kind="stable")[np.count_nonzero(readers == 0) :].tolist():
        padded = (len(block) + 1) * readers[picture]  # to the picture that most tokens read, which is this one
        if block and (padded > tokens or len(block) == pictures):
            yield _block(block, wanted, lengths, tokens)
            block = []
        block.append(picture)
    if block:
        yield _block(block, wanted, lengths, tokens)


def _block(pictures: list[int], wanted: Wanted, lengths: npt.NDArray[np.int64], limit: int) -> _Block:
    texts = [np.flatnonzero(wanted[:, picture]) for picture in pictures]
    total = int(sum(lengths[some].sum() for some in texts))
    if len(pictures) > 1:
        return _Block(pictures, [[some.tolist() for some in texts]], total)
    (some,) = texts
    some = some[np.argsort(lengths[some], kind="stable")]
    turn_of = (np.cumsum(lengths[some]) - 1) // limit
    return _Block(pictures, [[some[turn_of == turn].tolist()] for turn in np.unique(turn_of)], total)


def _start(encoder: Any, ids: Sequence[Sequence[int]]) -> list[Tensor]:
    """Read each text alone, up to where it first looks at a picture: ``(its tokens, width)`` each."""
    torch = import_torch()
    device, states = encoder.embeddings.word_embeddings.weight.device, []
    for first in range(0, len(ids), TEXTS):
        some = ids[first : first + TEXTS]
        by_text = Ragged([len(one) for one in some], device)
        tokens = torch.tensor([[token for one in some for token in one]], device=device)
        positions = torch.from_numpy(by_text.positions)[None].to(device)
        embedded = encoder.embeddings(input_ids=tokens, position_ids=positions)[0]
        read = _self_attention(encoder.encoder.layer[0], embedded, by_text)
        states += torch.split(read, by_text.lengths.tolist())
    return states


def _memories(layers: Sequence[Any], states: Tensor, tokens: float, pairs: float) -> Callable[[int], Memory]:
    """Give what a layer's texts read; so many tokens read each picture, in the last layer one of each pair."""
    patches, last = states.shape[1], len(layers) - 1

    def memory(number: int) -> Memory:
        attention = layers[number].crossattention.self
        readers = pairs if number == last else tokens
        few = absorbing_pays(readers, patches, attention.num_attention_heads, states.shape[2])
        return Absorbed(attention, states) if few else Projected(attention, states)

    return memory


def _judge(network: Any, started: Sequence[Tensor], turn: Turn, memories: Callable[[int], Memory]) -> Tensor:
    """Give the logits ``(pairs, 2)`` of a turn's pairs, picture by picture."""
    torch = import_torch()
    hidden = torch.cat([started[text] for some in turn for text in some])
    by_pair = Ragged([len(started[text]) for some in turn for text in some], hidden.device)
    by_picture = Ragged([sum(len(started[text]) for text in some) for some in turn], hidden.device)
    layers = network.text_encoder.encoder.layer
    for number, layer in enumerate(layers):
        if number > 0:
            hidden = _self_attention(layer, hidden, by_pair)
        if number == len(layers) - 1:  # only the first token is judged
            hidden = hidden[torch.from_numpy(by_pair.starts).to(hidden.device)]
            by_picture = Ragged([len(some) for some in turn], hidden.device)
        context = memories(number).read(hidden, by_picture)
        hidden = layer.feed_forward_chunk(layer.crossattention.output(context, hidden))
    return network.itm_head(hidden)  # type: ignore[no-any-return]


def _self_attention(layer: Any, hidden: Tensor, by_pair: Ragged) -> Tensor:
    """Let the tokens of each text look at each other: ``(tokens, width)`` → the same."""
    attention = layer.attention.self
    query, key, value = (
        by_pair.pad(_heads(attention, project(hidden))).transpose(1, 2)  # (pairs, heads, longest, d)
        for project in (attention.query, attention.key, attention.value)
    )
    mask = None if by_pair.mask is None else by_pair.mask[:, None, None]
    context = by_pair.flatten(_attend(query, key, value, mask).transpose(1, 2)).flatten(1)
    return layer.attention.output(context, hidden)  # type: ignore[no-any-return]


def _heads(attention: Any, projected: Tensor) -> Tensor:
    """Split ``(…, width)`` into ``(…, heads, d)``."""
    return projected.reshape(*projected.shape[:-1], attention.num_attention_heads, attention.attention_head_size)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    torch = import_torch()
    attend: Callable[..., Tensor] = torch.nn.functional.scaled_dot_product_attention
    return attend(query, key, value, attn_mask=mask)
