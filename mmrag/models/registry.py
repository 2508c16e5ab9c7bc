"""Names → models. ``builtin``, a folder, or ``family:reference``; third parties join by entry point."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from mmrag.errors import ModelError
from mmrag.models.cards import CARD_NAME
from mmrag.roles import Encoder, Generator, Matcher, Model

Opener = Callable[[str], Model]

R = TypeVar("R", bound=Model)

ENTRY_POINTS = "mmrag.models"

_FOLDER = "onnx:"

_FAMILIES: dict[str, str | Opener] = {
    "blip2": "mmrag.models.blip2:open_blip2",
    "builtin": "mmrag.models.onnx:open_builtin",
    "onnx": "mmrag.models.onnx:open_folder",
}


def register(family: str, opener: Opener) -> None:
    """Add a family, as ``family:reference`` in every place that takes a model's name.

    Parameters
    ----------
    family : str
        A name without a colon that is not taken.
    opener : callable
        Takes what stands after the colon and returns a `Model`: an `Encoder`, a `Matcher`, a `Generator`,
        or several of these at once.
    """
    if not family.isidentifier() or family in _FAMILIES:
        raise ModelError(f"{family!r} cannot be registered: it is taken, or not a plain word")
    _FAMILIES[family] = opener


def load_encoder(name: str, *, precision: str | None = None, device: str = "auto") -> Encoder:
    """Load the encoder that `name` stands for.

    Parameters
    ----------
    name : str
        "builtin", the path of a model folder, or "family:reference".
    precision : {"fp32", "bf16", "fp16", "int8"} or None
        What it computes in; by default the fastest whose vectors are those of single precision.
    device : {"auto", "cpu", "cuda", "mps"}
        Where it computes.

    Raises
    ------
    ModelError
        If nothing goes by that name, it plays another role, or it cannot compute so.
    """
    return _load(name, Encoder, precision, device)


def load_matcher(name: str, *, precision: str | None = None, device: str = "auto") -> Matcher:
    """Load the matcher that `name` stands for; parameters and errors as those of `load_encoder`."""
    return _load(name, Matcher, precision, device)  # type: ignore[type-abstract]


def load_generator(name: str, *, precision: str | None = None, device: str = "auto") -> Generator:
    """Load the generator that `name` stands for; parameters and errors as those of `load_encoder`."""
    return _load(name, Generator, precision, device)  # type: ignore[type-abstract]


def _load(name: str, role: type[R], precision: str | None, device: str) -> R:
    if _is_path(name):
        name = f"{_FOLDER}{name}"
    family, _, reference = name.partition(":")
    model = _opener(family, name)(reference)
    if not isinstance(model, role):
        wanted, plays = role.__name__.lower(), " and ".join(model.card.roles)
        other = f"{model.elsewhere[wanted]} is one" if wanted in model.elsewhere else "See: mmrag models"
        raise ModelError(f"{name} is no {wanted}: it plays the role of {plays}. {other}")
    model = model.on_device(device)
    return model if precision is None else model.at_precision(precision)


def absolute_name(name: str) -> str:
    """Make a model's name independent of the current folder: a path becomes absolute."""
    path = name.removeprefix(_FOLDER)
    return str(Path(path).expanduser().resolve()) if path != name or _is_path(name) else name


def to_home(name: str, home: Path) -> str:
    """Write an absolute model path relative to `home` if it is inside, so that both can move together."""
    inside = name.startswith("/") and Path(name).is_relative_to(home)
    return f"./{Path(name).relative_to(home).as_posix()}" if inside else name


def from_home(name: str, home: Path) -> str:
    """Undo `to_home`."""
    return str(home / name) if name.startswith("./") else name


def _is_path(name: str) -> bool:
    return (
        name.startswith((".", "/", "~")) or os.path.isfile(Path(name, CARD_NAME)) or os.path.isdir(Path(name, "onnx"))
    )


def _opener(family: str, name: str) -> Opener:
    if family in _FAMILIES:
        found = _FAMILIES[family]
        if isinstance(found, str):
            module, _, attribute = found.partition(":")
            opener: Opener = getattr(importlib.import_module(module), attribute)
            return opener
        return found
    from importlib import metadata  # slow to import, and seldom needed

    third_party = {point.name: point for point in metadata.entry_points(group=ENTRY_POINTS)}
    if family in third_party:
        return third_party[family].load()  # type: ignore[no-any-return]
    known = ", ".join(sorted({*_FAMILIES, *third_party}))
    raise ModelError(
        f"there is no model {name!r}; give 'builtin', the path of a model folder (./my-model), "
        f"or FAMILY:NAME with one of the families {known}"
    )
