"""The manifest: what an index is, who wrote its vectors and from which folders."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from mmrag import recipe
from mmrag.errors import IndexFormatError, RecipeError
from mmrag.roles import Identity
from mmrag.stores.files import read_json, write_json

FORMAT = 1

_NAME = "manifest.json"


@dataclass(frozen=True)
class IndexedFolder:
    """A folder or file that was indexed, and the globs that were left out."""

    uri: str
    exclude: tuple[str, ...] = ()


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
    view : str
        Kind of its view.
    folders : tuple of IndexedFolder
        What `mmrag index` without arguments looks at again.
    """

    format: int
    created: str
    version: str
    model: str
    identity: Identity
    view: str
    folders: tuple[IndexedFolder, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of the index in `folder`.

        Raises
        ------
        IndexFormatError
            If it is damaged, or was written by a newer format.
        """
        data = read_json(folder / _NAME)
        found = data.get("format") if isinstance(data, dict) else None
        if not isinstance(found, int):
            raise IndexFormatError(f"{folder / _NAME} is damaged: it has no format number")
        if found != FORMAT:
            raise IndexFormatError(
                f"the index in {folder} has format {found}, this mmrag reads format {FORMAT}; "
                "install the mmrag that wrote it, or make the index again"
            )
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
