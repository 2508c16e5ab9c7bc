"""TOML and JSON files → frozen dataclasses, with closed schemas and helpful errors."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import tomllib
import types
import typing
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from mmrag.errors import RecipeError

T = TypeVar("T")
Folder = Literal["indexes", "pipelines", "trainers"]

_PACKAGE = Path(__file__).resolve().parent


def load(path: Path, schema: type[T]) -> T:
    """Read a TOML file into `schema`, a dataclass.

    Raises
    ------
    RecipeError
        If the file cannot be read, is not TOML, or does not fit the schema.
    """
    return build(schema, read_toml(path), where=str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file as it is.

    Raises
    ------
    RecipeError
        If the file cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid TOML: {error}") from error


def load_named(folder: Folder, name: str, schema: type[T]) -> T:
    """Load a recipe that ships with mmrag by its name, or anyone's by its path.

    Parameters
    ----------
    folder : {"indexes", "pipelines", "trainers"}
        Which kind of recipe.
    name : str
        The name of a shipped recipe ("default"), or a path that ends in ``.toml``.
    schema : type
        The dataclass to build.
    """
    if name.endswith(".toml"):
        return load(Path(name), schema)
    loaded: T = _load_shipped(folder, name, cast(Hashable, schema))
    return loaded


def find_named(folder: Folder, name: str) -> Path:
    """Where the recipe lies that `load_named` would load.

    Raises
    ------
    RecipeError
        If none of that name ships with mmrag, and it is no path of a TOML file.
    """
    if name.endswith(".toml"):
        return Path(name)
    home = recipe_folder(folder)
    known = sorted(path.stem for path in home.glob("*.toml"))
    if name not in known:
        raise RecipeError(
            f"there is no recipe {name!r} in {folder}/{_nearest(name, known)}; "
            f"known: {', '.join(known)}; a path must end in .toml"
        )
    return home / f"{name}.toml"


@functools.cache
def _load_shipped(folder: Folder, name: str, schema: Any) -> Any:
    return load(find_named(folder, name), schema)


def recipe_folder(folder: Folder) -> Path:
    """Where the shipped recipes lie: inside an installed package, or beside it in a checkout."""
    installed = _PACKAGE / "recipes" / folder
    return installed if installed.is_dir() else _PACKAGE.parent / folder


def build(schema: type[T], data: Mapping[str, Any], *, where: str) -> T:
    """Build a dataclass from plain data, refusing unknown keys and wrong types.

    Parameters
    ----------
    schema : type
        A dataclass whose fields are str, int, float, bool, Literal, tuple[X, ...], dict[str, X],
        ``X | None`` or another such dataclass.
    data : mapping
        What TOML or JSON gave.
    where : str
        Named in errors.

    Raises
    ------
    RecipeError
        With the nearest known key, or the expected type.
    """
    if not isinstance(data, Mapping):
        raise RecipeError(f"{where} must be a table of keys, not {data!r:.40}")
    hints = typing.get_type_hints(schema)
    fields = {field.name: field for field in dataclasses.fields(schema)}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            raise RecipeError(f"{where}: unknown key {key!r}{_nearest(key, fields)}; known: {', '.join(fields)}")
    missing = [
        name
        for name, field in fields.items()
        if name not in data and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise RecipeError(f"{where}: missing key {missing[0]!r}")
    values = {key: _convert(hints[key], value, f"{where}: {key}") for key, value in data.items()}
    try:
        return schema(**values)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return build(hint, value, where=where)
    if origin is Literal:
        if value not in arguments:
            raise RecipeError(f"{where} must be one of {', '.join(map(repr, arguments))}, not {value!r}")
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _convert(next(a for a in arguments if a is not types.NoneType), value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise RecipeError(f"{where} must be a list, not {value!r}")
        return tuple(_convert(arguments[0], one, where) for one in value)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise RecipeError(f"{where} must be a table of keys, not {value!r}")
        return {key: _convert(arguments[1], one, f"{where}.{key}") for key, one in value.items()}
    return _scalar(hint, value, where)


def _scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise RecipeError(f"{where} must be {hint.__name__}, not {value!r}")


def _nearest(name: str, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
