"""A pair, and what is known of one before its picture is read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from mmrag.errors import InputError, ItemError
from mmrag.sources.file import open_file, read_file
from mmrag.sources.uri import is_remote

TEXT_KEYS = ("texts", "text", "captions", "caption", "en")
IMAGE_KEYS = ("image", "image_path", "file_name", "filename", "filepath", "path", "url")

NO_PICTURE = "no picture"
NO_JSON = "no valid JSON"
IS_AN_ADDRESS = "the picture is an address; download it first, and give its path"


@dataclass(frozen=True, slots=True)
class Pair:
    """A picture and the texts that describe it.

    Attributes
    ----------
    id : str
        Its name in the file it came from.
    image : bytes
        The undecoded picture.
    texts : tuple of str
        At least one.
    """

    id: str
    image: bytes
    texts: tuple[str, ...]


class Picture(Protocol):
    """Where the bytes of a picture are."""

    def read(self) -> bytes:
        """Read them.

        Raises
        ------
        ItemError
            If they cannot be read; the message is the reason.
        """


class InFile(NamedTuple):
    """A picture that is a file."""

    path: str

    def read(self) -> bytes:
        """Read the file whole."""
        return read_file(self.path).data


class InPart(NamedTuple):
    """A picture that is a part of a file, as in a tar; the file is open only while it is read."""

    path: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Read that part."""
        try:
            if is_remote(self.path):
                with open_file(self.path) as file:
                    file.seek(self.offset)
                    data = file.read(self.size)
            else:
                with open(self.path, "rb", buffering=0) as file:
                    data = os.pread(file.fileno(), self.size, self.offset)
        except OSError as error:
            raise ItemError(f"cannot be read: {error.strerror or error}") from error
        if len(data) < self.size:
            raise ItemError("cannot be read: the file it is in has become shorter")
        return data


class InMemory(NamedTuple):
    """A picture whose bytes are here."""

    data: bytes

    def read(self) -> bytes:
        """Give them."""
        return self.data


class Row(NamedTuple):
    """A sample as its source lists it; with a `problem`, it is none.

    Attributes
    ----------
    id : str
        Its name in the source.
    picture : Picture
        Where its picture is.
    texts : tuple of str
        What describes it.
    problem : str
        Why it cannot be a pair.
    facts : mapping of str to any
        What else its source says of it, as JSON can hold it; only where rows are listed for indexing.
    """

    id: str
    picture: Picture
    texts: tuple[str, ...]
    problem: str = ""
    facts: Mapping[str, Any] = MappingProxyType({})


def make_row(row_id: str, picture: Picture | None, texts: tuple[str, ...], *, text_key: str | None) -> Row:
    """Make a row, with the problem that it has no picture, or no text."""
    if picture is None:
        return Row(row_id, InMemory(b""), texts, NO_PICTURE)
    return Row(row_id, picture, texts, "" if texts else f"no text {text_key!r}" if text_key else "no text")


def texts_of(words: Any, text_key: str | None) -> tuple[str, ...]:
    """Take the texts out of an object: under `text_key`, or under the first of `TEXT_KEYS` that it has.

    A key with commas names several, ``"en,zh"``: the texts of all.
    """
    if not isinstance(words, Mapping):
        return ()
    if text_key is None:
        keys = [key for key in TEXT_KEYS if key in words][:1]
    else:
        keys = [text_key] if text_key in words else text_key.split(",")
    return tuple(text for key in keys for text in clean_texts(words.get(key.strip())))


def clean_texts(found: Any) -> tuple[str, ...]:
    """Make texts of a string or a list of strings; what is empty, or no string, is left out."""
    texts = [found] if isinstance(found, str) else found if isinstance(found, list) else []
    whole = (text.encode("utf-8", "replace").decode() for text in texts if isinstance(text, str))  # no half characters
    return tuple(text.strip() for text in whole if text.strip())


def parse_json(data: bytes, where: str) -> Any:
    """Parse JSON of somebody else's.

    Raises
    ------
    InputError
        If it is not valid.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not valid JSON: {error}") from error


def choose_column(columns: list[str], keys: tuple[str, ...], what: str, *, where: str) -> str:
    """Choose the first of `keys` that a table has.

    Raises
    ------
    InputError
        If it has none of them.
    """
    found = next((key for key in keys if key in columns), None)
    if found is None:
        raise InputError(f"{where} has no column of {what} ({', '.join(keys)}); it has: {', '.join(columns)}")
    return found


def is_address(name: str) -> bool:
    """Tell whether a picture is named by an address on the web; nothing is ever fetched."""
    return name.startswith(("http://", "https://"))


def file_row(name: str, texts: tuple[str, ...], folder: Path, *, text_key: str | None, row_id: str = "") -> Row:
    """Make the row of a picture that a table names by its path, absolute or relative to `folder`."""
    if is_address(name):
        return Row(row_id or name, InMemory(b""), texts, IS_AN_ADDRESS)
    return make_row(row_id or name, InFile(str(folder / name)), texts, text_key=text_key)
