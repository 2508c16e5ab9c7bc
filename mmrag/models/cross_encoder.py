"""Cross-encoders of the sentence-transformers layout: a query and a text go through one network together."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from mmrag.errors import ModelError
from mmrag.models.cards import Card, revision_of
from mmrag.models.checkpoint import Checkpoint
from mmrag.models.network import TorchModel, as_array, import_transformers
from mmrag.models.pretrained import load_pretrained, load_tokenizer, longest_text, read_config
from mmrag.models.tokens import pad_id
from mmrag.roles import Identity, Judgement, Matcher, Scores, Wanted

if TYPE_CHECKING:
    import torch
    from tokenizers import Encoding, Tokenizer

logger = logging.getLogger("mmrag")

_KIND = "ForSequenceClassification"


def open_cross_encoder(reference: str) -> CrossEncoder:
    """Open a cross-encoder that is here: a folder, or what `mmrag models pull` has fetched."""
    return CrossEncoder(Checkpoint.locate(reference))


class CrossEncoder(TorchModel, Matcher):
    """(query, text) pairs → the one logit of a network for sequence classification.

    The probability is the logit's logistic function: what sentence-transformers' `CrossEncoder.predict` gives
    where the model's configuration names no other activation.

    Parameters
    ----------
    checkpoint : Checkpoint
        Its files.

    Raises
    ------
    ModelError
        If this is no network with one logit for a pair of texts.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        _check(checkpoint)
        self.checkpoint = checkpoint
        weights = checkpoint.fingerprint()
        self.card = Card(
            name=checkpoint.name,
            family="cross",
            revision=revision_of(weights),
            dimension=0,
            roles=("matcher",),
            modalities=("text",),
            max_tokens=longest_text(checkpoint, read_config(checkpoint).to_dict()),
            languages=checkpoint.languages or (),
            weights=weights,
            licence_weights=checkpoint.licence,
            sources=(checkpoint.source,),
            summary="Judges how well a text answers a query.",
        )
        self.identity = Identity(self.card.name, self.card.revision, weights, "", self.card.dimension)

    @property
    def batch(self) -> int:  # type: ignore[override]
        """How many pairs go through the network at once."""
        return 16 if self.device == "cpu" else 128

    def load_network(self) -> torch.nn.Module:
        """Read the weights from disk."""
        return load_pretrained(self.checkpoint, import_transformers().AutoModelForSequenceClassification)

    def features(self, items: Sequence[Any]) -> Sequence[Any]:
        """Give the texts themselves: a query and a text go through every layer together."""
        return items

    def match(
        self,
        texts: Sequence[str],
        features: Sequence[Any],
        wanted: Wanted | None = None,
        *,
        cosines: bool = True,  # noqa: ARG002
    ) -> Judgement:
        """Judge pairs of queries and texts, sorted by length; there are no cosines."""
        wanted = self._pairs(texts, features, wanted)
        pairs = np.argwhere(wanted).tolist()
        logits, probabilities = np.full((2, *wanted.shape), np.nan, dtype=np.float32)
        if pairs:
            found = self._logits([(texts[row], features[column]) for row, column in pairs])
            at = tuple(np.transpose(pairs))
            logits[at], probabilities[at] = found, np.exp(-np.logaddexp(0, -found))
        return Judgement(logits, probabilities)

    @cached_property
    def _tokenizer(self) -> tuple[Tokenizer, int]:
        """The tokenizer, which cuts the longer of two texts first, and what fills up the shorter pairs."""
        tokenizer = load_tokenizer(self.checkpoint, self.card.max_tokens)
        padding = pad_id(tokenizer)
        tokenizer.no_padding()
        return tokenizer, padding

    @cached_property
    def _inputs(self) -> set[str]:
        with self.running() as network:
            return set(inspect.signature(network.forward).parameters)

    def _logits(self, pairs: Sequence[tuple[str, str]]) -> Scores:
        tokenizer, padding = self._tokenizer
        encodings = tokenizer.encode_batch(list(pairs))
        cut = sum(bool(encoding.overflowing) for encoding in encodings)
        if cut:
            logger.warning(
                "%s reads %d tokens; of %d of %d pairs the rest is cut",
                self.card.name,
                self.card.max_tokens,
                cut,
                len(pairs),
            )
        logits = np.empty(len(pairs), dtype=np.float32)
        order = np.argsort([len(encoding.ids) for encoding in encodings], kind="stable")
        for start in range(0, len(pairs), self.batch):
            some = order[start : start + self.batch]
            logits[some] = self._forward([encodings[n] for n in some], padding)
        return logits

    def _forward(self, encodings: Sequence[Encoding], padding: int) -> Scores:
        arrays = _laid_out(encodings, padding)
        with self.running() as network:
            inputs = {name: self.tensor(array) for name, array in arrays.items() if name in self._inputs}
            logits: Scores = as_array(network(**inputs).logits[:, 0])
        return logits


def _laid_out(encodings: Sequence[Encoding], padding: int) -> dict[str, Any]:
    """Lay pairs out as int64 ``(pairs, longest)`` arrays, which tell the first text from the second."""
    shape = len(encodings), max(len(encoding.ids) for encoding in encodings)
    ids = np.full(shape, padding, dtype=np.int64)
    mask, types = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for row, encoding in enumerate(encodings):
        length = len(encoding.ids)
        ids[row, :length], mask[row, :length], types[row, :length] = encoding.ids, 1, encoding.type_ids
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def _check(checkpoint: Checkpoint) -> None:
    named = checkpoint.config.get("architectures") or ["none"]
    labels = len(checkpoint.config.get("id2label") or {}) or checkpoint.config.get("num_labels", 2)
    if not str(named[0]).endswith(_KIND):
        raise ModelError(f"{checkpoint.reference} is no cross-encoder: its network is {named[0]}, not one …{_KIND}")
    if labels != 1:
        raise ModelError(
            f"{checkpoint.reference} gives {labels} logits for a pair of texts; a cross-encoder that reranks gives one"
        )
