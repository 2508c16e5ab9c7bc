"""The built-in model's networks → a model folder that ONNX Runtime runs (`mmrag.models.folder` describes the layout).

The image tower is stored in half precision and computes in single precision. The text tower's
matrices are stored and multiplied in 8 bits, by blocks within a row, so that a text's vector does not
depend on the texts beside it in a batch.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmrag.models.cards import CARD_NAME, Card, hash_files, revision_of
from mmrag.models.folder import model_files
from mmrag.models.graph import constant, replace, save, trace
from mmrag.models.preprocess import Preprocessing
from mmrag.models.quantize import quantize_blocks, quantize_embeddings

if TYPE_CHECKING:
    import onnx_ir
    from torch import Tensor, nn

    from mmrag.models.characters import CharacterTower
    from mmrag.models.miniature import Miniature
    from mmrag.models.towers import DualEncoder

_SMALL = 1024


def export_folder(
    network: DualEncoder,
    out: Path,
    *,
    card: Card,
    tokenizer: str,
    preprocessing: Preprocessing,
    miniature: Miniature | None = None,
    chinese: CharacterTower | None = None,
    chinese_tokenizer: str = "",
) -> Card:
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
    miniature : Miniature or None
        Looks at this image tower: what it keeps of a picture becomes the tower's second output.
        `mmrag.models.miniature_export.export_miniature` writes the rest of it.
    chinese : CharacterTower or None
        Reads texts with Chinese characters, into the same space.
    chinese_tokenizer : str
        Content of its ``tokenizer_zh.json``.

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
    vision = _trace_vision(network, preprocessing.height, preprocessing.width, miniature)
    restore_names(vision, {"network": network, "miniature": miniature} if miniature else {"network": network})
    store_in_half(vision)
    save(vision, onnx / "vision_model.onnx")
    _write_text(network.text, onnx / "text_model.onnx", adapter=network.adapter)
    (out / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    if chinese:
        _write_text(chinese, onnx / "text_model_zh.onnx")
        (out / "tokenizer_zh.json").write_text(chinese_tokenizer, encoding="utf-8")
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
            tables += [f"\n[[sources]]\n{toml_lines(source)}" for source in value]
        elif name in ("figures", "calibration"):
            tables += [f"\n[{name}]\n{toml_lines(value)}"] if value else []
        elif value not in ("", (), 0.0):
            lines.append(toml_lines({name: value}))
    text = "".join(lines + tables)
    tomllib.loads(text)
    (folder / CARD_NAME).write_text(text, encoding="utf-8")


def toml_lines(table: Mapping[str, Any]) -> str:
    """Write a table without tables in it as lines of TOML."""
    import json

    values = {name: list(v) if isinstance(v, tuple) else v for name, v in table.items()}
    lines = [
        f"{json.dumps(name) if not name.isidentifier() else name} = {json.dumps(v, ensure_ascii=False)}\n"
        for name, v in values.items()
    ]
    return "".join(lines)


def restore_names(model: onnx_ir.Model, networks: Mapping[str, nn.Module]) -> None:
    """Give a graph's weights their networks' own names, and move other constants into the graph itself.

    The exporter renames and transposes some: they are found by their content, and a transposed one ends in ".T".

    Parameters
    ----------
    model : onnx_ir.Model
        Traced from a module that has these networks.
    networks : mapping of str to torch.nn.Module
        By their names in it. Names of the network called "network" are written without that.
    """
    import onnx_ir as ir

    by_content: dict[bytes, str] = {}
    for place, network in networks.items():
        for name, tensor in network.state_dict().items():
            array, full = tensor.numpy(), f"{place}.{name}"
            by_content[_content(array)] = full
            if array.ndim == 2:
                by_content[_content(array.T)] = f"{full}.T"
    for value in list(model.graph.initializers.values()):
        known: str | None = (
            value.name if value.name.split(".")[0] in networks else by_content.get(_content(value.const_value.numpy()))
        )
        own = known.removeprefix("network.") if known else None
        if own and own != value.name and own in model.graph.initializers:  # transposed twice
            value.replace_all_uses_with(model.graph.initializers[own])
            del model.graph.initializers[value.name]
        elif own:
            value.name = own
        else:
            replace(model, value, ir.node("Constant", [], attributes={"value": value.const_value}))


def _content(array: Any) -> bytes:
    return repr(array.shape).encode() + np.ascontiguousarray(array).tobytes()


def _trace_vision(network: DualEncoder, height: int, width: int, miniature: Miniature | None) -> onnx_ir.Model:
    """Trace pixels to "image_embeds", "cell_embeds" and, with a Miniature, "image_grid", what it keeps of them."""
    import torch

    class Vision(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.miniature = miniature

        def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
            features = self.network.image(pixel_values)  # (n, features, h, w)
            embedded = self.network.embed_grid(features), self.network.embed_cells(features)
            if self.miniature is None:
                return embedded
            return *embedded, self.miniature.see(features.flatten(2).mT)

    pixels, batch = torch.zeros(2, 3, height, width), torch.export.Dim("batch")
    outputs = ["image_embeds", "cell_embeds", "image_grid"][: 2 + (miniature is not None)]
    return trace(Vision(), (pixels,), names=["pixel_values"], outputs=outputs, shapes=({0: batch},))


def _write_text(tower: nn.Module, path: Path, *, adapter: nn.Module | None = None) -> None:
    text = _trace_text(tower, adapter)
    restore_names(text, {"text": tower, "adapter": adapter} if adapter else {"text": tower})
    quantize_blocks(text)
    quantize_embeddings(text)
    store_in_half(text)
    save(text, path)


def _trace_text(tower: nn.Module, adapter: nn.Module | None) -> onnx_ir.Model:
    """Trace a tower, tokens to unit vectors, and what corrects its vectors."""
    import torch

    class Text(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.text = tower.eval()
            self.adapter = adapter or torch.nn.Identity()

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            vectors: Tensor = self.adapter(torch.nn.functional.normalize(self.text(input_ids, attention_mask), dim=-1))
            return vectors

    ids, mask = torch.zeros(2, 9, dtype=torch.long), torch.ones(2, 9, dtype=torch.long)
    shape = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
    names = ["input_ids", "attention_mask"]
    return trace(Text(), (ids, mask), names=names, outputs=["text_embeds"], shapes=(shape, shape))


def store_in_half(model: onnx_ir.Model) -> None:
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
