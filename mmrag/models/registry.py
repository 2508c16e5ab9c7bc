"""Names → models. ``builtin``, a folder, a server's card, or ``family:reference``; others join by entry point."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from mmrag.errors import ModelError, RecipeError
from mmrag.models import cache, catalogue, gguf_files
from mmrag.models.cards import CARD_NAME
from mmrag.roles import Encoder, Generator, Matcher, Model

Opener = Callable[[str], Model]

R = TypeVar("R", bound=Model)

ENTRY_POINTS = "mmrag.models"

_FOLDER = "onnx:"
_PRETRAINED = "hf:"
_SERVER = "openai:"

_SERVER_CARD = ".toml"

_SEEN_IN_FOLDERS = ("blip", "blip2", "cross", "hf")  # config.json says which of them
_OF_FOLDERS = (*_SEEN_IN_FOLDERS, "gguf", "timm")

_FAMILIES: dict[str, str | Opener] = {
    "blip": "mmrag.models.blip:open_blip",
    "blip2": "mmrag.models.blip2:open_blip2",
    "builtin": "mmrag.models.onnx:open_builtin",
    "cross": "mmrag.models.cross_encoder:open_cross_encoder",
    "gguf": "mmrag.models.gguf:open_gguf",
    "hf": "mmrag.models.hf:open_pretrained",
    "onnx": "mmrag.models.onnx:open_folder",
    "openai": "mmrag.models.openai_server:open_openai",
    "openclip": "mmrag.models.open_clip:open_openclip",
    "timm": "mmrag.models.backbone:open_timm",
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
        "builtin", the path of a model folder, a short name of the catalogue, or "family:reference".
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
    return _load(name, Generator, precision, device)


def default_generator() -> str | None:
    """Name the language model that answers where none is asked for; None if it, or what runs it, is not here."""
    entry = catalogue.entries()["smollm2"]
    return entry.name if importlib.util.find_spec("xllamacpp") and entry.is_here() else None


def check_recipe_name(name: str | None, instead: str) -> None:
    """Check that a recipe, which may be a stranger's, names no generator on a server.

    Parameters
    ----------
    name : str or None
        Of a generator.
    instead : str
        How its user names one.

    Raises
    ------
    RecipeError
        If it does: what is asked, texts, pictures, and a key from the environment would be sent there.
    """
    if name and (name.startswith(_SERVER) or name.endswith(_SERVER_CARD)):
        raise RecipeError(
            f"a recipe may not choose a server, to which your questions, sources and key would be sent, as {name!r} "
            f"does; leave it out, and name the server yourself: {instead} {name}"
        )


def open_model(name: str) -> Model:
    """Open the model that `name` stands for, whatever roles it plays; its networks are not loaded yet.

    Raises
    ------
    ModelError
        If nothing goes by that name, or it is not here.
    """
    name = f"{_family_of(Path(name).expanduser())}{name}" if _is_path(name) else catalogue.full_name(name)
    family, _, reference = name.partition(":")
    return _opener(family, name)(reference)


def _load(name: str, role: type[R], precision: str | None, device: str) -> R:
    model = open_model(name)
    if not isinstance(model, role):
        wanted, plays = role.__name__.lower(), " and ".join(model.card.roles)
        other = f"{model.elsewhere[wanted]} is one" if wanted in model.elsewhere else "See: mmrag models"
        raise ModelError(f"{name} is no {wanted}: it plays the role of {plays}. {other}")
    model = model.on_device(device)
    return model if precision is None else model.at_precision(precision)


def absolute_name(name: str) -> str:
    """Make a model's name independent of the current folder and of the catalogue: a path becomes absolute.

    The family is kept where it cannot be seen from what lies in the folder.
    """
    if _is_path(name):
        return str(Path(name).expanduser().resolve())
    family, _, reference = name.partition(":")
    path = Path(reference).expanduser().resolve()
    if family == "onnx" and (path.is_dir() or not cache.is_repository(reference.partition("@")[0])):
        return str(path)
    if family in _OF_FOLDERS and _is_path(reference):
        seen = family in _SEEN_IN_FOLDERS and _family_of(path) == _PRETRAINED
        return str(path) if seen else f"{family}:{path}"
    return catalogue.full_name(name)


def to_home(name: str, home: Path) -> str:
    """Write an absolute model path, be it behind a family, relative to `home` if it is inside: both can then move."""
    family, path = _split_path(name)
    inside = path.startswith("/") and Path(path).is_relative_to(home)
    return f"{family}./{Path(path).relative_to(home).as_posix()}" if inside else name


def from_home(name: str, home: Path) -> str:
    """Undo `to_home`."""
    family, path = _split_path(name)
    return f"{family}{home / path}" if path.startswith("./") else name


def _split_path(name: str) -> tuple[str, str]:
    """Part a family that reads folders, with its colon, from a path; what others are given is theirs."""
    family, colon, path = name.partition(":")
    return (family + colon, path) if family in _OF_FOLDERS and colon else ("", name)


def _is_path(name: str) -> bool:
    known = (CARD_NAME, "onnx", "config.json", "modules.json")
    if name.endswith(gguf_files.ENDING) and ":" not in name:
        return gguf_files.is_path(name)
    card = name.endswith(_SERVER_CARD) and os.path.isfile(name)
    return name.startswith((".", "/", "~")) or card or any(os.path.exists(Path(name, one)) for one in known)


def _family_of(folder: Path) -> str:
    """Tell who reads a folder: the towers of ours, and of a hub's for ONNX, need no torch and come first.

    A card tells nothing beside a hub's config.json: what was trained from such a model has both. A card of a server
    is no folder.
    """
    if folder.suffix == gguf_files.ENDING:
        return "gguf:"
    if folder.suffix == _SERVER_CARD:
        return _SERVER
    towers = any(os.path.isfile(folder / "onnx" / f"{tower}_model.onnx") for tower in ("vision", "text"))
    ours = towers or (os.path.isfile(folder / CARD_NAME) and not os.path.isfile(folder / "config.json"))
    weights = (*folder.glob("*.safetensors"), *folder.glob("*.bin"), *folder.glob("modules.json"))
    return _PRETRAINED if weights and not ours else _FOLDER


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
        try:
            return third_party[family].load()  # type: ignore[no-any-return]
        except Exception as error:  # whatever an author's module raises while it is imported
            where = third_party[family].value
            raise ModelError(f"the family {family!r}, which is in {where}, cannot be loaded: {error}") from error
    known = ", ".join(sorted({*_FAMILIES, *third_party}))
    raise ModelError(
        f"there is no model {name!r}; give 'builtin', the path of a model folder (./my-model), a name that "
        f"`mmrag models` lists, or FAMILY:NAME with one of the families {known}.{catalogue.did_you_mean(name)}"
    )
