"""ONNX graphs in 8 bits, so that what one input gives does not depend on the others in its batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmrag.models.graph import constant
from mmrag.models.weights import BLOCK, ZERO, quantize

if TYPE_CHECKING:
    import onnx_ir

_MICROSOFT = "com.microsoft"
_LARGEST = 127
_LARGE_TABLE = 4096  # rows: what is smaller holds positions and the like
_SMALLEST = 1e-12  # of what is divided by: rows and columns may be all zeros
_SHARED = {
    "last_axis": np.array([-1]),
    "smallest": np.float32(_SMALLEST),
    "step": np.float32(1 / _LARGEST),
    "one": np.float32(1),
    "zero": np.uint8(ZERO),
}


def quantize_blocks(model: onnx_ir.Model) -> None:
    """Multiply by 8-bit blocks (ONNX Runtime's MatMulNBits) wherever a constant matrix is multiplied.

    Small, and quick to load; for large batches slower than single precision.
    """
    import onnx_ir as ir

    model.graph.opset_imports[_MICROSOFT] = 1
    for node in list(model.graph):
        matrix = _constant_matrix(node) if node.op_type == "MatMul" else None
        if matrix is None:
            continue
        name = matrix.name.removesuffix(".T")
        weight = matrix.const_value.numpy().T  # (outputs, inputs)
        values, scales = quantize(np.ascontiguousarray(weight))
        stored = [constant(f"{name}.q8", values), constant(f"{name}.scale", scales)]
        replacement = ir.node(
            "MatMulNBits",
            [node.inputs[0], *stored],
            domain=_MICROSOFT,
            attributes={
                "K": weight.shape[1],
                "N": weight.shape[0],
                "bits": 8,
                "block_size": BLOCK,
                "accuracy_level": 4,
            },
        )
        for value in stored:
            model.graph.register_initializer(value)
        model.graph.insert_before(node, replacement)
        node.outputs[0].replace_all_uses_with(replacement.outputs[0], replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
        del model.graph.initializers[matrix.name]


def quantize_rows(model: onnx_ir.Model) -> None:
    """Multiply 8-bit rows by 8-bit columns wherever a constant matrix is multiplied, each with a scale of its own.

    The scale of a row of activations, that is of a token, is found as it comes; a matrix has one for each column.
    Dynamic quantisation as ONNX Runtime's tools write it has one scale for a whole batch instead, and then a picture's
    vector depends on the pictures beside it.
    """
    model.graph.opset_imports[_MICROSOFT] = 1
    shared = {name: constant(name, value) for name, value in _SHARED.items()}
    for value in shared.values():
        model.graph.register_initializer(value)
    for node in list(model.graph):
        matrix = _constant_matrix(node)
        if matrix is not None:
            _quantize_product(model, node, matrix, shared)


def _quantize_product(model: onnx_ir.Model, node: Any, matrix: Any, shared: dict[str, onnx_ir.Value]) -> None:
    stored, scale = _columns(model, matrix, transposed=_is_transposed(node))
    one, zero = shared["one"], shared["zero"]
    rows = node.inputs[0]
    size = _then(model, node, "ReduceMax", _then(model, node, "Abs", rows), shared["last_axis"])  # (…, 1)
    row_scale = _then(model, node, "Mul", _then(model, node, "Max", size, shared["smallest"]), shared["step"])
    rounded = _then(model, node, "QuantizeLinear", _then(model, node, "Div", rows, row_scale), one, zero)
    product = _then(model, node, "MatMulIntegerToFloat", rounded, stored, one, scale, zero, domain=_MICROSOFT)
    result = _then(model, node, "Mul", product, row_scale)
    if node.op_type == "Gemm" and len(node.inputs) > 2:
        result = _then(model, node, "Add", result, node.inputs[2])
    node.outputs[0].replace_all_uses_with(result, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)
    if not matrix.uses():
        del model.graph.initializers[matrix.name]


def _then(model: onnx_ir.Model, before: Any, operator: str, *inputs: Any, domain: str = "") -> Any:
    import onnx_ir as ir

    node = ir.node(operator, list(inputs), domain=domain)
    model.graph.insert_before(before, node)
    return node.outputs[0]


def _constant_matrix(node: Any) -> Any:
    if node.op_type not in ("MatMul", "Gemm"):
        return None
    matrix = node.inputs[1]
    if matrix is None or matrix.const_value is None or not matrix.is_initializer():
        return None
    return matrix if len(matrix.const_value.shape) == 2 else None


def _is_transposed(node: Any) -> bool:
    return node.op_type == "Gemm" and "transB" in node.attributes and bool(node.attributes["transB"].as_int())


def _columns(model: onnx_ir.Model, matrix: Any, *, transposed: bool) -> tuple[onnx_ir.Value, onnx_ir.Value]:
    """Find a matrix in 8 bits and the scales of its columns; put them into the graph the first time."""
    name = f"{matrix.name}.T" if transposed else matrix.name
    stored = model.graph.initializers
    if f"{name}.q8" not in stored:
        weight = matrix.const_value.numpy().T if transposed else matrix.const_value.numpy()  # (inputs, outputs)
        scales = np.maximum(np.abs(weight).max(axis=0), _SMALLEST) / _LARGEST
        model.graph.register_initializer(constant(f"{name}.q8", np.round(weight / scales).astype(np.int8)))
        model.graph.register_initializer(constant(f"{name}.scale", scales.astype(np.float32)))
    return stored[f"{name}.q8"], stored[f"{name}.scale"]


def quantize_embeddings(model: onnx_ir.Model) -> None:
    """Look tokens up in 8-bit rows wherever a large table serves for nothing else."""
    for name, value in list(model.graph.initializers.items()):
        nodes = [node for node, _ in value.uses()]
        looked_up = len(nodes) == 1 and nodes[0].op_type == "Gather" and nodes[0].inputs[0] is value
        if looked_up and len(value.shape) == 2 and value.shape[0] >= _LARGE_TABLE:
            quantize_embedding(model, name)


def quantize_embedding(model: onnx_ir.Model, name: str) -> None:
    """Look tokens up in 8-bit rows, and scale only the rows that were looked up."""
    import onnx_ir as ir

    table = model.graph.initializers[name]
    (gather,) = [node for node in model.graph if node.inputs and node.inputs[0] is table]
    ids = gather.inputs[1]
    weight = table.const_value.numpy()
    values, scales = quantize(weight, weight.shape[1])
    rows = constant(f"{name}.q8", values)
    scale = constant(f"{name}.scale", scales)
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
