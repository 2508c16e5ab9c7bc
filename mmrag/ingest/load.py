"""One file, member of a file or item → a row that only lacks its vector, or a row that says why it failed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from mmrag.errors import ItemError, TooLargeError
from mmrag.ingest.members import Member
from mmrag.ingest.notes import Notes
from mmrag.ingest.profile import Profile
from mmrag.ingest.words import Words
from mmrag.roles import Encoder, Pixels
from mmrag.sources.facts import embedded_in, read_embedded
from mmrag.sources.file import hash_bytes
from mmrag.sources.fingerprint import fingerprint_picture, fingerprint_text
from mmrag.sources.image import as_rgb
from mmrag.sources.kinds import kind_of
from mmrag.sources.rooms import Rooms
from mmrag.sources.uri import item_id
from mmrag.sources.walk import File, describe
from mmrag.stores.rows import Row
from mmrag.types import Item

Source = File | Member | Item

_NOTHING = Words()


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
    fingerprints : mapping of str to int
        Content hash → fingerprint, where such a row has one; rows of an older index get theirs when they are read.
    notes : Notes or None
        What lies beside the files; None where vectors are wanted, and no words.
    """

    encoder: Encoder
    home: Path
    max_pixels: int
    content: Mapping[str, int]
    fingerprints: Mapping[str, int] = field(default_factory=dict)
    notes: Notes | None = None
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
        return self._load_picture(source.image, row)

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
            content = self.rooms.read(file.path, held, allow_remote=True)  # or there would be no File of it
        row |= {"size": content.size, "mtime_ns": content.mtime_ns}
        beside = self._look_beside(file, self.notes, row) if self.notes else _NOTHING
        return self._load_bytes(content.data, row, held, beside)

    def _look_beside(self, file: File, notes: Notes, row: dict[str, Any]) -> Words:
        row |= {"given": Words.of_row(row).to_json(), "beside": notes.state(file.path, file.uri)}
        return notes.words(file.path, file.uri)

    def _load_bytes(self, data: bytes, row: dict[str, Any], held: ExitStack, beside: Words = _NOTHING) -> Loaded:
        with self.profile.stage("read", items=0):
            row["content_hash"] = hash_bytes(data)
            if self.notes:
                _put_under(row, beside.over(Words.of_embedded(read_embedded(data))))
        if row["content_hash"] in self.fingerprints:
            return self._load_again(row)
        try:
            with self.profile.stage("decode"):
                image = self.rooms.decode(data, held, at_least=self.encoder.decode_at_least, max_pixels=self.max_pixels)
        except TooLargeError:
            row["content_hash"] = None  # another limit may allow it: try again next time
            raise
        return self._load_decoded(image, row)

    def _load_picture(self, given: Image.Image, row: dict[str, Any]) -> Loaded:
        image = as_rgb(given)
        row["content_hash"] = hash_pixels(image)
        if self.notes:
            _put_under(row, Words.of_embedded(embedded_in(given)))
        return self._load_decoded(image, row)

    def _load_decoded(self, image: Image.Image, row: dict[str, Any]) -> Loaded:
        row["fingerprint"] = fingerprint_picture(image)
        if row["content_hash"] in self.content:
            return self._load_again(row)
        return Loaded(Row(**row), pixels=self._preprocess(image))

    def _load_again(self, row: dict[str, Any]) -> Loaded:
        """Make the row of what has the content of another: its vector, and its fingerprint if it has one."""
        known = self.fingerprints.get(row["content_hash"])
        row = row if known is None else {**row, "fingerprint": known}
        return Loaded(Row(**row), same_as=self.content[row["content_hash"]])

    def _preprocess(self, image: Image.Image) -> Pixels:
        with self.profile.stage("preprocess"):
            return self.encoder.preprocess(image)

    def _load_text(self, item: Item, row: dict[str, Any]) -> Loaded:
        digest = hashlib.sha256((item.text or "").encode()).hexdigest()
        row |= {"content_hash": f"text:{digest}", "fingerprint": fingerprint_text(item.text or "")}
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
            **_NOTHING.columns(),
        }
    return {
        "id": source.id,
        "uri": source.uri,
        "part": source.part,
        "modality": source.modality,
        **Words.of_item(source).columns(),
    }


def _put_under(row: dict[str, Any], words: Words) -> None:
    """Let a row tell what others do, as far as it does not say it itself."""
    row |= Words.of_row(row).over(words).columns()


def hash_pixels(image: Image.Image) -> str:
    """Hash a decoded picture."""
    digest = hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes())
    return f"pixels:{digest.hexdigest()}"
