"""What every BLIP has: its files, its card, how it sees a picture and how it reads a text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mmrag.errors import ModelError
from mmrag.models.cards import Card, Role, revision_of
from mmrag.models.checkpoint import Checkpoint
from mmrag.models.network import TorchModel, import_torch, import_transformers
from mmrag.models.preprocess import Preprocessing, Transform
from mmrag.models.pretrained import load_pretrained
from mmrag.models.tokens import encode, read_tokenizer
from mmrag.roles import Identity, Pixels

if TYPE_CHECKING:
    from PIL.Image import Image
    from tokenizers import Encoding, Tokenizer
    from torch import Tensor

ENCODE = "[ENC]"
"""The first token of a text that is read together with a picture."""

DECODE = "[DEC]"
"""The first token of a text that is written."""

_VISION = {"hidden_size": 768, "image_size": 384, "patch_size": 16}
_TEXT = {
    "vocab_size": 30524,
    "max_position_embeddings": 512,
    "bos_token_id": 30522,
    "sep_token_id": 102,
    "pad_token_id": 0,
}


class BlipNetwork(TorchModel):
    """A BLIP of transformers' (Li et al. 2022).

    Attributes
    ----------
    architecture : str
        transformers' class.
    roles : tuple of str
        That such checkpoints play.

    Parameters
    ----------
    checkpoint : Checkpoint
        Its files.
    first : str
        What a text that is read together with a picture begins with. BLIP was trained with "[ENC]"; "[CLS]" gives
        the numbers of transformers' own classes, which leave the tokenizer's first token in place.

    Raises
    ------
    ModelError
        If a file is missing, damaged or does not fit the others.
    """

    architecture: ClassVar[str]
    roles: ClassVar[tuple[Role, ...]]
    preprocessing: Preprocessing | Transform

    elsewhere = {  # noqa: RUF012
        "encoder": "blip:Salesforce/blip-itm-base-coco",
        "matcher": "blip:Salesforce/blip-itm-base-coco",
        "generator": "blip:Salesforce/blip-image-captioning-base",
    }

    def __init__(self, checkpoint: Checkpoint, *, first: str = ENCODE) -> None:
        self.checkpoint, self.first = checkpoint, first
        self.vision = _VISION | _section(checkpoint, "vision_config")
        self.text = _TEXT | _section(checkpoint, "text_config")
        self.preprocessing = Preprocessing.read(checkpoint.path / "preprocessor_config.json")
        seen, side = (self.preprocessing.height, self.preprocessing.width), self.vision["image_size"]
        if seen != (side, side):
            raise ModelError(
                f"{checkpoint.path} prepares pictures of {seen} pixels for a network of {side}: download it again"
            )
        weights = checkpoint.fingerprint()
        self.card = Card(
            name=checkpoint.name,
            family="blip",
            revision=revision_of(weights),
            dimension=checkpoint.config.get("image_text_hidden_size", 256),
            roles=self.roles,
            max_tokens=self.text["max_position_embeddings"],
            languages=("en",),
            summary=f"BLIP ({self.architecture}), run by transformers.",
            weights=weights,
            licence_weights=checkpoint.licence,
            sources=(checkpoint.source,),
        )
        self.identity = Identity(
            self.card.name, self.card.revision, weights, str(self.preprocessing), self.card.dimension
        )

    def load_network(self) -> Any:
        """Read the weights; every one must be there."""
        return load_pretrained(self.checkpoint, getattr(import_transformers(), self.architecture))

    def pixels(self, images: Sequence[Image]) -> Pixels:
        """Prepare pictures, ``(n, 3, height, width)``."""
        return np.stack([self.preprocessing(image, exact=self.precision == "fp32") for image in images])

    def encodings(self, texts: Sequence[str]) -> list[Encoding]:
        """Turn texts into tokens; what is too long is cut, with a warning in the log."""
        return encode(self.tokenizer, texts)

    def with_first(self, encodings: Sequence[Encoding], first: str) -> list[list[int]]:
        """Give the tokens, special ones included and not padded, with `first` in the place of [CLS]."""
        number = self.token_id(first)
        return [[number, *encoding.ids[1:]] for encoding in encodings]

    def token_ids(self, texts: Sequence[str], first: str) -> list[list[int]]:
        """Turn texts into tokens that begin with `first`."""
        return self.with_first(self.encodings(texts), first)

    def token_id(self, token: str) -> int:
        """Give the number of a special token."""
        number = self.tokenizer.token_to_id(token)
        if number is None or number >= self.text["vocab_size"]:
            raise ModelError(
                f"{self.checkpoint.path} has no token {token}: its tokenizer and the vocabulary of "
                f"{self.text['vocab_size']} in config.json do not fit each other; download it again"
            )
        return int(number)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """BERT's tokenizer with BLIP's two tokens; hubs store it without them."""
        tokenizer = read_tokenizer(self.checkpoint.path, self.card.max_tokens)
        tokenizer.no_padding()
        tokenizer.add_special_tokens([DECODE, ENCODE])  # in BLIP's order; those that are there stay
        return tokenizer


def picture_states(network: Any, pixels: Tensor) -> Tensor:
    """See pictures ``(n, 3, height, width)``: the vision tower's last hidden states, ``(n, patches + 1, width)``.

    As transformers' BlipVisionModel does, but with torch's fused attention, which never writes the weights of all
    patches for all patches down.
    """
    vision = network.vision_model
    hidden = vision.embeddings(pixels)
    for layer in vision.encoder.layers:
        hidden = hidden + _look(layer.self_attn, layer.layer_norm1(hidden))
        hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
    states: Tensor = vision.post_layernorm(hidden)
    return states


def _look(attention: Any, hidden: Tensor) -> Tensor:
    """Let the patches ``(n, patches + 1, width)`` look at each other."""
    torch = import_torch()
    split = attention.qkv(hidden).unflatten(-1, (3, attention.num_heads, attention.head_dim))
    query, key, value = split.permute(2, 0, 3, 1, 4)  # (n, heads, patches + 1, d) each
    context = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    projected: Tensor = attention.projection(context.transpose(1, 2).flatten(2))
    return projected


def _section(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    section = checkpoint.config.get(name) or {}
    if not isinstance(section, dict):
        raise ModelError(f"{checkpoint.path / 'config.json'}: {name} is not a table")
    return section
