"""What is given to be added: paths, and things that a caller brings, all at once or one after the other."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from mmrag.errors import InputError
from mmrag.sources.kinds import kind_of
from mmrag.sources.uri import is_remote
from mmrag.types import Modality


@dataclass(frozen=True)
class Given:
    """What is given to be added.

    Attributes
    ----------
    paths : list of str or path
        Of files and folders.
    items : iterable
        Items, bytes and pictures.
    total : int or None
        How many these are; None if they come as a stream, of which nobody knows the end.
    """

    paths: list[str | Path]
    items: Iterable[Any]
    total: int | None


def given_sources(sources: Any) -> Given:
    """Part paths from what else is given. An iterator of items is a stream, which is taken as it is needed."""
    if not is_many(sources):
        sources = [sources]
    if not isinstance(sources, Sequence):
        iterator = iter(sources)
        first = list(_first(iterator))
        if first and not isinstance(first[0], (str, Path)):
            return Given([], _without_paths(chain(first, iterator)), None)
        sources = [*first, *iterator]
    items = [one for one in sources if not isinstance(one, (str, Path))]
    return Given([one for one in sources if isinstance(one, (str, Path))], items, len(items))


def modalities_of(paths: Iterable[str | Path]) -> set[Modality]:
    """Tell what a model must embed to take files that are named; of what is in folders and tables, it takes some."""
    files = [str(path) for path in paths if not os.path.isdir(path) and not is_remote(str(path))]
    kinds = {kind_of(path) for path in files}
    return {"text" if kind == "document" else "image" for kind in kinds - {"rows"}}


def is_many(given: Any) -> bool:
    """Tell whether several things are given: text and bytes are one."""
    return isinstance(given, Iterable) and not isinstance(given, (str, bytes))


def as_list(given: Any) -> list[Any]:
    """Give a list of what is given, be it one thing or several."""
    return list(given) if is_many(given) else [given]


def _first(iterator: Iterator[Any]) -> Iterator[Any]:
    for one in iterator:
        yield one
        return


def _without_paths(stream: Iterable[Any]) -> Iterator[Any]:
    for one in stream:
        if isinstance(one, (str, Path)):
            raise InputError(
                f"a stream gives items or paths, and this one gives both, such as {str(one)!r}; add the paths in a "
                "call of their own. What was committed before it is kept"
            )
        yield one
