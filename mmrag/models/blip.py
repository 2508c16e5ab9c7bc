"""BLIP (Li et al. 2022): one network that embeds, judges, describes and answers, each in checkpoints of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mmrag.errors import InputError, ModelError
from mmrag.models.blip_generate import BlipAnswerer, BlipCaptioner
from mmrag.models.blip_match import match_logits
from mmrag.models.blip_network import BlipNetwork, picture_states
from mmrag.models.checkpoint import Checkpoint
from mmrag.models.network import as_array
from mmrag.models.tokens import Tokens, laid_out
from mmrag.models.torch_encoder import TorchEncoder
from mmrag.roles import Judgement, Matcher, Scores, Vectors, Wanted

if TYPE_CHECKING:
    from PIL.Image import Image
    from tokenizers import Encoding
    from torch import Tensor


class BlipRetrieval(BlipNetwork, TorchEncoder, Matcher):
    """Embeds pictures and texts (ITC), and judges whether they match (ITM), with one network.

    The score of a pair is the raw logit of "match" plus the cosine, as BLIP's own evaluation ranks.
    """

    architecture = "BlipForImageTextRetrieval"
    roles = ("encoder", "matcher")

    @property
    def feature_shape(self) -> tuple[int, int]:  # type: ignore[override]
        """Of a picture's features: ``(patches + 1, width)``."""
        return (self.vision["image_size"] // self.vision["patch_size"]) ** 2 + 1, self.vision["hidden_size"]

    def image_vectors(self, network: Any, pixels: Tensor) -> Tensor:
        """Project the first of a picture's states."""
        projected: Tensor = network.vision_proj(picture_states(network, pixels)[:, 0])
        return projected

    def text_vectors(self, network: Any, tokens: dict[str, Tensor]) -> Tensor:
        """Project the first state of a text that is read without a picture."""
        states = network.text_encoder(**tokens).last_hidden_state
        projected: Tensor = network.text_proj(states[:, 0])
        return projected

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tokens]:
        """Make "input_ids" and "attention_mask", ``(n, t)``; texts that are read alone begin with [CLS]."""
        return _arrays(self.encodings(texts))

    def features(self, items: Sequence[Image]) -> Any:
        """See pictures: the vision tower's last hidden states, float32 ``(n, patches + 1, width)``."""
        seen = np.empty((len(items), *self.feature_shape), dtype=np.float32)
        for start in range(0, len(items), self.batch):
            pixels = self.pixels(items[start : start + self.batch])
            with self.running() as network:
                seen[start : start + self.batch] = as_array(picture_states(network, self.tensor(pixels)))
        return seen

    def match(
        self, texts: Sequence[str], features: Sequence[Vectors], wanted: Wanted | None = None, *, cosines: bool = True
    ) -> Judgement:
        """Judge pairs of texts and pictures; parameters and result as those of `Matcher.match`."""
        wanted = self._pairs(texts, features, wanted)
        for number, one in enumerate(features):
            if np.shape(one) != self.feature_shape:
                raise InputError(
                    f"features[{number}] has the shape {np.shape(one)}, not {self.feature_shape}; "
                    f"make them with `features` of {self.card.name}"
                )
        if not wanted.any():
            nothing = np.full(wanted.shape, np.nan, dtype=np.float32)
            return Judgement(nothing, nothing, nothing if cosines else None)
        encodings = self.encodings(texts)
        ids = self.with_first(encodings, self.first)
        with self.running() as network:
            logits = match_logits(network, ids, lambda some: self.tensor(np.stack([features[i] for i in some])), wanted)
            if not cosines:
                return Judgement(logits[..., 1], _probability(logits))
            itc = self._text_side(network, encodings) @ self._picture_side(network, features).T
        return Judgement(logits[..., 1], _probability(logits), np.where(wanted, itc, np.float32(np.nan)))

    def _text_side(self, network: Any, encodings: Sequence[Encoding]) -> Vectors:
        vectors = []
        for start in range(0, len(encodings), self.batch):
            arrays = _arrays(encodings[start : start + self.batch])
            tensors = {name: self.tensor(array) for name, array in arrays.items()}
            vectors.append(as_array(self.text_vectors(network, tensors)))
        return self._checked(np.concatenate(vectors), (len(encodings), self.card.dimension))

    def _picture_side(self, network: Any, features: Sequence[Vectors]) -> Vectors:
        vectors = as_array(network.vision_proj(self.tensor(np.stack([one[0] for one in features]))))
        return self._checked(vectors, (len(features), self.card.dimension))


def _arrays(encodings: Sequence[Encoding]) -> dict[str, Tokens]:
    arrays = laid_out(encodings)
    return {name: arrays[name] for name in ("input_ids", "attention_mask")}


def _probability(logits: Scores) -> Scores:
    """Softmax over "no match" and "match" ``(…, 2)``: the latter's share."""
    with np.errstate(over="ignore"):
        share: Scores = 1 / (1 + np.exp(logits[..., 0] - logits[..., 1]))
    return share


_KINDS = {kind.architecture: kind for kind in (BlipRetrieval, BlipCaptioner, BlipAnswerer)}


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
    if kind is None:
        raise ModelError(
            f"{reference} is a {' '.join(architectures) or 'model of an unknown architecture'}, "
            f"and family blip runs {', '.join(_KINDS)}, such as blip:Salesforce/blip-itm-base-coco"
        )
    return kind(checkpoint)
