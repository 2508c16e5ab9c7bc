"""OpenCLIP models: exported once, then run without torch."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrag.errors import MissingExtraError, ModelError
from mmrag.models.cards import Card, Source
from mmrag.models.export import complete_folder
from mmrag.models.graph import save, trace, trace_vision
from mmrag.models.preprocess import Preprocessing
from mmrag.models.quantize import quantize_embedding, quantize_rows

if TYPE_CHECKING:
    from torch import Tensor

RANDOM = "random"

_BESIDE = 1024  # bytes; shapes and other small constants must be in the graph itself

_RESAMPLE = {"bilinear": 2, "bicubic": 3}
_SPLIT = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""

_PLAIN = {"[\u02bc\u2018-\u201b]": "'", "[\u201c-\u201f]": '"', r"\s+": " "}  # what curly quotes and spaces become


@dataclass(frozen=True)
class OpenClip:
    """A CLIP of OpenCLIP's, loaded.

    Attributes
    ----------
    network : torch.nn.Module
        In single precision, for inference.
    architecture, weights : str
        As they were asked for.
    """

    network: Any
    architecture: str
    weights: str

    @classmethod
    def load(cls, architecture: str, weights: str) -> OpenClip:
        """Load a model.

        Parameters
        ----------
        architecture : str
            Such as "ViT-B-32-256".
        weights : str
            A tag of OpenCLIP's, which is downloaded; the path of a checkpoint; or "random", for measuring speed.

        Raises
        ------
        MissingExtraError
            If the extra is not installed.
        ModelError
            If there is no such model, or it is not a CLIP with a causal text tower.
        """
        open_clip = _open_clip()
        if architecture not in open_clip.list_models():
            raise ModelError(
                f"OpenCLIP has no architecture {architecture!r}; it has {', '.join(open_clip.list_models())}"
            )
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        if weights != RANDOM and weights not in tags and not os.path.isfile(weights):
            known = ", ".join(tags) or "no tags"
            raise ModelError(
                f"{weights!r} is neither a file, nor 'random', nor among OpenCLIP's weights of {architecture}: {known}"
            )
        try:
            network = open_clip.create_model(architecture, pretrained=None if weights == RANDOM else weights)
        except Exception as error:  # a hub that cannot be reached, a checkpoint of another model, …
            raise ModelError(f"OpenCLIP cannot load {architecture} with {weights!r}: {error}") from error
        text = open_clip.get_model_config(architecture)["text_cfg"]
        if not _is_causal(network) or {"hf_tokenizer_name", "tokenizer_kwargs"} & text.keys():
            raise ModelError(f"{architecture} has no text tower of CLIP's kind; such models cannot be exported yet")
        return cls(network.eval(), architecture, weights)

    @property
    def preprocessing(self) -> Preprocessing:
        """What the image tower expects of a picture."""
        config = self.network.visual.preprocess_cfg
        height, width = (config["size"],) * 2 if isinstance(config["size"], int) else config["size"]
        way, filter_name = config["resize_mode"], config["interpolation"]
        if way not in ("shortest", "squash") or filter_name not in _RESAMPLE or (way == "shortest" and height != width):
            raise ModelError(
                f"{self.architecture} prepares pictures in a way that cannot be exported yet: "
                f"{way}, {filter_name}, {height} × {width}"
            )
        return Preprocessing(
            height=height,
            width=width,
            resample=_RESAMPLE[filter_name],
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
            shortest_edge=height if way == "shortest" else None,
        )

    def card(self) -> Card:
        """Describe it; what is unknown of its weights stays empty."""
        weights = os.path.basename(self.weights)
        return Card(
            name=f"{self.architecture}-{Path(weights).stem}",
            family="onnx",
            revision="",
            dimension=int(self.network.text_projection.shape[-1]),
            max_tokens=int(self.network.context_length),
            languages=("en",),
            summary=f"CLIP {self.architecture} of OpenCLIP, weights {weights}, exported by mmrag.",
            licence_weights="As whoever trained them says.",
            sources=(Source(f"OpenCLIP, {self.architecture}, {weights}", "code MIT; weights as their card says"),),
        )


def export_open_clip(
    architecture: str, *, weights: str, out: Path, precisions: Collection[str] = ("fp32", "int8")
) -> Card:
    """Write a model folder from an OpenCLIP model.

    Parameters
    ----------
    architecture, weights : str
        As `OpenClip.load` takes them.
    out : path
        The folder; files of the same names are replaced.
    precisions : collection of {"fp32", "int8"}
        What to write. "fp32" is always written: it says what the vectors are.

    Returns
    -------
    Card
        As it was written.
    """
    model = OpenClip.load(architecture, weights)
    preprocessing = model.preprocessing
    onnx = out / "onnx"
    onnx.mkdir(parents=True, exist_ok=True)
    for tower, network in (("vision", _trace_vision), ("text", _trace_text)):
        graph = network(model)
        save(graph, onnx / f"{tower}_model.onnx", smallest=_BESIDE)
        if "int8" in precisions:
            quantize_rows(graph)
            if tower == "text":
                quantize_embedding(graph, "network.token_embedding.weight")
            save(graph, onnx / f"{tower}_model_int8.onnx", smallest=_BESIDE)
    return complete_folder(out, card=model.card(), tokenizer=tokenizer_json(), preprocessing=preprocessing)


def _trace_vision(model: OpenClip) -> Any:
    size = model.preprocessing
    return trace_vision(model.network, size.height, size.width)


def _trace_text(model: OpenClip) -> Any:
    """Trace the text tower for texts of any length: its attention is causal, so nothing depends on padding behind."""
    import torch

    class Text(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = model.network

        def forward(self, input_ids: Tensor) -> Tensor:  # (B, T)
            network, length = self.network, input_ids.shape[1]
            x = network.token_embedding(input_ids) + network.positional_embedding[:length]  # (B, T, D)
            x = network.ln_final(network.transformer(x, attn_mask=network.attn_mask[:length, :length]))
            ends = input_ids.argmax(dim=-1)  # the end token has the highest number
            pooled = x[torch.arange(x.shape[0]), ends]  # (B, D)
            projected: Tensor = pooled @ network.text_projection
            return projected

    ids = torch.zeros(2, 9, dtype=torch.long)
    tokens = torch.export.Dim("tokens", max=model.network.context_length)
    shapes = ({0: torch.export.Dim("batch"), 1: tokens},)
    return trace(Text(), (ids,), names=["input_ids"], output="text_embeds", shapes=shapes)


def _is_causal(network: Any) -> bool:
    """Tell whether texts end in a token that sees all before it, and nothing behind."""
    kind = isinstance(network, _open_clip().CLIP) and network.text_pool_type == "argmax"
    return kind and network.attn_mask is not None and not callable(network.text_projection)


def tokenizer_json() -> str:
    """Write CLIP's byte-pair tokenizer as ``tokenizer.json``, from the merges that OpenCLIP carries."""
    from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import BPE

    source = _open_clip().tokenizer.SimpleTokenizer()
    start, end = "<start_of_text>", "<end_of_text>"
    tokenizer = Tokenizer(
        BPE(
            vocab=source.encoder,
            merges=list(source.bpe_ranks),
            end_of_word_suffix="</w>",
            continuing_subword_prefix="",
            unk_token=end,
        )
    )
    tokenizer.add_special_tokens([start, end])
    plain = [normalizers.Replace(Regex(found), written) for found, written in _PLAIN.items()]
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), *plain, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(_SPLIT), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(token, source.encoder[token]) for token in (start, end)]
    )
    written = json.loads(tokenizer.to_str())
    written["model"]["merges"] = [" ".join(pair) for pair in written["model"]["merges"]]  # loads in half the time
    return json.dumps(written, ensure_ascii=False, separators=(",", ":"))


def _open_clip() -> Any:
    if importlib.util.find_spec("open_clip") is None:
        raise MissingExtraError("open_clip", "torch")
    try:
        import open_clip
    except Exception as error:
        raise ModelError(
            f"open_clip is installed, but importing it fails ({error}). Usually torch and torchvision do not fit each "
            "other: install both from one index, as uv does: uv pip install 'mmrag[torch]'"
        ) from error
    return open_clip
