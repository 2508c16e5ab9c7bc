"""ONNX graphs: traced from torch, freed of what they tell of the machine, given constants, saved."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrag.errors import MissingExtraError

if TYPE_CHECKING:
    import onnx_ir
    from torch import Tensor

OPSET = 21


def trace(
    module: Any, inputs: tuple[Tensor, ...], *, names: Sequence[str], outputs: Sequence[str], shapes: tuple[Any, ...]
) -> onnx_ir.Model:
    """Trace a torch module into a graph.

    Parameters
    ----------
    module : torch.nn.Module
        With one output, or a tuple of them.
    inputs : tuple of tensor
        An example.
    names : sequence of str
        Of the inputs.
    outputs : sequence of str
        Names of the outputs.
    shapes : tuple
        For each input, its axes of any size, as `torch.export` takes them.

    Raises
    ------
    MissingExtraError
        If onnxscript is not installed.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own insides
            program = torch.onnx.export(
                module.eval(),
                inputs,
                input_names=list(names),
                output_names=list(outputs),
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


def constant(name: str, array: Any) -> onnx_ir.Value:
    """Make a named constant; it is part of a graph once it is registered there."""
    import onnx_ir as ir

    tensor = ir.tensor(array, name=name)
    return ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)


def replace(model: onnx_ir.Model, constant: Any, node: Any) -> None:
    """Let a node's output stand wherever a constant stood."""
    model.graph.insert_before(next(iter(model.graph)), node)
    constant.replace_all_uses_with(node.outputs[0])
    del model.graph.initializers[constant.name]


def save(model: onnx_ir.Model, path: Path, *, smallest: int = 0) -> None:
    """Write a graph, its constants of at least `smallest` bytes beside it in ``.safetensors``."""
    import onnx_ir as ir

    for name, value in model.graph.initializers.items():
        value.const_value.name = name
    ir.save_safetensors(model, path, size_threshold_bytes=smallest)
    path.with_suffix(".safetensors").chmod(0o644)
