"""The choice between engines and precisions, with sessions whose speed and faults are known; then real engines."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mmrag.errors import MissingExtraError, ModelError
from mmrag.models import engines, tower
from mmrag.models.engines import Session, has_bfloat16, has_openvino, open_session
from mmrag.models.registry import load_encoder
from mmrag.models.tower import Tower, Way

NUMBERS = np.random.default_rng(0).normal(size=(8, 32)).astype(np.float32)

needs_openvino = pytest.mark.skipif(not has_openvino(), reason="needs the openvino extra")


class Fake(Session):
    """Gives back its input, after `seconds`; `noise` is added to it, and `leak` of the whole batch's mean."""

    inputs, lengths, _output = {"numbers": np.dtype("float32")}, {"numbers": 32}, "numbers"

    def __init__(self, seconds, noise=0.0, leak=0.0):
        self.seconds, self.noise, self.leak = seconds, noise, leak

    def outputs(self, arrays, names):
        numbers = arrays["numbers"]
        Machine.now += self.seconds * len(numbers)
        noise = self.noise * np.random.default_rng(1).normal(size=numbers.shape[1])
        return [(numbers + noise + self.leak * numbers.mean(axis=0)).astype(np.float32)]


class Machine:
    """What stands in for engines and clock."""

    now = 0.0

    def __init__(self):
        self.openvino = self.bfloat16 = True
        self.opened = []
        self.sessions = {
            ("onnxruntime", "fp32"): Fake(4),
            ("onnxruntime", "int8"): Fake(3),
            ("openvino", "fp32"): Fake(2),
            ("openvino", "bf16"): Fake(1),
        }

    def open_session(self, engine, path, *, precision, quick):
        self.opened.append((engine, precision))
        session = self.sessions[engine, precision]
        if session is None:
            raise ModelError(f"{path} cannot be loaded")
        return session


@pytest.fixture
def machine(monkeypatch, tmp_path):
    machine = Machine()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tower, "open_session", machine.open_session)
    monkeypatch.setattr(tower, "has_openvino", lambda: machine.openvino)
    monkeypatch.setattr(tower, "has_bfloat16", lambda: machine.bfloat16)
    monkeypatch.setattr(tower, "time", SimpleNamespace(perf_counter=lambda: Machine.now))
    monkeypatch.setattr(tower, "engine_version", lambda engine: "1")
    return machine


@pytest.fixture
def files(tmp_path):
    files = {"fp32": tmp_path / "vision_model.onnx", "int8": tmp_path / "vision_model_int8.onnx"}
    for path in files.values():
        path.touch()
    return files


def settled(files, *, precision=None, openvino=True):
    chosen = Tower(files, "sha256:0", for_pictures=openvino, precision=precision)
    chosen.settle(lambda session: {"numbers": NUMBERS})
    return chosen


def test_the_fastest_is_chosen_once_and_remembered(machine, files):
    assert settled(files).way == Way("openvino", "bf16")
    assert sorted(set(machine.opened)) == sorted(machine.sessions)
    machine.opened.clear()
    again = Tower(files, "sha256:0", for_pictures=True)
    assert again.way == Way("openvino", "bf16")
    again.settle(lambda session: pytest.fail("measured again"))
    assert machine.opened == []


def test_before_anything_is_measured_the_reference_runs(machine, files):
    fresh = Tower(files, "sha256:0", for_pictures=True)
    assert fresh.session is machine.sessions["onnxruntime", "fp32"]
    fresh.settle(lambda session: {"numbers": NUMBERS})
    assert fresh.session is machine.sessions["openvino", "bf16"]


def test_openvino_is_not_asked_where_it_may_not_run(machine, files, monkeypatch):
    monkeypatch.setattr(tower, "has_openvino", lambda: pytest.fail("asked"))
    assert settled(files, openvino=False).way == Way("onnxruntime", "int8")


def test_other_vectors_are_never_chosen(machine, files):
    machine.sessions["openvino", "bf16"].noise = 0.2
    assert settled(files).way == Way("openvino", "fp32")
    with pytest.raises(
        ModelError, match=r"vision_model\.onnx cannot be run so: .*\(openvino bf16: cosine 0\.9\d+; 0\.999"
    ):
        settled(files, precision="bf16")


def test_vectors_that_are_not_numbers_are_never_chosen(machine, files):
    machine.sessions["openvino", "bf16"].noise = float("nan")
    assert settled(files).way == Way("openvino", "fp32")


def test_what_depends_on_the_batch_is_chosen_by_who_insists(machine, files):
    machine.sessions["openvino", "bf16"].leak = 0.01
    assert settled(files).way == Way("openvino", "fp32")
    assert settled(files, precision="bf16").way == Way("openvino", "bf16")


def test_what_cannot_be_loaded_is_left_out(machine, files, caplog):
    machine.sessions["openvino", "bf16"] = None
    assert settled(files).way == Way("openvino", "fp32")
    assert "openvino in bf16 is left out" in caplog.text
    with pytest.raises(ModelError, match="no engine can load it"):
        settled(files, precision="bf16")
    machine.sessions["onnxruntime", "fp32"] = None
    files["fp32"].write_text("changed")
    with pytest.raises(ModelError, match="cannot be loaded"):
        settled(files)


@pytest.mark.parametrize("changed", ["vision_model.onnx", "vision_model_int8.onnx", "vision_model_int8.safetensors"])
def test_a_changed_file_is_measured_again(machine, files, tmp_path, changed):
    settled(files)
    (tmp_path / changed).write_text("changed")
    machine.sessions["openvino", "bf16"].noise = 0.2
    assert Tower(files, "sha256:0", for_pictures=True).way == tower.REFERENCE
    assert settled(files).way == Way("openvino", "fp32")


