"""One file, member of a file or item → a row that only lacks its vector, or a row that says why it failed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from mmrag.errors import ItemError, TooLargeError
from mmrag.ingest.members import Member
from mmrag.ingest.profile import Profile
from mmrag.roles import Encoder, Pixels
from mmrag.sources.file import hash_bytes
from mmrag.sources.image import as_rgb
from mmrag.sources.kinds import kind_of
from mmrag.sources.rooms import Rooms
from mmrag.sources.uri import item_id
from mmrag.sources.walk import File, describe
from mmrag.stores.rows import Row
from mmrag.types import Item

Source = File | Member | Item


@dataclass(frozen=True, slots=True)
class Loaded:
    """A row, and what its vector comes from: pixels, the row's own text, or an older row.

    Attributes
    ----------
    pixels : float32 ``(3, height, width)`` or None
        Preprocessed for the encoder.
    same_as : int or None
        Ref of a row with equal content, whose vector serves again.
    """

    row: Row
    pixels: Pixels | None = None
    same_as: int | None = None

    @property
    def needs_text(self) -> bool:
        """Whether the vector is that of the row's text."""
        return self.row.modality == "text" and self.row.failure is None and self.same_as is None


@dataclass(frozen=True)
class Loader:
    """Reads files and items for one encoder; its methods may run in several threads.

    Attributes
    ----------
    content : mapping of str to int
        Content hash → ref of a row that has a vector for it.
    """

    encoder: Encoder
    home: Path
    max_pixels: int
    content: Mapping[str, int]
    profile: Profile = field(default_factory=Profile)
    rooms: Rooms = field(default_factory=Rooms)

    def load(self, source: Source) -> Loaded:
        """Read a file found by a walk, what is in one, or an item that a caller brought.

        A picture item without an image of its own is read from the file at its uri.
        """
        row = _describe(source)
        try:
            with ExitStack() as held:
                return self._load(source, row, held)
        except ItemError as error:
            return Loaded(Row(**row, failure=str(error)))
        except MemoryError:
            return self.fail(source, "too large to handle in memory")

    def fail(self, source: Source, reason: str) -> Loaded:
        """Make the row of a source that could not be read this time; the next run tries again."""
        return Loaded(Row(**_describe(source), failure=reason))

    def _load(self, source: Source, row: dict[str, Any], held: ExitStack) -> Loaded:
        if isinstance(source, File):
            return self._load_from_disk(source, row, held)
        if isinstance(source, Member):
            return self._load_member(source, row, held)
        if source.modality == "text":
            return self._load_text(source, row)
        if source.image is None and source.part is not None:
            return self._load_bytes(self._read_part(source, row, held), row, held)
        if source.image is None:
            return self._load_from_disk(self._file_of(source), row, held)
        if isinstance(source.image, bytes):
            return self._load_bytes(source.image, row, held)
        if isinstance(source.image, (str, Path)):
            content = self.rooms.read(str(source.image), held)
            return self._load_bytes(content.data, row, held)
        return self._load_picture(as_rgb(source.image), row)

    def _load_member(self, member: Member, row: dict[str, Any], held: ExitStack) -> Loaded:
        if member.problem:
            row["content_hash"] = hash_reason(member.problem)
            raise ItemError(member.problem)
        if member.item is not None and member.item.modality == "text":
            return self._load_text(member.item, row)
        if member.picture is None:
            raise ItemError("no picture")
        with self.profile.stage("read"):
            data = self.rooms.take(member.picture, held)
        return self._load_bytes(data, row, held)

    def _read_part(self, item: Item, row: dict[str, Any], held: ExitStack) -> bytes:
        """Read the picture of an item that is in a file; the file's time is not its own, as others are in there too."""
        file = self._file_of(item)
        row["size"] = file.size
        if file.problem and not os.path.isdir(file.path):
            raise ItemError(file.problem)
        with self.profile.stage("read"):
            return self.rooms.read_part(file.path, item.part, held)

    def _file_of(self, item: Item) -> File:
        file = describe(str(self.home / item.uri), self.home)
        if file.problem and item.text:
            return replace(file, problem=f"{file.problem}; an Item that is words needs modality='text'")
        return file

    def _load_from_disk(self, file: File, row: dict[str, Any], held: ExitStack) -> Loaded:
        row |= {"size": file.size, "mtime_ns": file.mtime_ns}
        if file.problem:
            raise ItemError(file.problem)
        with self.profile.stage("read"):
            content = self.rooms.read(file.path, held)
        row |= {"size": content.size, "mtime_ns": content.mtime_ns}
        return self._load_bytes(content.data, row, held)

    def _load_bytes(self, data: bytes, row: dict[str, Any], held: ExitStack) -> Loaded:
        with self.profile.stage("read", items=0):
            row["content_hash"] = hash_bytes(data)
        same_as = self.content.get(row["content_hash"])
        if same_as is not None:
            return Loaded(Row(**row), same_as=same_as)
        try:
            with self.profile.stage("decode"):
                image = self.rooms.decode(data, held, at_least=self.encoder.decode_at_least, max_pixels=self.max_pixels)
        except TooLargeError:
            row["content_hash"] = None  # another limit may allow it: try again next time
            raise
        return Loaded(Row(**row), pixels=self._preprocess(image))

    def _load_picture(self, image: Image.Image, row: dict[str, Any]) -> Loaded:
        row["content_hash"] = hash_pixels(image)
        same_as = self.content.get(row["content_hash"])
        if same_as is not None:
            return Loaded(Row(**row), same_as=same_as)
        return Loaded(Row(**row), pixels=self._preprocess(image))

    def _preprocess(self, image: Image.Image) -> Pixels:
        with self.profile.stage("preprocess"):
            return self.encoder.preprocess(image)

    def _load_text(self, item: Item, row: dict[str, Any]) -> Loaded:
        digest = hashlib.sha256((item.text or "").encode()).hexdigest()
        row["content_hash"] = f"text:{digest}"
        return Loaded(Row(**row), same_as=self.content.get(row["content_hash"]))


def hash_reason(reason: str) -> str:
    """Hash why a file cannot be read on, in the place of its content: it is tried again when it changes."""
    return f"failed:{hash_bytes(reason.encode())}"


def _describe(source: Source) -> dict[str, Any]:
    if isinstance(source, Member):
        about = _describe(source.file) if source.item is None else _describe(source.item)
        mtime_ns = source.file.mtime_ns if source.last else None
        return {**about, "size": source.file.size, "mtime_ns": mtime_ns}
    if isinstance(source, File):
        return {
            "id": item_id(source.uri),
            "uri": source.uri,
            "modality": "text" if kind_of(source.uri) == "document" else "image",
            "size": source.size,
            "mtime_ns": source.mtime_ns,
        }
    return {
        "id": source.id,
        "uri": source.uri,
        "part": source.part,
        "modality": source.modality,
        "text": source.text,
        **source.words,
        "origins": _json(source.origins),
        "metadata": _json(source.metadata),
    }


def _json(mapping: Mapping[str, Any]) -> str | None:
    return json.dumps(dict(mapping), ensure_ascii=False) if mapping else None


def hash_pixels(image: Image.Image) -> str:
    """Hash a decoded picture."""
    digest = hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes())
    return f"pixels:{digest.hexdigest()}"
