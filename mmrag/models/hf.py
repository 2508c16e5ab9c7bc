"""Encoders of transformers: CLIP, SigLIP, AltCLIP, Chinese-CLIP and whatever else has an image and a text tower.

``hf:REFERENCE`` is a model of a hub's that is here, or a folder; which of mmrag's files runs it is in its config.json.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrag.errors import ModelError
from mmrag.models.cards import CARD_NAME, Card, read_card, revision_of
from mmrag.models.checkpoint import Checkpoint
from mmrag.models.image_text import reads_pictures
from mmrag.models.pretrained import (
    load_pretrained,
    load_tokenizer,
    longest_text,
    model_class,
    read_config,
    read_logit_scale,
    read_preprocessing,
    tokenizer_settings,
)
from mmrag.models.tokens import Tokens, count, encode, laid_out, pad_id
from mmrag.models.torch_encoder import TorchEncoder
from mmrag.roles import Identity, Model

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from torch import Tensor

# What reads a model that plays other roles too, or reads texts only.
_BY_TYPE = {
    "blip": "mmrag.models.blip:open_blip",
    "blip-2": "mmrag.models.blip2:open_blip2",
    "instructblip": "mmrag.models.blip2:open_blip2",
}
_SENTENCE = "mmrag.models.sentence:open_sentence"
_CROSS_ENCODER = "mmrag.models.cross_encoder:open_cross_encoder"
_IMAGE_TEXT = "mmrag.models.image_text:open_image_text"

# They pool the last position, wherever the text ends, and their attention is not causal.
_PADDED_IN_FULL = ("siglip", "siglip2", "tipsv2")

_LANGUAGES = {"clip": ("en",), "chinese_clip": ("zh",), "altclip": ("zh", "en")}


class PretrainedEncoder(TorchEncoder):
    """An image tower and a text tower of transformers'.

    Parameters
    ----------
    checkpoint : Checkpoint
        A model whose class has `get_image_features` and `get_text_features`.

    Raises
    ------
    ModelError
        If it has not, or a file is missing or damaged.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._config = read_config(checkpoint)
        self._class = model_class(self._config)
        if not (hasattr(self._class, "get_image_features") and hasattr(self._class, "get_text_features")):
            raise ModelError(_unknown(checkpoint))
        self.preprocessing = read_preprocessing(checkpoint)
        self.card = _card(checkpoint, self._config)
        self.identity = Identity(
            name=self.card.name,
            revision=self.card.revision,
            weights=self.card.weights,
            preprocessing=str(self.preprocessing),
            dimension=self.card.dimension,
        )

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return self._checkpoint.path

    def load_network(self) -> torch.nn.Module:
        """Read the weights from disk, into single precision on the CPU."""
        return load_pretrained(self._checkpoint, self._class)

    def image_vectors(self, network: Any, pixels: Tensor) -> Tensor:
        """Embed ``(n, 3, height, width)`` into ``(n, dimension)``, of any length."""
        return _pooled(network.get_image_features(pixel_values=pixels))

    def text_vectors(self, network: Any, tokens: dict[str, Tensor]) -> Tensor:
        """Embed tokens ``(n, t)`` into ``(n, dimension)``, of any length."""
        return _pooled(network.get_text_features(**tokens))

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tokens]:
        """Make the arrays ``(n, t)`` that the text tower takes; what is too long is cut, with a warning in the log."""
        length = self.card.max_tokens if self.card.text_padding == "full" else None
        arrays = laid_out(encode(self._tokenizer, texts), length=length, pad_id=pad_id(self._tokenizer))
        return {name: arrays[name] for name in self._inputs}

    def _count_tokens(self, texts: Sequence[str]) -> list[int]:
        return count(self._tokenizer, texts)

    def write_tokenizer(self, folder: Path) -> None:
        """Write ``tokenizer.json``."""
        self._tokenizer.save(str(folder / "tokenizer.json"))

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        kind = str(tokenizer_settings(self._checkpoint).get("tokenizer_class"))
        gemma = self._config.model_type == "siglip" and kind.startswith(("Gemma", "Siglip2"))
        lower_case = gemma or self._config.model_type == "siglip2"  # SigLIP 2 was trained so, whatever its files say
        return load_tokenizer(self._checkpoint, self.card.max_tokens, lower_case=lower_case)

    @cached_property
    def _inputs(self) -> tuple[str, ...]:
        """What the text tower is given: all have token types of 0, which are left away."""
        usual = ["input_ids"] if self._config.model_type in _PADDED_IN_FULL else ["input_ids", "attention_mask"]
        named = tokenizer_settings(self._checkpoint).get("model_input_names", usual)
        return tuple(name for name in ("input_ids", "attention_mask") if name in named)


