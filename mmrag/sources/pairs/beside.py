"""Where the pictures are that a file names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from mmrag.errors import InputError
from mmrag.sources.pairs.row import is_address

_LOOKED_FOR = 8
_MOST_SHOWN = 200


def picture_folder(path: Path, names: Iterable[str], images: Path | None) -> Path:
    """Find the folder that names of pictures are relative to.

    Parameters
    ----------
    path : path
        The file that names them.
    names : iterable of str
        The first of them are looked for.
    images : path or None
        Where the caller says that they are; by default the file's own folder, a folder in it, the folder above, or a
        folder in that or in its ``images``: the first in which one of them is.

    Raises
    ------
    InputError
        If none of them is there.
    """
    wanted = [name for name in islice(names, _LOOKED_FOR) if not is_address(name)]
    places = [images] if images else list(_places(path.resolve().parent))
    for folder in places:
        if not wanted or any(os.path.isfile(folder / name) for name in wanted):
            return folder
    where = str(images) if images else f"{path.parent}, the folder above, or a folder in these"
    raise InputError(
        f"{path} names pictures such as {_shown(wanted[0])}, and none of the first {len(wanted)} is in {where}; "
        "put it beside the pictures' folder, or say where that is (images)"
    )


def _shown(name: str) -> str:
    return repr(name) if len(name) <= _MOST_SHOWN else f"{name[:_MOST_SHOWN]!r} …"


def _places(folder: Path) -> Iterator[Path]:
    yield folder
    yield from _folders(folder)
    yield folder.parent
    yield from _folders(folder.parent)
    yield from _folders(folder.parent / "images")


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(one for one in folder.iterdir() if one.is_dir())
    except OSError:  # there is none, or it may not be listed: the pictures are not found in it
        return []