@pytest.mark.parametrize("content", ["", "{", "null", "\x00"])
def test_a_damaged_cache_is_measured_again(machine, files, tmp_path, content):
    settled(files)
    (remembered,) = (tmp_path / "cache").rglob("*.json")
    good = remembered.read_text()
    remembered.write_text(content)
    assert settled(files).way == Way("openvino", "bf16")
    assert remembered.read_text() == good


def test_a_cache_that_cannot_be_written_is_no_error(machine, files, tmp_path):
    (tmp_path / "cache").write_text("not a folder")
    assert settled(files).way == Way("openvino", "bf16")


def test_what_is_missing_for_a_precision_is_said_at_once(machine, files):
    with pytest.raises(ModelError, match="ONNX models run in fp32, bf16 or int8, not in fp16"):
        Tower(files, "", for_pictures=True, precision="fp16")
    with pytest.raises(ModelError, match=r"there is no vision_model_int8\.onnx in .*; use fp32 or bf16"):
        Tower({"fp32": files["fp32"]}, "", for_pictures=True, precision="int8")
    machine.bfloat16 = False
    with pytest.raises(ModelError, match=r"this processor \(.+\) does not compute in bf16; use fp32 or int8"):
        Tower(files, "", for_pictures=True, precision="bf16")
    machine.openvino = False
    with pytest.raises(MissingExtraError, match=r"pip install 'mmrag\[openvino\]'"):
        Tower(files, "", for_pictures=True, precision="bf16")


def test_the_precision_reaches_the_encoder():
    assert load_encoder("builtin", precision="fp32").precision == "fp32"
    with pytest.raises(ModelError, match=r"there is no vision_model_int8\.onnx"):
        load_encoder("builtin", precision="int8")


def test_a_third_partys_encoder_runs_as_it_does():
    assert load_encoder("toy:1", precision="fp32").precision == "fp32"
    with pytest.raises(ModelError, match="toy runs in fp32 only, not in int8"):
        load_encoder("toy:1", precision="int8")


def test_wrong_scales_in_a_real_file(tmp_path):
    ir = pytest.importorskip("onnx_ir", reason="needs the train extra")
    from mmrag.models.graph import OPSET, constant, save

    matrix = np.random.default_rng(2).normal(size=(32, 16)).astype(np.float32)
    scales = np.linspace(0.5, 1.5, 16, dtype=np.float32)
    for name, weight in {"vision_model": matrix, "vision_model_int8": matrix * scales}.items():
        given = ir.Value(name="numbers", shape=ir.Shape(["n", 32]), type=ir.TensorType(ir.DataType.FLOAT))
        product = ir.node("MatMul", [given, constant("matrix", weight)])
        (output,) = product.outputs
        output.name, output.dtype, output.shape = "image_embeds", ir.DataType.FLOAT, ir.Shape(["n", 16])
        weights = [product.inputs[1]]
        graph = ir.Graph([given], [output], nodes=[product], initializers=weights, opset_imports={"": OPSET})
        save(ir.Model(graph, ir_version=10), tmp_path / f"{name}.onnx")
    files = {"fp32": tmp_path / "vision_model.onnx", "int8": tmp_path / "vision_model_int8.onnx"}
    assert settled(files, openvino=False).way == tower.REFERENCE
    with pytest.raises(ModelError, match=r"onnxruntime int8: cosine 0\.[89]"):
        settled(files, openvino=False, precision="int8")


def test_a_search_by_words_does_not_wait_for_openvino():
    code = (
        "import sys\n"
        "from mmrag.models.registry import load_encoder\n"
        "load_encoder('builtin').encode_text(['a dog'])\n"
        "assert 'openvino' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@needs_openvino
def test_openvino_comes_without_its_telemetry():
    code = (
        "import sys\n"
        "from mmrag.models.engines import has_bfloat16\n"
        "has_bfloat16()\n"
        "assert 'openvino' in sys.modules\n"
        "assert sys.modules['openvino_telemetry'] is None\n"
        "assert not [name for name in sys.modules if name.startswith('openvino_telemetry.')]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def builtin():
    return load_encoder("builtin", precision="fp32")


@pytest.fixture(scope="module")
def pixels(builtin, photographs):
    pictures = [Image.open(path).convert("RGB") for path in sorted(photographs.iterdir())]
    return np.stack([builtin.preprocess(picture) for picture in pictures])


@pytest.fixture(scope="module")
def expected(builtin, pixels):
    """The photographs' vectors, by ONNX Runtime."""
    session = open_session("onnxruntime", builtin.folder / "onnx" / "vision_model.onnx", precision="fp32", quick=False)
    return unit(session.run({"pixel_values": pixels}))


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def openvino(builtin, precision):
    return open_session("openvino", builtin.folder / "onnx" / "vision_model.onnx", precision=precision, quick=False)


@needs_openvino
def test_openvino_equals_onnx_runtime_from_several_threads(builtin, pixels, expected):
    session = openvino(builtin, "fp32")
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda one: session.run({"pixel_values": one[None]}), pixels))
    assert np.abs(unit(np.concatenate(found)) - expected).max() < 1e-4


@needs_openvino
def test_bfloat16_is_faithful_because_the_first_convolutions_are_not_in_it(builtin, pixels, expected, monkeypatch):
    if not has_bfloat16():
        pytest.skip("this processor does not compute in bfloat16")
    split = (unit(openvino(builtin, "bf16").run({"pixel_values": pixels})) * expected).sum(axis=1)
    assert split.min() >= 0.999
    monkeypatch.setattr(engines, "_FIRST_CONVOLUTIONS", 10_000)
    whole = (unit(openvino(builtin, "bf16").run({"pixel_values": pixels})) * expected).sum(axis=1)
    assert whole.min() < split.min()
