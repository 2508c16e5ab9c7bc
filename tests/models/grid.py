"""The built-in model with a second output, its grid, where what ships does not have it."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
from onnx import helper

from mmrag.models import onnx as family
from mmrag.models.engines import CELLS

SHIPPED = Path(family.__file__).parent / "builtin"


def builtin_with_grid(folder):
    """Give a folder of the built-in model whose image tower tells what each cell would be embedded into by itself."""
    path = SHIPPED / "onnx" / "vision_model.onnx"
    model = onnx.load(path, load_external_data=False)
    shutil.copytree(SHIPPED, folder)
    if CELLS not in [one.name for one in model.graph.output]:
        _add_grid(model.graph)
        onnx.save(model, folder / "onnx" / "vision_model.onnx")
    return folder


def _add_grid(graph):
    """Send each cell (n · cells, features) through the head, as a grid of one cell: all it attends to is that cell."""
    nodes = {node.output[0]: node for node in graph.node}
    hidden = nodes["linear_1"]

    def again(name, *inputs):
        copy = onnx.NodeProto()
        copy.CopyFrom(nodes[name])
        copy.name = copy.output[0] = f"cells_{name}"
        for place, value in enumerate(inputs):
            copy.input[place] = value
        graph.node.append(copy)
        return copy.output[0]

    def add(kind, inputs, output, **attributes):
        graph.node.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def shape(name, *sizes):
        graph.initializer.append(helper.make_tensor(name, onnx.TensorProto.INT64, [len(sizes)], sizes))
        return name

    assert hidden.op_type == "Gemm"
    cells = add("Reshape", ["transpose", shape("cells_flat", -1, 1280)], "cells")
    normed = again("layer_norm", cells)
    whole = again("linear_2", again("gelu", again("linear_1", normed)))
    local = again("linear_3", add("Concat", [normed] * 4, "cells_attended", axis=1))
    added = add("Add", [whole, local], "cells_embedded")
    add("Reshape", [added, shape("cells_grid", -1, 9, 9, 384)], CELLS)
    graph.output.append(helper.make_tensor_value_info(CELLS, onnx.TensorProto.FLOAT, ["batch", 9, 9, 384]))
