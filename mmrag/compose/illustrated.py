"""Illustrated: a text, and the pictures that were found for it; as Markdown, and as what JSON holds."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

from mmrag.compose.answer import Placement
from mmrag.compose.prose import read_prose
from mmrag.compose.record import record_placement
from mmrag.errors import InputError, ItemError
from mmrag.sources.parts import read_part
from mmrag.sources.uri import is_remote, item_id, path_of, shown_name
from mmrag.types import Item

_MARKS = re.compile(r"([\\`*_\[\]<>&!#|~$(){}\"])")


@dataclass(frozen=True, slots=True)
class Illustrated:
    """A text, and the pictures that belong in it.

    Attributes
    ----------
    text : str
        As it was given.
    sentences : int
        How many sentences could have had a picture.
    placements : tuple of Placement
        The pictures, in the order of the text.
    """

    text: str
    sentences: int
    placements: tuple[Placement, ...] = ()

    def insertions(self) -> Iterator[tuple[int, Placement]]:
        """Give each picture with where it is set into the text: behind the paragraph, list or quote of its sentence."""
        prose = read_prose(self.text)
        for one in self.placements:
            yield prose.end_of(one.span), one

    def markdown(self, *, home: Path, folder: Path, copies: Path | None = None) -> str:
        """Write the text with its pictures; of the text itself, every character stays.

        Parameters
        ----------
        home : path
            What uris are relative to: `Index.home`.
        folder : path
            Where the text will lie: pictures are referred to by relative paths from there.
        copies : path or None
            A folder to copy the pictures into; it is made if it is not there. By default they are referred to where
            they are.

        Raises
        ------
        InputError
            If a picture is no file of its own, or cannot be copied.
        """
        locate = _copier(home, copies) if copies else _finder(home)
        newline = "\r\n" if "\r\n" in self.text else "\n"
        parts, done = [], 0
        for at, one in self.insertions():
            figure = _figure(one, _relative(locate(one.item), folder))
            parts += [self.text[done:at], *(newline + newline + line for line in figure)]
            parts += [] if _is_blank_next(self.text, at) else [newline]
            done = at
        return "".join([*parts, self.text[done:]])

    def record(self) -> dict[str, Any]:
        """Say the same as JSON holds it: of each picture what `mmrag.compose.record.record_placement` has.

        ``words`` is the sentence as it stands in the text, and ``at`` where the picture is set in, in characters.
        """
        return {
            "sentences": self.sentences,
            "placements": [
                record_placement(one) | {"words": self.text[slice(*one.span)], "at": at}
                for at, one in self.insertions()
            ],
        }


def _figure(placement: Placement, path: str) -> list[str]:
    """Write a picture and what is set below it, with nothing in them that Markdown would read as marks."""
    caption = _escaped(placement.caption)
    source = _escaped(shown_name(placement.item.uri, placement.item.part))
    return [f'![{caption}]({quote(path)} "{source}")', *([f"*{caption}*"] if caption else [])]


def _escaped(words: str) -> str:
    shown = "".join(sign if sign.isprintable() else " " for sign in words)
    return _MARKS.sub(r"\\\1", " ".join(shown.split()))


def _is_blank_next(text: str, at: int) -> bool:
    """Tell whether nothing follows, or a blank line."""
    return re.match(r"[^\S\n]*(?:\Z|\n[^\S\n]*(?:\n|\Z))", text[at:]) is not None


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _finder(home: Path) -> Callable[[Item], Path]:
    def find(item: Item) -> Path:
        path = path_of(item.uri, home)
        if item.part is not None or is_remote(path):
            raise InputError(
                f"{shown_name(item.uri, item.part)!r} is no file that a text could refer to; have the pictures copied "
                "beside it: --copy FOLDER, or write a page, which has them inside: --format html"
            )
        if not os.path.isfile(path):
            raise InputError(f"{item.uri!r} is not there any more; bring the index up to date: mmrag index")
        return Path(path)

    return find


def _copier(home: Path, copies: Path) -> Callable[[Item], Path]:
    def copy(item: Item) -> Path:
        try:
            data = read_part(path_of(item.uri, home), item.part)
            path = copies / f"{item_id(item.uri, item.part)}{_suffix(item, data)}"
            copies.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except ItemError as error:
            raise InputError(f"cannot copy {shown_name(item.uri, item.part)!r}: {error}") from error
        except OSError as error:
            raise InputError(f"cannot write into {str(copies)!r}: {error.strerror or error}") from error
        return path

    return copy


def _suffix(item: Item, data: bytes) -> str:
    """Say how a file of this content is called: as the file is, or by its format."""
    from mmrag.sources.limits import SUFFIXES

    own = PurePath(item.part or item.uri).suffix.lower()
    if own in SUFFIXES:
        return own
    from mmrag.sources.image import open_image

    with open_image(data) as image:
        return f".{(image.format or 'bin').lower()}"
