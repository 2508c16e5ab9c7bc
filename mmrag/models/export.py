"""The built-in model's networks → a model folder that ONNX Runtime runs (`mmrag.models.folder` describes the layout).

The image tower is stored in half precision and computes in single precision. The text tower's
matrices are stored and multiplied in 8 bits, by blocks within a row, so that a text's vector does not
depend on the texts beside it in a batch.
"""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmrag.models.cards import CARD_NAME, Card, hash_files, revision_of
from mmrag.models.folder import model_files
from mmrag.models.graph import constant, replace, save, trace, trace_vision
from mmrag.models.preprocess import Preprocessing
from mmrag.models.quantize import quantize_blocks, quantize_embedding

if TYPE_CHECKING:
    import onnx_ir
    from torch import Tensor

    from mmrag.models.towers import DualEncoder

_SMALL = 1024
_PREFIX = "network."  # of the networks' names in the exported graph


def export_folder(network: DualEncoder, out: Path, *, card: Card, tokenizer: str, preprocessing: Preprocessing) -> Card:
    """Write a model folder.

    Parameters
    ----------
    network : DualEncoder
        The towers, in float32 on the CPU.
    out : path
        The folder; files of the same names are replaced.
    card : Card
        Its `weights` are filled in, and an empty `revision` becomes the first digits of their hash.
    tokenizer : str
        Content of ``tokenizer.json``.
    preprocessing : Preprocessing
        What the image tower expects of a picture.

    Returns
    -------
    Card
        As it was written.

    Raises
    ------
    MissingExtraError
        If onnxscript is not installed.
    """
    onnx = out / "onnx"
    onnx.mkdir(parents=True, exist_ok=True)
    network = network.eval()
    names = _Names(network)
    vision = trace_vision(network, preprocessing.height, preprocessing.width)
    names.restore(vision)
    _store_in_half(vision)
    save(vision, onnx / "vision_model.onnx")
    text = _export_text(network)
    names.restore(text)
    quantize_blocks(text)
    quantize_embedding(text, "text.words.weight")
    _store_in_half(text)
    save(text, onnx / "text_model.onnx")
    (out / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    return complete_folder(out, card=card, preprocessing=preprocessing)


def complete_folder(out: Path, *, card: Card, preprocessing: Preprocessing | None) -> Card:
    """Write what a model folder holds besides towers and tokenizer, which must be there; gives the card as written."""
    if preprocessing:
        preprocessing.write(out / "preprocessor_config.json")
    weights = hash_files(out, model_files(out))
    revision = card.revision or revision_of(weights)
    card = dataclasses.replace(card, weights=weights, revision=revision)
    write_card(card, out)
    return card


def write_card(card: Card, folder: Path) -> None:
    """Write a card as TOML; keys that say nothing are left out."""
    lines, tables = [], []
    for name, value in dataclasses.asdict(card).items():
        if name == "sources":
            tables += [f"\n[[sources]]\n{_toml(source)}" for source in value]
        elif name in ("figures", "calibration"):
            tables += [f"\n[{name}]\n{_toml(value)}"] if value else []
        elif value not in ("", (), 0.0):
            lines.append(_toml({name: value}))
    text = "".join(lines + tables)
    tomllib.loads(text)
    (folder / CARD_NAME).write_text(text, encoding="utf-8")


def _toml(table: dict[str, Any]) -> str:
    import json

    values = {name: list(v) if isinstance(v, tuple) else v for name, v in table.items()}
    lines = [
        f"{json.dumps(name) if not name.isidentifier() else name} = {json.dumps(v, ensure_ascii=False)}\n"
        for name, v in values.items()
    ]
    return "".join(lines)


class _Names:
    """Finds the networks' own names for constants that the exporter renamed or transposed."""

    def __init__(self, network: DualEncoder) -> None:
        self._by_content: dict[bytes, str] = {}
        for name, tensor in network.state_dict().items():
            array = tensor.numpy()
            self._by_content[_content(array)] = name
            if array.ndim == 2:
                self._by_content[_content(array.T)] = f"{name}.T"

    def restore(self, model: onnx_ir.Model) -> None:
        """Rename the constants of a graph that are weights; move the others into the graph itself."""
        import onnx_ir as ir

        for value in list(model.graph.initializers.values()):
            name = value.name.removeprefix(_PREFIX)
            name = name if name != value.name else self._by_content.get(_content(value.const_value.numpy()))
            if name:
                value.name = name
            else:
                replace(model, value, ir.node("Constant", [], attributes={"value": value.const_value}))


def _content(array: Any) -> bytes:
    return repr(array.shape).encode() + np.ascontiguousarray(array).tobytes()


def _export_text(network: DualEncoder) -> onnx_ir.Model:
    import torch

    class Text(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.network.encode_text(input_ids, attention_mask)

    ids, mask = torch.zeros(2, 9, dtype=torch.long), torch.ones(2, 9, dtype=torch.long)
    shape = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
    names = ["input_ids", "attention_mask"]
    return trace(Text(), (ids, mask), names=names, output="text_embeds", shapes=(shape, shape))


def _store_in_half(model: onnx_ir.Model) -> None:
    """Store large float constants as float16, cast back while the session loads."""
    import onnx_ir as ir

    for value in list(model.graph.initializers.values()):
        array = value.const_value.numpy() if value.const_value is not None else np.empty(0)
        if array.dtype != np.float32 or array.size < _SMALL or value.name.endswith(".scale"):
            continue
        name = value.name
        half = constant(name, array.astype(np.float16))
        cast = ir.node("Cast", [half], attributes={"to": ir.DataType.FLOAT})
        replace(model, value, cast)
        model.graph.register_initializer(half)
