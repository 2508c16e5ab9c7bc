"""BLIP-2: pictures through 32 queries (Li et al. 2023, https://arxiv.org/abs/2301.12597).

A picture has 32 vectors, a text has one, and their cosine is the highest of the 32. Two pictures are as like as the
mean, over the one's 32 vectors, of the highest cosine to the other's 32.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mmrag.errors import ModelError
from mmrag.models.blip2_generate import Blip2Generator, InstructBlip
from mmrag.models.blip2_network import Blip2Network
from mmrag.models.blip_base import BlipPairs
from mmrag.models.checkpoint import Checkpoint
from mmrag.models.network import as_array, import_torch
from mmrag.models.tokens import Tokens, read_tokenizer
from mmrag.roles import Judgement, Model, Scores, Vectors, Wanted

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

    from mmrag.models.qformer import QFormer


def open_blip2(reference: str) -> Model:
    """Open a checkpoint of BLIP-2 or InstructBLIP that is here, by its path or its name on the hub.

    Raises
    ------
    ModelError
        If it is not here, damaged, or of another architecture.
    """
    checkpoint = Checkpoint.locate(reference)
    kinds = {kind.architecture: kind for kind in (Blip2Retrieval, Blip2Generator, InstructBlip)}
    named = (checkpoint.config.get("architectures") or [None])[0]
    if named not in kinds:
        raise ModelError(
            f"{checkpoint.reference} is a {named}; blip2: opens {', '.join(kinds)}, "
            "such as blip2:Salesforce/blip2-itm-vit-g"
        )
    return kinds[named](checkpoint)


class Blip2Retrieval(Blip2Network, BlipPairs):
    """BLIP-2's first stage: cosines by its 32 queries (ITC), and judgement of pairs (ITM).

    Parameters
    ----------
    checkpoint : Checkpoint
        A `Blip2ForImageTextRetrieval` as transformers saves it.

    Attributes
    ----------
    pictures_at_once, pairs_at_once : int
        Bounds of what `match` keeps in memory.
    """

    architecture = "Blip2ForImageTextRetrieval"
    summary = "BLIP-2: a picture has 32 vectors, and its cosine to a text is the highest of theirs; judges pairs."
    pictures_at_once = 16
    pairs_at_once = 32

    def picture_states(self, network: Any, pixels: Tensor) -> Tensor:
        """See ``(n, 3, height, width)``: the patches' last hidden state, ``(n, *feature_shape)``."""
        hidden: Tensor = network.vision_model(pixel_values=pixels).last_hidden_state
        return hidden

    def image_vectors(self, network: Any, pixels: Tensor) -> Tensor:
        """Embed ``(n, 3, height, width)`` into ``(n, queries, dimension)``."""
        return _query_vectors(network, _qformer(network).look(self.picture_states(network, pixels)), len(pixels))

    def text_vectors(self, network: Any, tokens: dict[str, Tensor]) -> Tensor:
        """Embed tokens ``(n, t)`` into ``(n, dimension)``, from their [CLS]."""
        embedded = network.embeddings(input_ids=tokens["input_ids"])
        hidden = network.qformer(query_embeds=embedded, query_length=0, attention_mask=tokens["attention_mask"])
        vectors: Tensor = network.text_projection(hidden.last_hidden_state[:, 0])
        return vectors

    def match(
        self, texts: Sequence[str], features: Sequence[Any], wanted: Wanted | None = None, *, cosines: bool = True
    ) -> Judgement:
        """Judge pairs of texts and pictures: queries and text attend to each other, and the queries to the picture.

        Parameters
        ----------
        texts : sequence of str
            What is longer than the card's `max_tokens` is cut, with a warning in the log.
        features : sequence of float32 ``feature_shape``
            n entries, as `features` gives them.
        wanted : bool ``(texts, n)`` or None
            Which pairs to judge; by default all.
        cosines : bool
            Whether to tell the cosines too; false where they are known already.

        Returns
        -------
        Judgement
            The logit is the mean over the queries, as the reference's `logits_per_image[:, 1]`.

        Raises
        ------
        InputError
            If something has another shape than this.
        """
        wanted = self._pairs(texts, features, wanted)
        judged = np.full((3, *wanted.shape), np.nan, dtype=np.float32)  # logits, probabilities, cosines
        groups = self._equally_long(texts)
        text_vectors = self.text_side(texts) if cosines else None
        some = np.flatnonzero(wanted.any(axis=0))
        for start in range(0, len(some), self.pictures_at_once):
            block = some[start : start + self.pictures_at_once]
            with self.running() as network:
                seen = _qformer(network).look(self.tensor(self.stacked(features, block)))
                if text_vectors is not None:
                    picture_vectors = _unit(as_array(_query_vectors(network, seen, len(block))))
                    itc = np.tensordot(text_vectors, picture_vectors, (1, 2)).max(axis=2)  # (texts, b, queries) → max
                    judged[2][:, block] = np.where(wanted[:, block], itc, np.nan)
                for pairs in _in_parts(groups, wanted[:, block], self.pairs_at_once):
                    judged[:2, pairs.rows, block[pairs.columns]] = self._judge(network, seen, pairs)
        return Judgement(judged[0], judged[1], judged[2] if cosines else None)

    def _judge(self, network: Any, seen: Any, pairs: Pairs) -> Scores:
        """Judge p pairs: logits and probabilities, float32 ``(2, p)``."""
        qformer = _qformer(network)
        words, texts = qformer.embed(self.tensor(pairs.ids)), self.tensor(pairs.texts)
        queries = qformer(seen, self.tensor(pairs.columns), words, texts)
        logits = network.itm_head(queries).float().mean(dim=1)  # (p, queries, 2) → (p, 2)
        scores: Scores = as_array(import_torch().stack([logits[:, 1], logits.softmax(dim=1)[:, 1]]))
        return scores

    def _equally_long(self, texts: Sequence[str]) -> list[Group]:
        """Group texts by their length in tokens, so that none is filled up."""
        lengths = defaultdict(list)
        for row, ids in enumerate(self.ids(texts)):
            lengths[len(ids)].append((row, np.array(ids)))
        return [Group(*(np.array(column) for column in zip(*group, strict=True))) for group in lengths.values()]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """BERT's tokenizer."""
        tokenizer = read_tokenizer(self.checkpoint.path, self.card.max_tokens)
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # "<image>" in a text is a word: the Q-Former embeds no such token
        return tokenizer