def _pooled(features: Any) -> Tensor:
    """Take the vectors out of what transformers gives: from version 5 on, a tensor no more."""
    vectors: Tensor = getattr(features, "pooler_output", features)
    return vectors[:, 0] if vectors.ndim == 3 else vectors  # of FLAVA's tokens, the first is for the whole


def _card(checkpoint: Checkpoint, config: Any) -> Card:
    text = config.text_config
    weights = checkpoint.fingerprint()
    dimension = getattr(config, "projection_dim", None) or getattr(text, "projection_size", None) or text.hidden_size
    card = Card(
        name=checkpoint.name,
        family="hf",
        revision=revision_of(weights),
        dimension=dimension,
        max_tokens=longest_text(checkpoint, text.to_dict()),
        text_padding="full" if config.model_type in _PADDED_IN_FULL else "longest",
        languages=_LANGUAGES.get(config.model_type, ()) if checkpoint.languages is None else checkpoint.languages,
        logit_scale=read_logit_scale(sorted(checkpoint.path.glob("*.safetensors"))),
        summary=f"A {config.model_type} model, computed by transformers.",
        weights=weights,
        licence_weights=checkpoint.licence,
        sources=(checkpoint.source,),
    )
    return _told(card, checkpoint.path) if (checkpoint.path / CARD_NAME).is_file() else card


def _told(card: Card, folder: Path) -> Card:
    """Complete a card by what cannot be seen from a model's files, from the ``card.toml`` that training wrote."""
    said = read_card(folder)
    told = ("name", "languages", "summary", "licence_weights", "sources", "data", "training", "figures")
    return replace(card, **{name: getattr(said, name) for name in told})


def open_pretrained(reference: str) -> Model:
    """Open a model in the layout of transformers or of sentence-transformers, in all roles that it plays.

    Parameters
    ----------
    reference : str
        The name of a hub's model that is here, or a folder.

    Raises
    ------
    ModelError
        If it is not here, is damaged, or is of a kind that plays no role here.
    """
    checkpoint = Checkpoint.locate(reference)
    other = _opener(checkpoint)
    if other is None:
        return PretrainedEncoder(checkpoint)
    module, _, attribute = other.partition(":")
    opened: Model = getattr(importlib.import_module(module), attribute)(reference)
    return opened


def _opener(checkpoint: Checkpoint) -> str | None:
    config = checkpoint.config
    if any(str(name).endswith("ForSequenceClassification") for name in config.get("architectures") or ()):
        return _CROSS_ENCODER
    if (checkpoint.path / "modules.json").is_file():
        return _SENTENCE
    known = _BY_TYPE.get(str(config.get("model_type")))
    return known or (_IMAGE_TEXT if reads_pictures(config) else None)


def _unknown(checkpoint: Checkpoint) -> str:
    kind = checkpoint.config.get("model_type", "unnamed")
    return (
        f"{checkpoint.reference} is a {kind!r} model, which plays no role here. What can be used: models with an "
        "image and a text tower (CLIP, SigLIP, AltCLIP, Chinese-CLIP …), BLIP, BLIP-2, language models that see "
        "(LLaVA, SmolVLM …), text encoders and cross-encoders in the layout of sentence-transformers. See: mmrag models"
    )
