"""A network of a model, run in the fastest way whose vectors are those of single precision.

Every way to run it is compared with ONNX Runtime in single precision on the same inputs, once per
model and machine; what was measured is remembered.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mmrag.errors import MissingExtraError, MmragError, ModelError
from mmrag.machine import processor, usable_cores
from mmrag.models.engines import Array, Session, engine_version, has_bfloat16, has_openvino, open_session
from mmrag.models.memo import recall, remembered
from mmrag.roles import PRECISIONS, Vectors

logger = logging.getLogger("mmrag")

FAITHFUL_COSINE = 0.999

_STEADY = 1e-5
_RUN_ALONE = 2
_TIMED_RUNS = 3

Samples = Mapping[str, Array]
"""Inputs by name, each with as many entries along its first axis."""


@dataclass(frozen=True)
class Way:
    """An engine and a precision to run a network in."""

    engine: str
    precision: str


@dataclass(frozen=True)
class Measured:
    """What a way gave on samples.

    Attributes
    ----------
    cosine : float
        The lowest, to the vectors of the reference.
    batch_effect : float
        By how much an entry of a vector differs when its input runs alone, at most.
    rate : float
        Inputs per second.
    """

    engine: str
    precision: str
    cosine: float
    batch_effect: float
    rate: float

    @property
    def way(self) -> Way:
        """What was measured."""
        return Way(self.engine, self.precision)

    @property
    def faithful(self) -> bool:
        """Whether its vectors compare with those of the reference."""
        return self.cosine >= FAITHFUL_COSINE

    @property
    def steady(self) -> bool:
        """Whether a vector does not depend on what else is in the batch."""
        return self.batch_effect <= _STEADY


REFERENCE = Way("onnxruntime", "fp32")


class Tower:
    """A network of a model, and how it is run.

    Parameters
    ----------
    files : mapping of str to path
        Its ONNX files: "fp32", and "int8" where there is one.
    weights : str
        Hash of the model's files.
    for_pictures : bool
        It will be run for long, and OpenVINO may run it. What reads texts runs once in most processes, and must
        start quickly.
    precision : {"fp32", "bf16", "int8"} or None
        To insist on; by default, what is fastest and faithful.

    Raises
    ------
    MissingExtraError, ModelError
        If there is no way to run it in this precision, with what is missing.
    """

    def __init__(
        self, files: Mapping[str, Path], weights: str, *, for_pictures: bool, precision: str | None = None
    ) -> None:
        self._files = files
        self._weights = weights
        self._for_pictures = for_pictures
        self._precision = precision
        self._session: Session | None = None
        self._loading = threading.Lock()
        if precision is not None and not self._ways:
            raise _missing(precision, files)

    @cached_property
    def way(self) -> Way:
        """As it is run: the best that was measured on this machine, or else the first there is."""
        return self._best(recall("engines", self._key)) or self._ways[0]

    @property
    def session(self) -> Session:
        """The network, loaded when it is first needed."""
        with self._loading:
            if self._session is None:
                self._session = self._open(self.way)
            return self._session

    def prepare(self) -> None:
        """Begin to load the network in a thread; whoever needs it waits for that, and hears of what went wrong."""
        if self._session is None and not self._loading.locked():
            threading.Thread(target=self._load_quietly, name="mmrag-prepare").start()

    def _load_quietly(self) -> None:
        with suppress(MmragError):
            _ = self.session

    def settle(self, samples: Callable[[Session], Samples]) -> None:
        """Run in the fastest faithful way from now on; measure all of them if that was never done here.

        Parameters
        ----------
        samples : callable
            Makes inputs such as the network will see.

        Raises
        ------
        ModelError
            If the precision that was insisted on gives other vectors.
        """
        if self._ways == [REFERENCE]:
            return
        measured = remembered("engines", self._key, lambda: self._measure(samples))
        best = self._best(measured)
        if best is None:
            seen = ", ".join(f"{one['engine']} {one['precision']}: cosine {one['cosine']:.4f}" for one in measured)
            seen = seen or "no engine can load it"
            raise ModelError(
                f"{self._files['fp32']} cannot be run so: its vectors would not compare with those of single "
                f"precision ({seen}; {FAITHFUL_COSINE} is needed). Choose another --precision"
            )
        if best != self.way:
            self.way = best
            self._session = None

    def _best(self, measured: Any) -> Way | None:
        """Of what was measured, the fastest that fits. Who insists on a precision takes it unsteady too."""
        all_of_them = [Measured(**one) for one in measured or ()]
        fit = [one for one in all_of_them if one.faithful and (one.steady or self._precision)]
        return max(fit, key=lambda one: one.rate).way if fit else None

    def _measure(self, samples: Callable[[Session], Samples]) -> list[dict[str, Any]]:
        logger.info("measuring once which engine is the fastest for %s", self._files["fp32"])
        reference = self._open(REFERENCE)
        arrays = samples(reference)
        expected = _unit(reference.run(arrays))
        found = []
        for way in self._ways:
            try:
                found.append(asdict(_measured(way, self._open(way), arrays, expected)))
            except ModelError as error:
                if way == REFERENCE:
                    raise
                logger.warning("%s in %s is left out: %s", way.engine, way.precision, error)
        return found

    def _open(self, way: Way) -> Session:
        file = self._files["int8" if way.precision == "int8" else "fp32"]
        return open_session(way.engine, file, precision=way.precision, quick=not self._for_pictures)

    @cached_property
    def _key(self) -> list[Any]:
        files = sorted(beside for path in self._files.values() for beside in path.parent.glob(f"{path.stem}.*"))
        states = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        versions = [engine_version(engine) for engine in dict.fromkeys(one.engine for one in self._ways)]
        ways, measures = [asdict(one) for one in self._ways], [one.name for one in fields(Measured)]
        return [self._weights, states, ways, measures, versions, processor(), usable_cores()]

    @cached_property
    def _ways(self) -> list[Way]:
        """What may be chosen from. Found late: a search by words must not wait until OpenVINO is imported."""
        ways = _ways(self._files, self._for_pictures)
        return ways if self._precision is None else [one for one in ways if one.precision == self._precision]


def _ways(files: Mapping[str, Path], openvino: bool) -> list[Way]:
    found = [REFERENCE]
    if openvino and has_openvino():
        found.append(Way("openvino", "fp32"))
        if has_bfloat16():
            found.append(Way("openvino", "bf16"))
    if "int8" in files:
        found.append(Way("onnxruntime", "int8"))
    return found


def _missing(precision: str, files: Mapping[str, Path]) -> ModelError:
    if precision not in PRECISIONS:
        return ModelError(f"a precision is one of {', '.join(PRECISIONS)}, not {precision!r}")
    if precision == "fp16":
        return ModelError("ONNX models run in fp32, bf16 or int8, not in fp16")
    if precision == "int8":
        path = files["fp32"]
        return ModelError(f"there is no {path.stem}_int8.onnx in {path.parent}; use fp32 or bf16")
    if not has_openvino():
        return MissingExtraError("openvino", "openvino")
    return ModelError(f"this processor ({processor()}) does not compute in bf16; use fp32 or int8")


def _measured(way: Way, session: Session, arrays: Samples, expected: Vectors) -> Measured:
    together = _unit(session.run(arrays))
    alone = [session.run({name: array[n : n + 1] for name, array in arrays.items()}) for n in range(_RUN_ALONE)]
    effect = np.abs(_unit(np.concatenate(alone)) - together[:_RUN_ALONE]).max()
    times = []
    for _ in range(_TIMED_RUNS):
        start = time.perf_counter()
        session.run(arrays)
        times.append(time.perf_counter() - start)
    cosine = (together * expected).sum(axis=1).min()
    return Measured(way.engine, way.precision, float(cosine), float(effect), len(expected) / min(times))


def _unit(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), dtype=np.float32)