class Group(NamedTuple):
    """Texts that are equally long: their rows ``(g,)`` and tokens ``(g, t)``."""

    rows: Tokens
    ids: Tokens


class Pairs(NamedTuple):
    """p pairs of u texts, equally long, and some pictures.

    Attributes
    ----------
    rows, columns : int64 ``(p,)``
        Which text and which picture.
    ids : int64 ``(u, t)``
        The texts' tokens.
    texts : int64 ``(p,)``
        Which of the `ids` a pair has.
    """

    rows: Tokens
    columns: Tokens
    ids: Tokens
    texts: Tokens


def _in_parts(groups: Sequence[Group], wanted: Wanted, size: int) -> Iterator[Pairs]:
    """Divide the pairs that are wanted, bool ``(texts, pictures)``, into parts of at most `size`."""
    for group in groups:
        members, columns = np.nonzero(wanted[group.rows])
        for start in range(0, len(members), size):
            part = slice(start, start + size)
            used, texts = np.unique(members[part], return_inverse=True)
            yield Pairs(group.rows[members[part]], columns[part], group.ids[used], texts)


def _qformer(network: Any) -> QFormer:
    from mmrag.models.qformer import QFormer  # imports torch

    return QFormer(network)


def _query_vectors(network: Any, seen: Any, count: int) -> Tensor:
    """Embed the first `count` pictures seen into ``(count, queries, dimension)``, of any length."""
    torch = import_torch()
    pictures = torch.arange(count, device=network.query_tokens.device)
    no_words = network.query_tokens[:, :0]  # (1, 0, width)
    queries = _qformer(network)(seen, pictures, no_words, torch.zeros_like(pictures))
    vectors: Tensor = network.vision_projection(queries)
    return vectors


def _unit(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), dtype=np.float32)
