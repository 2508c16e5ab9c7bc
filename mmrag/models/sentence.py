"""Text encoders in the layout of sentence-transformers: a transformer, pooling, dense layers; texts → unit vectors.

A folder that also has ``onnx/model.onnx`` runs in ONNX Runtime, without torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np

from mmrag.errors import ModelError
from mmrag.models.cards import Card, revision_of
from mmrag.models.checkpoint import Checkpoint
from mmrag.models.pooling import POOLINGS, pooled
from mmrag.models.pretrained import encoder_class, load_pretrained, load_tokenizer, longest_text, read_config
from mmrag.models.tokens import Tokens, count, encode, laid_out, pad_id
from mmrag.models.torch_encoder import TorchEncoder
from mmrag.roles import Encoder, Identity, Vectors

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from torch import Tensor

    from mmrag.models.engines import OnnxRuntimeSession

_SETTINGS = "config_sentence_transformers.json"
_STORED_PROMPTS = ("document", "passage", "corpus")

_ONNX_OUTPUTS = ("sentence_embedding", "token_embeddings", "last_hidden_state")
_ONNX_FILES = {
    "fp32": ("model.onnx",),
    "int8": ("model_int8.onnx", "model_quantized.onnx", "model_qint8_avx512_vnni.onnx", "model_uint8.onnx"),
}

# Activations of dense layers, by their class's name.
_ACTIVATIONS = ("Tanh", "Identity", "ReLU", "GELU", "SiLU", "Sigmoid")


@dataclass(frozen=True)
class Dense:
    """A dense layer behind the pooling.

    Attributes
    ----------
    path : path
        The folder with its weights.
    inputs, outputs : int
        Lengths of vectors.
    bias : bool
        Whether it adds something.
    activation : str
        One of torch's, by its class's name.
    """

    path: Path
    inputs: int
    outputs: int
    bias: bool
    activation: str

    @classmethod
    def read(cls, folder: Path) -> Dense:
        """Read its ``config.json``.

        Raises
        ------
        ModelError
            If it is missing or damaged, or asks for something that cannot be done.
        """
        config = _read_json(folder / "config.json")
        activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
        elsewhere = config.get("module_input_name", "sentence_embedding") != "sentence_embedding"
        if activation not in _ACTIVATIONS or elsewhere or config.get("use_residual"):
            raise ModelError(
                f"{folder}: a dense layer of pooled vectors without a residual, and one of the activations "
                f"{', '.join(_ACTIVATIONS)} can be done, not {activation}"
            )
        try:
            return cls(folder, config["in_features"], config["out_features"], config.get("bias", True), activation)
        except KeyError as error:
            raise ModelError(f"{folder / 'config.json'} is not a dense layer's: it lacks {error}") from error

    def load(self) -> torch.nn.Module:
        """Load the layer and its activation."""
        import torch

        layer = torch.nn.Linear(self.inputs, self.outputs, bias=self.bias)
        weights = {name.removeprefix("linear."): one for name, one in _read_tensors(self.path).items()}
        try:
            layer.load_state_dict(weights)
        except RuntimeError as error:
            raise ModelError(f"the weights of {self.path} do not fit: {error}") from error
        return torch.nn.Sequential(layer, getattr(torch.nn, self.activation)())


@dataclass(frozen=True)
class SentenceLayout:
    """What the modules of a folder do, one after the other.

    Attributes
    ----------
    checkpoint : Checkpoint
        The transformer's own folder.
    poolings : tuple of str
        How the vectors of tokens become one; several are put one behind the other.
    dimension : int
        Of the vectors at the end.
    max_tokens : int
        Where longer texts are cut.
    dense : tuple of Dense
        The dense layers behind the pooling.
    lower_case : bool
        Whether texts are made lower-case first.
    query_prompt, stored_prompt : str
        What stands before a text that is asked, and before one that is stored.
    """

    checkpoint: Checkpoint
    poolings: tuple[str, ...]
    dimension: int
    max_tokens: int
    dense: tuple[Dense, ...] = ()
    lower_case: bool = False
    query_prompt: str = ""
    stored_prompt: str = ""

    @classmethod
    def read(cls, checkpoint: Checkpoint) -> SentenceLayout:
        """Read ``modules.json`` and what it names.

        Raises
        ------
        ModelError
            If a file is missing or damaged, or a module is none that can be run.
        """
        folder = checkpoint.path
        modules = [(str(one["type"]).rpartition(".")[2], folder / one["path"]) for one in _read_modules(folder)]
        kinds = [kind for kind, _ in modules]
        if kinds[:2] != ["Transformer", "Pooling"] or set(kinds[2:]) - {"Dense", "Normalize", "Dropout"}:
            raise ModelError(
                f"{checkpoint.reference} is made of {', '.join(kinds)}; what can be run is a Transformer, then "
                "Pooling, then any of Dense and Normalize"
            )
        if "Normalize" in kinds and "Dense" in kinds[kinds.index("Normalize") :]:
            raise ModelError(
                f"{checkpoint.reference} makes vectors unit vectors before a dense layer, which cannot be done yet; "
                "what can be run is a Transformer, then Pooling, then Dense layers, and Normalize at the end"
            )
        own = checkpoint.within(modules[0][1])
        poolings, dimension = _read_pooling(modules[1][1])
        dense = tuple(Dense.read(path) for kind, path in modules if kind == "Dense")
        settings, prompts = _optional(own.path / "sentence_bert_config.json"), _optional(folder / _SETTINGS)
        said = prompts.get("prompts") or {}
        return cls(
            checkpoint=own,
            poolings=poolings,
            dimension=dense[-1].outputs if dense else dimension,
            max_tokens=settings.get("max_seq_length") or longest_text(own, own.config),
            dense=dense,
            lower_case=bool(settings.get("do_lower_case")),
            query_prompt=said.get("query") or "",
            stored_prompt=next(filter(None, (said.get(name) for name in _STORED_PROMPTS)), ""),
        )

    def tokens(self, texts: Sequence[str]) -> dict[str, Tokens]:
        """Make the arrays ``(n, t)`` that the transformer takes; what is too long is cut, with a warning in the log."""
        arrays = laid_out(encode(self.tokenizer, texts), pad_id=pad_id(self.tokenizer))
        return {name: arrays[name] for name in ("input_ids", "attention_mask")}

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of texts that are stored, behind their prompt, if they were not cut."""
        return count(self.tokenizer, [self.stored_prompt + text for text in texts])

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, which cuts at `max_tokens`."""
        return load_tokenizer(self.checkpoint, self.max_tokens, lower_case=self.lower_case)

    @property
    def onnx(self) -> dict[str, Path]:
        """The transformer as ONNX files, by precision; empty if dense layers follow, which these do not hold."""
        folder = self.checkpoint.path / "onnx"
        if self.dense or not (folder / _ONNX_FILES["fp32"][0]).is_file():
            return {}
        found = {
            precision: next((folder / name for name in names if (folder / name).is_file()), None)
            for precision, names in _ONNX_FILES.items()
        }
        return {precision: path for precision, path in found.items() if path is not None}


class SentenceEncoder(TorchEncoder):
    """A text encoder that torch computes.

    Parameters
    ----------
    layout : SentenceLayout
        What its folder holds.
    checkpoint : Checkpoint
        The folder.
    """

    def __init__(self, layout: SentenceLayout, checkpoint: Checkpoint) -> None:
        self._layout = layout
        self.card, self.identity = _described(layout, checkpoint)

    def load_network(self) -> torch.nn.Module:
        """Read the weights from disk, into single precision on the CPU."""
        import torch

        own = self._layout.checkpoint
        transformer = load_pretrained(own, encoder_class(read_config(own)), unused="pooler.")
        dense = torch.nn.Sequential(*(one.load() for one in self._layout.dense))
        return torch.nn.ModuleDict({"transformer": transformer, "dense": dense})

    def text_vectors(self, network: Any, tokens: dict[str, Tensor]) -> Tensor:
        """Embed tokens ``(n, t)`` into ``(n, dimension)``, of any length."""
        hidden = network["transformer"](**tokens).last_hidden_state  # (n, t, d)
        vectors: Tensor = network["dense"](pooled(hidden, tokens["attention_mask"], self._layout.poolings))
        return vectors

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tokens]:
        """Make the arrays ``(n, t)`` that the transformer takes; what is too long is cut, with a warning in the log."""
        return self._layout.tokens(texts)

    def write_tokenizer(self, folder: Path) -> None:
        """Write ``tokenizer.json``."""
        if self._layout.query_prompt or self._layout.stored_prompt:
            raise ModelError(
                f"{self.card.name} puts a prompt before texts, which a folder of ONNX files cannot say yet; it runs "
                "through torch only"
            )
        self._layout.tokenizer.save(str(folder / "tokenizer.json"))

    def _count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self._layout.count_tokens(texts)

    def _embed_text(self, texts: Sequence[str]) -> Vectors:
        return super()._embed_text([self._layout.stored_prompt + text for text in texts])

    def _embed_query(self, texts: Sequence[str]) -> Vectors:
        return super()._embed_text([self._layout.query_prompt + text for text in texts])


class OnnxSentenceEncoder(Encoder):
    """A text encoder whose transformer ONNX Runtime computes, without torch.

    Parameters
    ----------
    layout, checkpoint
        As those of `SentenceEncoder`.
    precision : {"fp32", "int8"}
        Of the file that is run.
    device : {"auto", "cpu"}
        Where torch computes it, if another precision is asked for.
    """

    def __init__(
        self, layout: SentenceLayout, checkpoint: Checkpoint, *, precision: str = "fp32", device: str = "auto"
    ) -> None:
        self._layout, self._checkpoint, self._precision, self._chosen = layout, checkpoint, precision, device
        self.card, self.identity = _described(layout, checkpoint)

    @property
    def engine(self) -> str:
        """What computes."""
        return "onnxruntime"

    @property
    def precision(self) -> str:
        """What it computes in: "fp32" or "int8"."""
        return self._precision

    def at_precision(self, precision: str) -> Self:
        """Give this model computing in one of the precisions that it has files of, or in one of torch's."""
        if precision in self._layout.onnx:
            return type(self)(self._layout, self._checkpoint, precision=precision, device=self._chosen)
        return cast(Self, self.through_torch.at_precision(precision))

    def on_device(self, device: str) -> Self:
        """Give this model computing on "auto" or "cpu"; elsewhere torch computes it."""
        if device not in ("auto", "cpu"):
            return cast(Self, self.through_torch.on_device(device))
        return type(self)(self._layout, self._checkpoint, precision=self._precision, device=device)

    @property
    def through_torch(self) -> SentenceEncoder:
        """The same model, computed by torch."""
        return SentenceEncoder(self._layout, self._checkpoint).on_device(self._chosen)

    @cached_property
    def _session(self) -> OnnxRuntimeSession:
        from mmrag.models.engines import OnnxRuntimeSession

        return OnnxRuntimeSession(self._layout.onnx[self._precision], quick=False, outputs=_ONNX_OUTPUTS)

    def _count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self._layout.count_tokens(texts)

    def _embed_text(self, texts: Sequence[str]) -> Vectors:
        return self._embed([self._layout.stored_prompt + text for text in texts])

    def _embed_query(self, texts: Sequence[str]) -> Vectors:
        return self._embed([self._layout.query_prompt + text for text in texts])

    def _embed(self, texts: Sequence[str]) -> Vectors:
        tokens = self._layout.tokens(texts)
        arrays = {**tokens, "token_type_ids": np.zeros_like(tokens["input_ids"])}
        inputs = {name: arrays[name].astype(dtype) for name, dtype in self._session.inputs.items() if name in arrays}
        vectors = self._session.run(inputs)  # (n, t, d), or (n, d) where the file pools too
        return vectors if vectors.ndim == 2 else pooled(vectors, tokens["attention_mask"], self._layout.poolings)


