"""BLIP-2's Q-Former with all that its first stage trains (Li et al. 2023, https://arxiv.org/abs/2301.12597)."""

from __future__ import annotations

from math import log
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TEMPERATURE = 0.07
HIGHEST_SCALE = 100.0


class Queries(nn.Module):
    """The learned queries, ``(1, queries, width)``."""

    def __init__(self, query_tokens: nn.Parameter) -> None:
        super().__init__()
        self.query_tokens = query_tokens


class WritingHead(nn.Module):
    """Hidden states → logits of tokens, by the embeddings of the words: BERT's head, which writes for ITG.

    Parameters
    ----------
    width, vocabulary : int
        Of a hidden state, and how many tokens there are.
    """

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, hidden: Tensor, words: Tensor) -> Tensor:
        """Map ``(…, width)`` to ``(…, vocabulary)`` with the embeddings ``(vocabulary, width)``."""
        return F.linear(self.norm(F.gelu(self.dense(hidden))), words, self.bias)


class Objectives(nn.Module):
    """What the first stage trains beside the model: how it writes, and the temperature of its contrast."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.writing = WritingHead(width, vocabulary)
        self.logit_scale = nn.Parameter(torch.tensor(log(1 / TEMPERATURE)))


class TrainedQFormer(nn.Module):
    """A Q-Former that reads pictures and texts under any mask.

    Parameters
    ----------
    retrieval : Blip2ForImageTextRetrieval
        Of transformers; its parts are used and not copied.
    """

    def __init__(self, retrieval: Any) -> None:
        super().__init__()
        self.queries = Queries(retrieval.query_tokens)
        self.embeddings = retrieval.embeddings
        self.qformer = retrieval.qformer
        self.vision_projection = retrieval.vision_projection
        self.text_projection = retrieval.text_projection
        self.itm_head = retrieval.itm_head
        vocabulary, width = self.embeddings.word_embeddings.weight.shape
        self.objectives = Objectives(width, vocabulary)

    @property
    def query_count(self) -> int:
        """How many queries there are."""
        return self.queries.query_tokens.shape[1]

    @property
    def scale(self) -> Tensor:
        """One over the temperature of the contrast."""
        return self.objectives.logit_scale.exp()

    def read(self, states: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Let queries and text look at a picture and at each other, as far as the mask allows.

        Parameters
        ----------
        states : ``(n, patches, width of the image tower)``
            Of pictures, which only queries look at.
        ids : int64 ``(n, t)``
            Tokens of texts.
        mask : bool ``(n, 1, queries + t, queries + t)``
            Of `mmrag.train.objectives.qformer`.

        Returns
        -------
        queries, words : ``(n, queries, width)`` and ``(n, t, width)``
            Their last hidden states.
        """
        queries = self.queries.query_tokens.expand(len(ids), -1, -1)
        hidden = self.qformer(
            query_embeds=self.embeddings(input_ids=ids, query_embeds=queries),
            query_length=self.query_count,
            attention_mask=mask,
            encoder_hidden_states=states,
        ).last_hidden_state
        return hidden[:, : self.query_count], hidden[:, self.query_count :]

    def embed(self, queries: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """Project hidden states to unit vectors: of a picture ``(n, queries, d)``, of its text's [CLS] ``(n, d)``."""
        image_vectors = F.normalize(self.vision_projection(queries).float(), dim=-1)
        return image_vectors, F.normalize(self.text_projection(words[:, 0]).float(), dim=-1)

    def judge(self, queries: Tensor) -> Tensor:
        """Give the logits of "no match" and "match", ``(n, 2)``: the mean over the queries."""
        logits: Tensor = self.itm_head(queries).mean(dim=1)
        return logits

    def write(self, words: Tensor) -> Tensor:
        """Give the logits ``(n, t, vocabulary)`` of what follows each token."""
        logits: Tensor = self.objectives.writing(words, self.embeddings.word_embeddings.weight)
        return logits

    @torch.no_grad()
    def bound_scale(self) -> None:
        """Keep the temperature from vanishing."""
        self.objectives.logit_scale.clamp_(max=log(HIGHEST_SCALE))


def grow_vocabulary(retrieval: Any, size: int, *, like: int) -> None:
    """Give the Q-Former embeddings for `size` tokens; new ones begin as that of the token `like`."""
    old = retrieval.embeddings.word_embeddings
    count, width = old.weight.shape
    if count >= size:
        return
    new = nn.Embedding(size, width, padding_idx=old.padding_idx)
    new.weight.data[:count] = old.weight.data
    new.weight.data[count:] = old.weight.data[like]
    retrieval.embeddings.word_embeddings = new
    retrieval.config.qformer_config.vocab_size = size
