"""Torch networks → a model folder that ONNX Runtime runs (`mmrag.models.onnx` describes the layout).

The image tower is stored in half precision and computes in single precision. The text tower's
matrices are stored and multiplied in 8 bits, by blocks within a row, so that a text's vector does not
depend on the texts beside it in a batch.
"""

from __future__ import annotations

import dataclasses
import tomllib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmrag.errors import MissingExtraError
from mmrag.models.cards import CARD_NAME, Card, hash_files
from mmrag.models.preprocess import Preprocessing
from mmrag.models.weights import BLOCK, ZERO, quantize

if TYPE_CHECKING:
    import onnx_ir
    from torch import Tensor

    from mmrag.models.towers import DualEncoder

OPSET = 21
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
    vision = _export_vision(network, preprocessing)
    names.restore(vision)
    _store_in_half(vision)
    _save(vision, onnx / "vision_model.onnx")
    text = _export_text(network)
    names.restore(text)
    _quantize_matrices(text)
    _quantize_embedding(text, "text.words.weight")
    _store_in_half(text)
    _save(text, onnx / "text_model.onnx")
    (out / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    preprocessing.write(out / "preprocessor_config.json")
    weights = hash_files(out)
    revision = card.revision or weights.removeprefix("sha256:")[:8]
    card = dataclasses.replace(card, weights=weights, revision=revision)
    write_card(card, out)
    return card


def write_card(card: Card, folder: Path) -> None:
    """Write a card as TOML; keys that say nothing are left out."""
    lines, tables = [], []
    for name, value in dataclasses.asdict(card).items():
        if name == "sources":
            tables += [f"\n[[sources]]\n{_toml(source)}" for source in value]
        elif name == "figures":
            tables += [f"\n[figures]\n{_toml(value)}"] if value else []
        elif value not in ("", ()):
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
                _replace(model, value, ir.node("Constant", [], attributes={"value": value.const_value}))


def _content(array: Any) -> bytes:
    return repr(array.shape).encode() + np.ascontiguousarray(array).tobytes()


def _export_vision(network: DualEncoder, preprocessing: Preprocessing) -> onnx_ir.Model:
    import torch

    class Vision(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, pixel_values: Tensor) -> Tensor:
            return self.network.encode_image(pixel_values)

    pixels = torch.zeros(2, 3, preprocessing.height, preprocessing.width)
    batch = torch.export.Dim("batch")
    return _export(Vision(), (pixels,), ["pixel_values"], "image_embeds", ({0: batch},))


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
    return _export(Text(), (ids, mask), names, "text_embeds", (shape, shape))


def _export(
    module: Any, inputs: tuple[Tensor, ...], names: list[str], output: str, shapes: tuple[Any, ...]
) -> onnx_ir.Model:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own insides
            program = torch.onnx.export(
                module.eval(),
                inputs,
                input_names=names,
                output_names=[output],
                dynamic_shapes=shapes,
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except ImportError as error:
        raise MissingExtraError("onnxscript", "train") from error
    model = program.model  # type: ignore[union-attr]
    _forget_origin(model)
    return model


def _forget_origin(model: onnx_ir.Model) -> None:
    """Drop the stack traces that the exporter records, with paths of the machine that ran it."""
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    for node in model.graph:
        values += node.outputs
        node.metadata_props.clear()
        node.doc_string = None
    for described in (model, model.graph, *values):
        described.metadata_props.clear()


def _store_in_half(model: onnx_ir.Model) -> None:
    """Store large float constants as float16, cast back while the session loads."""
    import onnx_ir as ir

    for value in list(model.graph.initializers.values()):
        array = value.const_value.numpy() if value.const_value is not None else np.empty(0)
        if array.dtype != np.float32 or array.size < _SMALL or value.name.endswith(".scale"):
            continue
        name = value.name
        half = _constant(name, array.astype(np.float16))
        cast = ir.node("Cast", [half], attributes={"to": ir.DataType.FLOAT})
        _replace(model, value, cast)
        model.graph.register_initializer(half)


def _quantize_matrices(model: onnx_ir.Model) -> None:
    """Multiply by 8-bit blocks (ONNX Runtime's MatMulNBits) wherever a constant matrix is multiplied."""
    import onnx_ir as ir

    model.graph.opset_imports["com.microsoft"] = 1
    for node in list(model.graph):
        matrix = node.inputs[1] if node.op_type == "MatMul" else None
        if matrix is None or matrix.const_value is None or not matrix.is_initializer():
            continue
        name = matrix.name.removesuffix(".T")
        weight = matrix.const_value.numpy().T  # (outputs, inputs)
        values, scales = quantize(np.ascontiguousarray(weight))
        stored = [_constant(f"{name}.q8", values), _constant(f"{name}.scale", scales)]
        replacement = ir.node(
            "MatMulNBits",
            [node.inputs[0], *stored],
            domain="com.microsoft",
            attributes={
                "K": weight.shape[1],
                "N": weight.shape[0],
                "bits": 8,
                "block_size": BLOCK,
                "accuracy_level": 4,
            },
        )
        for constant in stored:
            model.graph.register_initializer(constant)
        model.graph.insert_before(node, replacement)
        node.outputs[0].replace_all_uses_with(replacement.outputs[0], replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
        del model.graph.initializers[matrix.name]


def _quantize_embedding(model: onnx_ir.Model, name: str) -> None:
    """Look tokens up in 8-bit rows, and scale only the rows that were looked up."""
    import onnx_ir as ir

    table = model.graph.initializers[name]
    (gather,) = [node for node in model.graph if node.inputs and node.inputs[0] is table]
    ids = gather.inputs[1]
    weight = table.const_value.numpy()
    values, scales = quantize(weight, weight.shape[1])
    rows = _constant(f"{name}.q8", values)
    scale = _constant(f"{name}.scale", scales)
    model.graph.register_initializer(rows)
    model.graph.register_initializer(scale)
    zero = ir.node("Constant", [], attributes={"value": ir.tensor(np.float32(ZERO))})
    shape = ir.node("Constant", [], attributes={"value": ir.tensor(np.array([0, 0, weight.shape[1]]))})
    found = ir.node("Gather", [rows, ids])
    flat = ir.node("Reshape", [found.outputs[0], shape.outputs[0]])
    floats = ir.node("Cast", [flat.outputs[0]], attributes={"to": ir.DataType.FLOAT})
    centred = ir.node("Sub", [floats.outputs[0], zero.outputs[0]])
    scales_found = ir.node("Gather", [scale, ids])
    scaled = ir.node("Mul", [centred.outputs[0], scales_found.outputs[0]])
    for node in (zero, shape, found, flat, floats, centred, scales_found, scaled):
        model.graph.insert_before(gather, node)
    gather.outputs[0].replace_all_uses_with(scaled.outputs[0])
    model.graph.remove(gather, safe=True)
    del model.graph.initializers[name]


def _constant(name: str, array: Any) -> onnx_ir.Value:
    import onnx_ir as ir

    tensor = ir.tensor(array, name=name)
    return ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)


def _replace(model: onnx_ir.Model, constant: Any, node: Any) -> None:
    model.graph.insert_before(next(iter(model.graph)), node)
    constant.replace_all_uses_with(node.outputs[0])
    del model.graph.initializers[constant.name]


def _save(model: onnx_ir.Model, path: Path) -> None:
    import onnx_ir as ir

    for name, value in model.graph.initializers.items():
        value.const_value.name = name
    ir.save_safetensors(model, path, size_threshold_bytes=0)
    path.with_suffix(".safetensors").chmod(0o644)
