"""Products in 8 bits, against the same products in single precision."""

from __future__ import annotations

import numpy as np
import pytest

ir = pytest.importorskip("onnx_ir", reason="needs the train extra")

from mmrag.models.engines import open_session  # noqa: E402
from mmrag.models.graph import OPSET, constant, save  # noqa: E402
from mmrag.models.quantize import quantize_rows  # noqa: E402

RANDOM = np.random.default_rng(0)
SQUARE, LAST = (RANDOM.normal(size=(64, 64)).astype(np.float32), RANDOM.normal(size=(16, 64)).astype(np.float32))
BIAS = RANDOM.normal(size=16).astype(np.float32)
ROWS = RANDOM.normal(size=(6, 64)).astype(np.float32)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """Twice the same matrix, then a transposed one and a bias, as torch's linear layers are exported."""
    square, last, bias = constant("square", SQUARE), constant("last", LAST), constant("bias", BIAS)
    given = ir.Value(name="rows", shape=ir.Shape(["n", 64]), type=ir.TensorType(ir.DataType.FLOAT))
    first = ir.node("MatMul", [given, square])
    second = ir.node("MatMul", [first.outputs[0], square])
    third = ir.node("Gemm", [second.outputs[0], last, bias], attributes={"transB": 1})
    (output,) = third.outputs
    output.name, output.dtype, output.shape = "image_embeds", ir.DataType.FLOAT, ir.Shape(["n", 16])
    graph = ir.Graph(
        [given],
        [output],
        nodes=[first, second, third],
        initializers=[square, last, bias],
        opset_imports={"": OPSET},
        name="products",
    )
    model = ir.Model(graph, ir_version=10)
    quantize_rows(model)
    assert {name for name in model.graph.initializers if not name.endswith((".q8", ".scale"))} >= {"bias"}
    assert not {"square", "last"} & set(model.graph.initializers)
    path = tmp_path_factory.mktemp("quantize") / "vision_model_int8.onnx"
    save(model, path, smallest=1024)
    return open_session("onnxruntime", path, precision="int8", quick=False)


def test_products_are_nearly_those_of_single_precision(session):
    expected = ROWS @ SQUARE @ SQUARE @ LAST.T + BIAS
    found = session.run({"rows": ROWS})
    assert np.abs(found - expected).max() < 0.05 * expected.std()
    assert np.abs(found - expected[::-1]).max() > expected.std()


def test_a_row_does_not_depend_on_its_batch(session):
    loud = np.concatenate([ROWS, 1000 * ROWS])
    assert np.array_equal(session.run({"rows": loud})[:6], session.run({"rows": ROWS}))


def test_a_row_of_zeros_gives_the_bias(session):
    assert np.array_equal(session.run({"rows": np.zeros_like(ROWS[:1])}), BIAS[None])
