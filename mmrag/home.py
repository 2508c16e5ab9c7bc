"""Where an index lives: making one in a folder, and finding the nearest at or above a folder."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

from mmrag.errors import IndexExistsError, IndexNotFoundError
from mmrag.index import Index
from mmrag.ingest.recipe import IndexRecipe, load_recipe
from mmrag.models.registry import absolute_name, load_encoder, to_home
from mmrag.stores.auto import first_choice
from mmrag.stores.files import disk_errors
from mmrag.stores.lock import write_lock
from mmrag.stores.manifest import FOLDER_NAME, FORMAT, Manifest, Writer, has_manifest
from mmrag.stores.registry import open_view, view_class
from mmrag.version import __version__


def create(
    path: str | Path = ".",
    *,
    model: str | None = None,
    precision: str | None = None,
    device: str = "auto",
    recipe: str | IndexRecipe = "default",
) -> Index:
    """Make a new, empty index in a folder.

    Parameters
    ----------
    path : str or path
        The folder that will hold ``.mmrag``; it is made if it does not exist.
    model : str or None
        "builtin", the path of a model folder, a short name of the catalogue, or "family:reference"; by default the
        recipe's.
    precision : {"fp32", "bf16", "fp16", "int8"} or None
        What this process encodes pictures in; by default the fastest whose vectors are those of single precision.
    device : {"auto", "cpu", "cuda", "mps"}
        Where this process encodes; ONNX models run on the CPU.
    recipe : str or IndexRecipe
        A shipped recipe's name, or a path that ends in ``.toml``.

    Raises
    ------
    IndexExistsError
        If there is an index already.
    """
    options = load_recipe(recipe)
    home = home_of(path)
    folder = home / FOLDER_NAME
    if has_manifest(folder):
        raise IndexExistsError(f"there is an index in {home} already; open it, or delete {folder}")
    name = absolute_name(model or options.model.name)
    settings, choice = first_choice(options.view)
    encoder = load_encoder(name, precision=precision, device=device)
    encoder.verify()
    view_class(settings.kind).check(settings, encoder.identity.dimension)
    manifest = Manifest(
        format=FORMAT,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
        model=to_home(name, home),
        identity=encoder.identity,
        view=settings,
        choice=choice,
        writer=Writer(encoder.engine, encoder.precision),
        keep_versions=options.store.keep_versions,
        modalities=encoder.card.modalities,
    )
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with write_lock(folder):
            _write_empty(home, manifest)
    return Index(home, precision=precision, device=device)


def open_index(
    path: str | Path = ".",
    *,
    model: str | None = None,
    precision: str | None = None,
    device: str = "auto",
    upwards: bool = True,
) -> Index:
    """Open the nearest index at or above a folder.

    Parameters
    ----------
    path : str or path
        Where to start looking.
    model : str or None
        The model that the index must have been written by; by default, the one that it names. Needed
        where a model folder has moved.
    precision : {"fp32", "bf16", "fp16", "int8"} or None
        What this process encodes pictures in; by default the fastest whose vectors are those of single precision.
    device : {"auto", "cpu", "cuda", "mps"}
        Where this process encodes; ONNX models run on the CPU.
    upwards : bool
        Whether to look above the folder too.

    Raises
    ------
    IndexNotFoundError
        If there is none.
    IndexModelError
        If it was written by another model.
    IndexFormatError
        If it is damaged or of another format.
    """
    home = home_of(path)
    if not upwards and not has_manifest(home / FOLDER_NAME):
        raise IndexNotFoundError(f"there is no index in {home}; make one: mmrag index FOLDER --index {home}")
    return Index(find_home(home), model=model, precision=precision, device=device)


def find_home(path: str | Path = ".") -> Path:
    """Find the nearest folder at or above `path` that holds an index."""
    start = home_of(path)
    for folder in (start, *start.parents):
        if has_manifest(folder / FOLDER_NAME):
            return folder
    raise IndexNotFoundError(f"there is no index in {start} or above it; make one: mmrag index FOLDER")


def home_of(path: str | Path) -> Path:
    """Tell which folder an index is the index of: the one that is named, or that the index's own folder lies in."""
    home = Path(os.path.realpath(os.path.expanduser(path)))
    return home.parent if home.name == FOLDER_NAME else home


def _write_empty(home: Path, manifest: Manifest) -> None:
    """Write what a manifest tells of, without an item; the manifest last, as it makes an index of the folder."""
    from mmrag.stores.table import Table  # imports lancedb

    folder, identity = home / FOLDER_NAME, manifest.identity
    if has_manifest(folder):
        raise IndexExistsError(f"another process has just made an index in {home}; open it")
    for leftover in (folder / "table", folder / "views", *folder.glob("store-*")):
        shutil.rmtree(leftover, ignore_errors=True)
    table = Table(folder / "table", identity.dimension, vectors=identity.vectors, create=True)
    open_view(folder, manifest.view, identity.dimension, vectors=identity.vectors).sync(table)
    manifest.write(folder)
