"""BLIP (Li et al. 2022): one network that embeds, judges, describes and answers, each in checkpoints of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mmrag.errors import InputError, ModelError
from mmrag.models.blip_base import BlipPairs
from mmrag.models.blip_explain import token_relevance
from mmrag.models.blip_generate import BlipAnswerer, BlipCaptioner
from mmrag.models.blip_match import match_logits
from mmrag.models.blip_network import BlipNetwork, picture_states, share_text_weights
from mmrag.models.cards import Role
from mmrag.models.checkpoint import Checkpoint
from mmrag.models.network import as_array, import_transformers
from mmrag.models.pretrained import load_pretrained
from mmrag.roles import Judgement, Scores, TokenHeat, Vectors, Wanted

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


class BlipRetrieval(BlipNetwork, BlipPairs):
    """Embeds pictures and texts (ITC), and judges whether they match (ITM), with one network.

    The score of a pair is the raw logit of "match" plus the cosine, as BLIP's own evaluation ranks.
    """

    architecture = "BlipForImageTextRetrieval"
    summary = "BLIP: embeds pictures and texts, and judges pairs of them."

    def picture_states(self, network: Any, pixels: Tensor) -> Tensor:
        """See ``(n, 3, height, width)``: the vision tower's last hidden states, ``(n, patches + 1, width)``."""
        return picture_states(network, pixels)

    def image_vectors(self, network: Any, pixels: Tensor) -> Tensor:
        """Project the first of a picture's states."""
        projected: Tensor = network.vision_proj(picture_states(network, pixels)[:, 0])
        return projected

    def text_vectors(self, network: Any, tokens: dict[str, Tensor]) -> Tensor:
        """Project the first state of a text that is read without a picture, and begins with [CLS]."""
        states = network.text_encoder(**tokens).last_hidden_state
        projected: Tensor = network.text_proj(states[:, 0])
        return projected

    def match(
        self, texts: Sequence[str], features: Sequence[Vectors], wanted: Wanted | None = None, *, cosines: bool = True
    ) -> Judgement:
        """Judge pairs of texts and pictures; parameters and result as those of `Matcher.match`."""
        wanted = self._pairs(texts, features, wanted)
        if not wanted.any():
            nothing = np.full(wanted.shape, np.nan, dtype=np.float32)
            return Judgement(nothing, nothing, nothing if cosines else None)
        ids = self.with_first(self.ids(texts), self.first)
        with self.running() as network:
            logits = match_logits(network, ids, lambda some: self.tensor(self.stacked(features, some)), wanted)
        itc = self._cosines(texts, features, wanted) if cosines else None
        return Judgement(logits[..., 1], _probability(logits), itc)

    def explain_match(self, text: str, image: Image) -> TokenHeat:
        """Tell which cells make a picture match, by gradient-weighted cross-attention; see `blip_explain`."""
        (ids,) = self.with_first(self.ids([text]), self.first)
        if len(ids) < 3:
            raise InputError(f"the text {text!r} has no token to explain")
        (features,) = self.features([image])
        with self.running() as network:
            relevance = as_array(token_relevance(network, ids, self.tensor(features)))
        side = math.isqrt(relevance.shape[1])
        heats = relevance[1:-1].reshape(-1, side, side)  # without the first and the last, which are special
        return TokenHeat(tuple(str(self.tokenizer.id_to_token(one)) for one in ids[1:-1]), heats)

    def _cosines(self, texts: Sequence[str], features: Sequence[Vectors], wanted: Wanted) -> Scores:
        some = np.flatnonzero(wanted.any(axis=0))
        first = self.tensor(np.stack([features[number][0] for number in some.tolist()]))
        with self.running() as network:
            projected = as_array(network.vision_proj(first))
        itc = np.full(wanted.shape, np.nan, dtype=np.float32)
        itc[:, some] = self.text_side(texts) @ self._checked(projected, (len(some), self.card.dimension)).T
        itc[~wanted] = np.nan
        return itc


def _probability(logits: Scores) -> Scores:
    """Softmax over "no match" and "match" ``(…, 2)``: the latter's share."""
    with np.errstate(over="ignore"):
        share: Scores = 1 / (1 + np.exp(logits[..., 0] - logits[..., 1]))
    return share


class BlipWhole(BlipRetrieval, BlipCaptioner):
    """Embeds, judges and describes: a checkpoint with the weights of both of transformers' classes, as training writes.

    Text encoder and text decoder share all weights but those of self-attention.
    """

    roles: ClassVar[tuple[Role, ...]] = ("encoder", "matcher", "generator")
    summary = "BLIP: embeds pictures and texts, judges pairs of them, and describes pictures."

    def load_network(self) -> Any:
        """Read the weights; of what sees pictures, once."""
        network = super().load_network()
        writer = load_pretrained(self.checkpoint, import_transformers().BlipForConditionalGeneration, dtype=self.dtype)
        network.text_decoder = writer.text_decoder
        share_text_weights(network.text_encoder, network.text_decoder)
        return network


_KINDS: dict[str, type[BlipNetwork]] = {
    kind.architecture: kind for kind in (BlipRetrieval, BlipCaptioner, BlipAnswerer)
}


def open_blip(reference: str) -> BlipNetwork:
    """Open a BLIP checkpoint that is here, by the hub's name or as a folder.

    Raises
    ------
    ModelError
        If it is not here, damaged, or no BLIP.
    """
    checkpoint = Checkpoint.locate(reference)
    architectures = checkpoint.config.get("architectures") or []
    kind = next((_KINDS[name] for name in architectures if name in _KINDS), None)
    if {BlipRetrieval.architecture, BlipCaptioner.architecture} <= set(architectures):
        kind = BlipWhole
    if kind is None:
        raise ModelError(
            f"{reference} is a {' '.join(architectures) or 'model of an unknown architecture'}, "
            f"and family blip runs {', '.join(_KINDS)}, such as blip:Salesforce/blip-itm-base-coco"
        )
    return kind(checkpoint)
