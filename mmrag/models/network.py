"""A torch network behind a model: loaded when it is first needed, on a device, in a precision."""

from __future__ import annotations

import copy
import importlib.util
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from mmrag.errors import MissingExtraError, ModelError
from mmrag.roles import DEVICES, PRECISIONS, Model

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class TorchModel(Model, ABC):
    """A model that torch computes. Its roles' classes inherit from it, and from `Encoder`, `Matcher` or `Generator`.

    A family implements `load_network`.
    """

    _device = "auto"
    _precision: str | None = None

    @abstractmethod
    def load_network(self) -> torch.nn.Module:
        """Read the weights from disk, into single precision on the CPU."""

    @property
    def exportable(self) -> bool:
        """Whether `mmrag models export` can write it."""
        return False

    @property
    def engine(self) -> str:
        """What computes."""
        return "torch"

    @property
    def device(self) -> str:
        """Where it computes; "auto" has become what this machine has."""
        return _best_device() if self._device == "auto" else self._device

    @property
    def precision(self) -> str:
        """What it computes in: bfloat16 on CUDA, else single precision, unless somebody chose."""
        return self._precision or ("bf16" if self.device == "cuda" else "fp32")

    def at_precision(self, precision: str) -> Self:
        """Give this model computing in "fp32", "bf16" or "fp16"."""
        if precision not in PRECISIONS:
            raise ModelError(f"a precision is one of {', '.join(PRECISIONS)}, not {precision!r}")
        if precision == "int8":
            hint = "export it: mmrag models export NAME --to onnx --precision int8 --out DIR"
            others = "it computes in fp32, bf16 or fp16"
            raise ModelError(f"torch does not compute {self.card.name} in int8; {hint if self.exportable else others}")
        return self._changed(precision=precision)

    def on_device(self, device: str) -> Self:
        """Give this model computing on "auto", "cpu", "cuda" or "mps"."""
        if device not in DEVICES:
            raise ModelError(f"a device is one of {', '.join(DEVICES)}, not {device!r}")
        if device not in ("auto", "cpu") and device not in _devices():
            raise ModelError(f"torch finds no {device} on this machine; it has {', '.join(_devices())}")
        return self._changed(device=device)

    def _changed(self, *, device: str | None = None, precision: str | None = None) -> Self:
        chosen = device or self._device, precision or self._precision
        if chosen == (self._device, self._precision):
            return self
        other = copy.copy(self)
        other.__dict__.pop("network", None)
        other.__dict__.pop("_lock", None)
        other._device, other._precision = chosen
        return other

    @cached_property
    def network(self) -> Any:
        """The network, where and in what it computes. Use it inside `running` only."""
        return self.load_network().eval().requires_grad_(False).to(self.device, self.dtype)

    @property
    def dtype(self) -> Any:
        """The precision as torch names it."""
        torch = import_torch()
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]

    @property
    def _running(self) -> Any:
        return self.__dict__.setdefault("_lock", threading.RLock())  # at once, whoever comes first

    @contextmanager
    def running(self) -> Iterator[Any]:
        """Give the network to one thread at a time: all cores work on one batch, while others are prepared."""
        torch = import_torch()
        with self._running, torch.inference_mode():
            yield self.network

    def tensor(self, array: Any) -> Any:
        """Put an array where the network is; floats become what it computes in."""
        torch = import_torch()
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        dtype = self.dtype if tensor.is_floating_point() else tensor.dtype
        if (
            self.device == "cuda"
        ):  # cast there: on the way, the cast would be done here, and into memory that is not pinned
            return tensor.pin_memory().to(self.device, non_blocking=True).to(dtype)
        return tensor.to(self.device, dtype)


def as_array(tensor: Tensor) -> Any:
    """Bring a tensor back: floats as float32."""
    return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()


def import_torch() -> ModuleType:
    """Import torch, or tell which extra brings it."""
    if importlib.util.find_spec("torch") is None:
        raise MissingExtraError("torch", "torch")
    import torch

    return torch


def import_transformers() -> Any:
    """Import transformers, silent about what it is doing, or tell which extra brings it."""
    import_torch()
    if importlib.util.find_spec("transformers") is None:
        raise MissingExtraError("transformers", "torch")
    try:
        import transformers

        logging: Any = transformers.utils.logging
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    except Exception as error:
        raise ModelError(
            f"transformers is installed, but importing it fails ({error}). Usually torch and torchvision do not fit "
            "each other: install both from one index, as uv does: uv pip install 'mmrag[torch]'"
        ) from error
    return transformers


def _best_device() -> str:
    found = _devices()
    return next((device for device in ("cuda", "mps") if device in found), "cpu")


def _devices() -> list[str]:
    torch = import_torch()
    found = ["cpu"]
    if torch.cuda.is_available():
        found.append("cuda")
    if torch.backends.mps.is_available():
        found.append("mps")
    return found
