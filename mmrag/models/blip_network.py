"""What every BLIP (the first) has: how it sees a picture and how it reads a text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mmrag.errors import ModelError
from mmrag.models.blip_base import BlipBase
from mmrag.models.checkpoint import Checkpoint
from mmrag.models.network import import_torch
from mmrag.models.tokens import encode, read_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

ENCODE = "[ENC]"
"""The first token of a text that is read together with a picture."""

DECODE = "[DEC]"
"""The first token of a text that is written."""


class BlipNetwork(BlipBase):
    """A BLIP of transformers' (Li et al. 2022).

    Parameters
    ----------
    checkpoint : Checkpoint
        Its files.
    first : str
        What a text that is read together with a picture begins with. BLIP was trained with "[ENC]"; "[CLS]" gives
        the numbers of transformers' own classes, which leave the tokenizer's first token in place.
    """

    family = "blip"
    usual = MappingProxyType(
        {
            "vision_config": {"hidden_size": 768, "image_size": 384, "patch_size": 16},
            "text_config": {
                "vocab_size": 30524,
                "max_position_embeddings": 512,
                "bos_token_id": 30522,
                "sep_token_id": 102,
                "pad_token_id": 0,
            },
        }
    )
    reader = "text_config"
    elsewhere = MappingProxyType(
        {
            "encoder": "blip:Salesforce/blip-itm-base-coco",
            "matcher": "blip:Salesforce/blip-itm-base-coco",
            "generator": "blip:Salesforce/blip-image-captioning-base",
        }
    )

    def __init__(self, checkpoint: Checkpoint, *, first: str = ENCODE) -> None:
        super().__init__(checkpoint)
        self.first = first
        self.text = self.section("text_config")

    def token_ids(self, texts: Sequence[str], first: str) -> list[list[int]]:
        """Turn texts into tokens that begin with `first`, not filled up; what is too long is cut, with a warning."""
        return self.with_first([encoding.ids for encoding in encode(self.tokenizer, texts)], first)

    def with_first(self, ids: Sequence[Sequence[int]], first: str) -> list[list[int]]:
        """Put `first` in the place of [CLS]."""
        number = self.token_id(first)
        return [[number, *one[1:]] for one in ids]

    def token_id(self, token: str) -> int:
        """Give the number of a special token."""
        number = self.tokenizer.token_to_id(token)
        if number is None or number >= self.text["vocab_size"]:
            raise ModelError(
                f"{self.checkpoint.path} has no token {token}: its tokenizer and the vocabulary of "
                f"{self.text['vocab_size']} in config.json do not fit each other; fetch it again"
            )
        return int(number)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """BERT's tokenizer with BLIP's two tokens; hubs store it without them."""
        tokenizer = read_tokenizer(self.checkpoint.path, self.card.max_tokens)
        tokenizer.no_padding()
        tokenizer.add_special_tokens([DECODE, ENCODE])  # in BLIP's order; those that are there stay
        tokenizer.encode_special_tokens = True  # "[SEP]" in a text is a word, and no command
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


def share_text_weights(encoder: Any, decoder: Any) -> None:
    """Let what writes use the weights of what reads, except in self-attention (BLIP, section 3.1).

    Parameters
    ----------
    encoder, decoder : BlipTextModel and BlipTextLMHeadModel
        Of transformers', of one layout. The encoder's weights stay.
    """
    decoder.bert.embeddings = encoder.embeddings
    for reads, writes in zip(encoder.encoder.layer, decoder.bert.encoder.layer, strict=True):
        writes.crossattention, writes.intermediate, writes.output = (
            reads.crossattention,
            reads.intermediate,
            reads.output,
        )
    words = decoder.cls.predictions
    words.decoder.weight = encoder.embeddings.word_embeddings.weight
    words.decoder.bias = words.bias