def open_sentence(reference: str) -> SentenceEncoder | OnnxSentenceEncoder:
    """Open a text encoder in the layout of sentence-transformers.

    Parameters
    ----------
    reference : str
        The name of a hub's model that is here, or a folder.
    """
    checkpoint = Checkpoint.locate(reference)
    layout = SentenceLayout.read(checkpoint)
    return OnnxSentenceEncoder(layout, checkpoint) if layout.onnx else SentenceEncoder(layout, checkpoint)


def _described(layout: SentenceLayout, checkpoint: Checkpoint) -> tuple[Card, Identity]:
    """Make the card and the identity; they are the same for every engine, as long as no file changes."""
    weights = checkpoint.fingerprint()
    card = Card(
        name=layout.checkpoint.name,
        family="hf",
        revision=revision_of(weights),
        dimension=layout.dimension,
        modalities=("text",),
        max_tokens=layout.max_tokens,
        languages=checkpoint.languages or (),
        summary="A text encoder in the layout of sentence-transformers.",
        weights=weights,
        licence_weights=checkpoint.licence,
        sources=(checkpoint.source,),
    )
    return card, Identity(card.name, card.revision, card.weights, "text", card.dimension)


def _read_modules(folder: Path) -> list[dict[str, Any]]:
    modules = _read_json(folder / "modules.json", kind=list)
    if not all(isinstance(one, dict) and "type" in one and "path" in one for one in modules):
        raise ModelError(f"{folder / 'modules.json'} is not a list of modules, each with its type and path")
    return sorted(modules, key=lambda one: one.get("idx", 0))


