"""Engines that run one ONNX file: ONNX Runtime, always there, and OpenVINO, from its extra.

OpenVINO is faster at indexing, above all in bfloat16; ONNX Runtime starts faster.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mmrag.errors import ModelError
from mmrag.machine import usable_cores
from mmrag.roles import Vectors

if TYPE_CHECKING:
    import openvino

Array = npt.NDArray[Any]

OUTPUTS = ("image_embeds", "text_embeds", "pooler_output")
_FIRST_CONVOLUTIONS = 6

CELLS = "cell_embeds"
"""What an image tower calls every cell of a picture embedded by itself, if it gives that."""


class Session(ABC):
    """A network that is loaded and ready to run.

    `run` may be called from several threads at once. Each call keeps to one core: threads that share a
    network's layers spend much of their time waiting for each other, and each core its own batch wastes nothing.

    Attributes
    ----------
    inputs : mapping of str to numpy dtype
        What it takes.
    lengths : mapping of str to int or None
        For each input, the size of its second axis where that is fixed.
    """

    inputs: Mapping[str, np.dtype[Any]]
    lengths: Mapping[str, int | None]
    _output: str

    @abstractmethod
    def outputs(self, arrays: Mapping[str, Array], names: Sequence[str]) -> list[Array]:
        """Run once and give the outputs of these names, as far as they are numbers in float32.

        Raises
        ------
        ModelError
            If there is none of a name, or it cannot be run.
        """

    def run(self, arrays: Mapping[str, Array]) -> Vectors:
        """Run once and give the vectors, float32 ``(n, dimension)``."""
        return self.outputs(arrays, [self._output])[0]


class OnnxRuntimeSession(Session):
    """A file in ONNX Runtime, on the CPU.

    Parameters
    ----------
    path : path
        The ONNX file.
    quick : bool
        See `open_session`.
    outputs : sequence of str
        What its output may be called, best first.

    Raises
    ------
    ModelError
        If the file cannot be loaded, or has no output that holds vectors.
    """

    def __init__(self, path: Path, *, quick: bool, outputs: Sequence[str] = OUTPUTS) -> None:
        onnxruntime = _onnxruntime()
        self._path = path
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        if quick:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no narrower base
            raise ModelError(f"{path} cannot be loaded: {error}") from error
        self.names = tuple(one.name for one in self._session.get_outputs())
        self._output = _output_name(list(self.names), path, outputs)
        self._options = onnxruntime.RunOptions()
        self._options.only_execute_path_to_fetches = True
        inputs = self._session.get_inputs()
        self.inputs = {one.name: np.dtype(_DTYPES.get(one.type, "float32")) for one in inputs}
        self.lengths = {one.name: _fixed(one.shape) for one in inputs}

    def outputs(self, arrays: Mapping[str, Array], names: Sequence[str]) -> list[Array]:
        """Run once and give some outputs, float32; what only others need is not computed."""
        try:
            found = self._session.run(list(names), dict(arrays), self._options)
            return [np.asarray(one, dtype=np.float32) for one in found]
        except Exception as error:  # onnxruntime's exceptions share no narrower base
            raise ModelError(f"{self._path} cannot be run: {error}") from error


_DTYPES = {"tensor(float16)": "float16", "tensor(int64)": "int64", "tensor(int32)": "int32"}


def _fixed(shape: list[Any]) -> int | None:
    return shape[1] if len(shape) > 1 and isinstance(shape[1], int) else None


def _output_name(names: list[str], path: Path, wanted: Sequence[str] = OUTPUTS) -> str:
    for name in wanted:
        if name in names:
            return name
    if len(names) == 1:
        return names[0]
    raise ModelError(f"{path} gives {', '.join(names)}; one of {', '.join(wanted)} is needed")


class OpenVinoSession(Session):
    """A file in OpenVINO, on the CPU, in single precision or in bfloat16.

    In bfloat16, what a convolutional network does before its seventh convolution stays in single precision: there,
    on raw pixels, bfloat16 loses most of what it loses at all (measured on the built-in model: the
    lowest cosine to single precision over 1,000 photographs is .987 without this and .9992 with it).

    Parameters
    ----------
    path : path
        The ONNX file.
    precision : {"fp32", "bf16"}
        What it computes in.

    Raises
    ------
    ModelError
        If the file cannot be loaded.
    """

    def __init__(self, path: Path, *, precision: str) -> None:
        core = _core()
        wanted = "bf16" if precision == "bf16" else "f32"
        try:
            model = _read(core, path)
            self._places = {one.get_any_name(): place for place, one in enumerate(model.outputs)}
            self._output = _output_name(list(self._places), path)
            self.inputs = {one.get_any_name(): one.get_element_type().to_dtype() for one in model.inputs}
            self.lengths = dict.fromkeys(self.inputs)
            stem, rest = _split(_read(core, path), model) if precision == "bf16" else (None, model)
            self._stem = stem and core.compile_model(stem, "CPU", _settings("f32"))
            self._rest = core.compile_model(rest, "CPU", _settings(wanted))
        except RuntimeError as error:
            raise ModelError(f"{path} cannot be loaded by OpenVINO: {error}") from error
        self._path = path
        self._requests = threading.local()

    def outputs(self, arrays: Mapping[str, Array], names: Sequence[str]) -> list[Array]:
        """Run once and give some outputs, float32."""
        missing = [name for name in names if name not in self._places]
        if missing:
            raise ModelError(f"{self._path} gives {', '.join(self._places)}, and not {', '.join(missing)}")
        if not hasattr(self._requests, "rest"):
            self._requests.stem = self._stem and self._stem.create_infer_request()
            self._requests.rest = self._rest.create_infer_request()
        given = [arrays[name] for name in self.inputs]
        try:
            if self._requests.stem:
                given = [self._requests.stem.infer(given)[0], *given]
            found = self._requests.rest.infer(given)
            return [np.array(found[self._places[name]], dtype=np.float32) for name in names]
        except RuntimeError as error:
            raise ModelError(f"{self._path} cannot be run by OpenVINO: {error}") from error


def _read(core: openvino.Core, path: Path) -> openvino.Model:
    """Read a network, without what only explanations need, which would be computed every time."""
    model = core.read_model(path)
    for place, result in reversed(list(enumerate(model.get_results()))):
        if model.outputs[place].get_any_name() == CELLS:
            model.remove_result(result)
    return model


def _settings(precision: str) -> dict[str, Any]:
    cores = usable_cores()
    return {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": cores, "NUM_STREAMS": cores}


def _split(first: openvino.Model, second: openvino.Model) -> tuple[openvino.Model | None, openvino.Model]:
    """Cut a network before its seventh convolution; `first` and `second` are two copies of it.

    Returns
    -------
    model or None
        From the input to the cut; None if there are no seven convolutions.
    model
        From the cut, its new first input, to the output.
    """
    openvino = _openvino()
    cuts = [_convolution_input(model, _FIRST_CONVOLUTIONS) for model in (first, second)]
    if None in cuts:
        return None, second
    stem = openvino.Model([openvino.opset13.result(cuts[0].get_source_output())], first.get_parameters(), "stem")
    source = cuts[1].get_source_output()
    middle = openvino.opset13.parameter(source.get_partial_shape(), source.get_element_type())
    for target in list(source.get_target_inputs()):
        target.replace_source_output(middle.output(0))
    return stem, openvino.Model(second.get_results(), [middle, *second.get_parameters()], "rest")


def _convolution_input(model: openvino.Model, number: int) -> Any:
    convolutions = [one for one in model.get_ordered_ops() if one.get_type_name() == "Convolution"]
    return convolutions[number].input(0) if len(convolutions) > number else None


@functools.cache
def _core() -> openvino.Core:
    return _openvino().Core()


@functools.cache
def _openvino() -> Any:
    """Import OpenVINO without its telemetry; it has a stand-in of its own, which sends nothing."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # None: cannot be imported
    import openvino

    return openvino


@functools.cache
def _onnxruntime() -> Any:
    """Import ONNX Runtime without its telemetry, which would give this machine a number and report what it runs."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # where somebody else has imported it before
    return onnxruntime


def engine_version(engine: str) -> str:
    """Tell which version of an engine is installed."""
    module = _onnxruntime() if engine == "onnxruntime" else _openvino()
    return str(module.__version__)


def has_openvino() -> bool:
    """Tell whether the extra is installed."""
    return importlib.util.find_spec("openvino") is not None


def has_bfloat16() -> bool:
    """Tell whether OpenVINO is installed and this processor computes in bfloat16."""
    return has_openvino() and "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def open_session(engine: str, path: Path, *, precision: str, quick: bool) -> Session:
    """Load an ONNX file.

    Parameters
    ----------
    engine : {"onnxruntime", "openvino"}
        What runs it.
    path : path
        The file, of the precision wanted where files differ by it.
    precision : {"fp32", "bf16", "int8"}
        What it computes in; "int8" is a property of the file.
    quick : bool
        Load it as quickly as can be, and leave the graph as it is written: for what runs once in most processes.
    """
    if engine == "openvino":
        return OpenVinoSession(path, precision=precision)
    return OnnxRuntimeSession(path, quick=quick)
