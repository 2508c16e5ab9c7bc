"""BLIP's three faces in one network to train: what sees, what reads alone or with a picture, and what writes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmrag.models.blip import BlipRetrieval
from mmrag.models.blip_generate import BlipCaptioner
from mmrag.models.blip_network import share_text_weights
from mmrag.models.network import import_transformers
from mmrag.models.pretrained import load_pretrained, read_config
from mmrag.train.objectives.momentum import Queue, follow, twin_of
from mmrag.train.task import Layer

SCALES = (2.0, 1000.0)
"""Between these the learned scale stays: a temperature from .5 to .001 (BLIP's code)."""

FRESH = 0.02
"""Standard deviation of heads that begin without pretrained weights (BERT's)."""


class JointBlip(nn.Module):
    """A BLIP with the text encoder and the text decoder on shared weights, its momentum twin and its queue.

    Li et al. 2022 (https://arxiv.org/abs/2201.12086), section 3.1 and figure 2.

    Parameters
    ----------
    reader, writer : BlipForImageTextRetrieval and BlipTextLMHeadModel
        Of transformers', of one layout; the writer takes over the reader's weights except in self-attention.
    temperature : float
        Where the learned one begins.
    queue : int
        How many of the twin's last pairs a batch is also held against.
    fresh : tuple of str
        Which began without pretrained weights: "reader" (its heads), "writer" (its last layer).
    """

    def __init__(self, reader: Any, writer: Any, *, temperature: float, queue: int, fresh: tuple[str, ...]) -> None:
        super().__init__()
        share_text_weights(reader.text_encoder, writer)
        self.reader, self.writer = reader, writer
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.twin: Any = twin_of(reader)
        self.queue = Queue(queue, reader.vision_proj.out_features)
        self._fresh = fresh

    @classmethod
    def start(cls, model: BlipRetrieval | BlipCaptioner, *, temperature: float, queue: int) -> JointBlip:
        """Begin with a checkpoint that reads, one that writes, or one that does both.

        What the checkpoint lacks begins with the self-attention of what it has, and with a fresh last layer.

        Raises
        ------
        ModelError
            If it is damaged.
        """
        reads, writes = isinstance(model, BlipRetrieval), isinstance(model, BlipCaptioner)
        whole = import_transformers()
        captioner = load_pretrained(model.checkpoint, whole.BlipForConditionalGeneration) if writes else None
        if reads:
            reader = load_pretrained(model.checkpoint, whole.BlipForImageTextRetrieval)
        else:
            reader = _reader_of(captioner, read_config(model.checkpoint))
        writer = captioner.text_decoder if captioner else _writer_of(reader)
        fresh = (*(() if reads else ("reader",)), *(() if writes else ("writer",)))
        return cls(reader, writer, temperature=temperature, queue=queue, fresh=fresh)

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied with, a scalar."""
        return self.log_scale.exp()

    def see(self, pixels: Tensor, *, twin: bool = False) -> Tensor:
        """See ``(n, 3, height, width)``: states ``(n, patches + 1, width)``."""
        states: Tensor = self._face(twin).vision_model(pixel_values=pixels).last_hidden_state
        return states

    def image_vectors(self, states: Tensor, *, twin: bool = False) -> Tensor:
        """Embed pictures that were seen: ``(n, d)`` of unit length."""
        return F.normalize(self._face(twin).vision_proj(states[:, 0]).float(), dim=-1)

    def text_vectors(self, ids: Tensor, mask: Tensor, *, twin: bool = False) -> Tensor:
        """Embed texts ``(n, t)`` that begin with [CLS]: ``(n, d)`` of unit length."""
        face = self._face(twin)
        states = face.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return F.normalize(face.text_proj(states[:, 0]).float(), dim=-1)

    def match(self, ids: Tensor, mask: Tensor, states: Tensor) -> Tensor:
        """Judge n texts that begin with [ENC] together with n pictures: logits ``(n, 2)`` of "no match" and "match"."""
        read = self.reader.text_encoder(input_ids=ids, attention_mask=mask, encoder_hidden_states=states)
        logits: Tensor = self.reader.itm_head(read.last_hidden_state[:, 0])
        return logits.float()

    def write(self, ids: Tensor, mask: Tensor, states: Tensor) -> Tensor:
        """Say what follows each token of n texts that begin with [DEC]: logits ``(n, t, vocabulary)``."""
        said = self.writer(input_ids=ids, attention_mask=mask, encoder_hidden_states=states, use_cache=False)
        logits: Tensor = said.logits
        return logits.float()

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Let the twin follow, and keep the scale within `SCALES`."""
        follow(self.twin, self.reader, momentum=momentum)
        self.log_scale.clamp_(*map(math.log, SCALES))

    def parts(self) -> list[Layer]:
        """Name what is trained, each weight once, by depth: heads are 0, the last block of a tower 1, and so on."""
        reader, words = self.reader, self.writer.cls.predictions
        vision, text = reader.vision_model, reader.text_encoder
        both = [nn.ModuleList(pair) for pair in zip(text.encoder.layer, self._writer_attention(), strict=True)]
        heads = nn.ModuleList([reader.vision_proj, reader.text_proj, reader.itm_head])
        return [
            Layer("temperature", nn.ParameterList([self.log_scale])),
            Layer("heads", heads, fresh="reader" in self._fresh),
            Layer("words", words.transform, fresh="writer" in self._fresh),
            Layer("word bias", nn.ParameterList([words.bias]), fresh="writer" in self._fresh),
            Layer("vision norm", vision.post_layernorm),
            *_by_depth("vision", vision.encoder.layers, vision.embeddings),
            *_by_depth("text", both, text.embeddings),
        ]

    def weights(self) -> dict[str, Tensor]:
        """Give the weights by the names of both of transformers' classes, for a checkpoint that either opens."""
        tied = tuple(f"text_decoder.{name}" for name in self.writer._tied_weights_keys)
        named = {f"text_decoder.{name}": tensor for name, tensor in self.writer.state_dict().items()}
        weights = {**self.reader.state_dict(), **named}
        return {name: tensor.detach().cpu().clone() for name, tensor in weights.items() if name not in tied}

    def _face(self, twin: bool) -> Any:
        return self.twin if twin else self.reader

    def _writer_attention(self) -> list[nn.Module]:
        return [layer.attention for layer in self.writer.bert.encoder.layer]


def _reader_of(captioner: Any, config: Any) -> Any:
    reader = import_transformers().BlipForImageTextRetrieval(config)
    reader.vision_model = captioner.vision_model
    reader.text_encoder.load_state_dict(captioner.text_decoder.bert.state_dict())
    for head in (reader.vision_proj, reader.text_proj, reader.itm_head):
        nn.init.normal_(head.weight, std=FRESH)
        nn.init.zeros_(head.bias)
    return reader


def _writer_of(reader: Any) -> Any:
    from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

    writer = BlipTextLMHeadModel(reader.config.text_config)
    writer.bert.load_state_dict(reader.text_encoder.state_dict())
    return writer


def _by_depth(name: str, blocks: Any, embeddings: nn.Module) -> list[Layer]:
    count = len(blocks)
    parts = [Layer(f"{name} {count - i}", block, depth=count - i) for i, block in enumerate(blocks)]
    return [*parts, Layer(f"{name} {count + 1}", embeddings, depth=count + 1)]
