"""The manifest: what an index is, who wrote its vectors and from which folders."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmrag import recipe
from mmrag.errors import IndexFormatError, RecipeError
from mmrag.roles import Identity
from mmrag.stores.files import disk_errors, read_json, write_json
from mmrag.stores.view_settings import Choice, Tuning, ViewSettings
from mmrag.types import Modality

FORMAT = 5

FOLDER_NAME = ".mmrag"
"""Of the folder, in the one that holds the corpus, where an index keeps its files."""

STAMPS_PER_VERSION = 1 << 24
"""Rows of one commit are stamped in order, from the version's number times this."""
KEEP_VERSIONS = 10

_NAME = "manifest.json"


@dataclass(frozen=True)
class IndexedFolder:
    """A folder or file that was indexed, and the globs that were left out."""

    uri: str
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class Writer:
    """How the vectors were computed, beyond the identity of the encoder: they compare all the same.

    Attributes
    ----------
    engine : str
        What ran the model.
    precision : str
        Of its numbers.
    """

    engine: str = "onnxruntime"
    precision: str = "fp32"


@dataclass(frozen=True)
class Manifest:
    """What an index is.

    Attributes
    ----------
    format : int
        Of the index on disk.
    created : str
        ISO 8601, UTC.
    version : str
        Of the mmrag that made it.
    model : str
        Name to load its encoder by.
    identity : Identity
        Of the encoder that wrote its vectors.
    view : ViewSettings
        Of the view that serves it, never "auto".
    folders : tuple of IndexedFolder
        What `mmrag index` without arguments looks at again.
    writer : Writer
        What ran the encoder.
    keep_versions : int
        How many versions can be restored.
    store : str
        Name of the folder, inside the index's own, that holds its table and views; empty for that folder itself.
    choice : Choice
        Who chose the view, and why.
    tuning : Tuning or None
        What the view was measured to find; None if it was not.
    captions : tuple of str
        Uris of the captions files that tell of its pictures.
    modalities : tuple of str
        What its encoder embeds, so that a look at folders needs no encoder; empty where an older mmrag did not say.
    """

    format: int
    created: str
    version: str
    model: str
    identity: Identity
    view: ViewSettings
    folders: tuple[IndexedFolder, ...] = ()
    writer: Writer = Writer()
    keep_versions: int = KEEP_VERSIONS
    store: str = ""
    choice: Choice = field(default_factory=Choice)
    tuning: Tuning | None = None
    captions: tuple[str, ...] = ()
    modalities: tuple[Modality, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of the index in `folder`; one of an older format is brought up to date in memory.

        Raises
        ------
        IndexFormatError
            If it is damaged, or of a format that this version does not know.
        """
        return cls._of(_read(folder), folder)

    @classmethod
    def read_to_write(cls, folder: Path) -> Manifest:
        """Read the manifest as `read` does, and store one of an older format in today's. Hold the write lock."""
        data = _read(folder)
        manifest = cls._of(data, folder)
        if data["format"] != FORMAT:
            with disk_errors(folder):
                manifest.write(folder)
        return manifest

    @classmethod
    def _of(cls, data: dict[str, Any], folder: Path) -> Manifest:
        while data["format"] != FORMAT:
            data = _UPGRADES[data["format"]](data)
        try:
            return recipe.build(cls, data, where=str(folder / _NAME))
        except RecipeError as error:
            raise IndexFormatError(str(error)) from error

    def write(self, folder: Path) -> None:
        """Replace the manifest of the index in `folder`."""
        write_json(folder / _NAME, dataclasses.asdict(self))


def has_manifest(folder: Path) -> bool:
    """Tell whether there is an index in `folder`."""
    return os.path.isfile(folder / _NAME)


def _read(folder: Path) -> dict[str, Any]:
    """Read what is stored, in whatever format this version knows."""
    data = read_json(folder / _NAME)
    found = data.get("format") if isinstance(data, dict) else None
    if not isinstance(found, int):
        raise IndexFormatError(f"{folder / _NAME} is damaged: it has no format number")
    if found != FORMAT and found not in _UPGRADES:
        raise IndexFormatError(
            f"the index in {folder} has format {found}, this mmrag reads formats {min(_UPGRADES)} to {FORMAT}; "
            "install the mmrag that wrote it, or make the index again"
        )
    return dict(data)


def _from_format_1(data: dict[str, Any]) -> dict[str, Any]:
    """Format 1 did not say what ran the encoder: it was always the same."""
    writer = {"engine": "onnxruntime", "precision": "fp32"}
    return {**data, "format": 2, "writer": writer, "keep_versions": 10}


def _from_format_2(data: dict[str, Any]) -> dict[str, Any]:
    """In format 2 every item had one vector, which is what an identity means that does not say."""
    return {**data, "format": 3}


def _from_format_3(data: dict[str, Any]) -> dict[str, Any]:
    """In format 3 table and views had one place, which is what an empty `store` means."""
    return {**data, "format": 4}


def _from_format_4(data: dict[str, Any]) -> dict[str, Any]:
    """In format 4 a view had a kind and nothing to set, and every view was exact."""
    return {**data, "format": 5, "view": {"kind": data.get("view")}}


_UPGRADES = {1: _from_format_1, 2: _from_format_2, 3: _from_format_3, 4: _from_format_4}