def _read_pooling(folder: Path) -> tuple[tuple[str, ...], int]:
    """Read how the vectors of tokens become one, and how long that is."""
    config = _read_json(folder / "config.json")
    given = config.get("pooling_mode") or [mode for mode, old in POOLINGS.items() if config.get(old)] or "mean"
    poolings = (given,) if isinstance(given, str) else tuple(given)
    length = config.get("embedding_dimension", config.get("word_embedding_dimension"))
    if set(poolings) - set(POOLINGS) or not isinstance(length, int) or not config.get("include_prompt", True):
        raise ModelError(
            f"{folder / 'config.json'}: pooling by any of {', '.join(POOLINGS)}, of vectors whose length is said and "
            f"with the prompt's, can be done; not {', '.join(poolings)}"
        )
    return poolings, length * len(poolings)


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    import torch
    from safetensors.torch import load_file

    try:
        if (folder / "model.safetensors").is_file():
            found = load_file(folder / "model.safetensors")
        else:
            found = torch.load(folder / "pytorch_model.bin", weights_only=True, map_location="cpu")
    except Exception as error:  # of torch, pickle and safetensors
        raise ModelError(f"the weights of {folder} cannot be loaded: {error}") from error
    return dict(found)


def _optional(path: Path) -> dict[str, Any]:
    return _read_json(path) if path.is_file() else {}


def _read_json(path: Path, kind: type = dict) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, kind):
        raise ModelError(f"{path} is damaged: it holds no {kind.__name__}")
    return content
