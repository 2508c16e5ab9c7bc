"""One file or item → a row that only lacks its vector, or a row that says why it failed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from mmrag.errors import ItemError, TooLargeError
from mmrag.roles import Encoder, Pixels
from mmrag.sources.image import as_rgb, read_file, read_image
from mmrag.sources.uri import item_id
from mmrag.sources.walk import File, describe
from mmrag.stores.rows import Row
from mmrag.types import Item


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

    def load_file(self, file: File) -> Loaded:
        """Read a picture found by a walk."""
        row: dict[str, Any] = {"id": item_id(file.uri), "uri": file.uri, "modality": "image"}
        return self._load_from_disk(file, row)

    def load_item(self, item: Item) -> Loaded:
        """Read an item that a caller brought; without an image of its own, from the file at its uri."""
        row: dict[str, Any] = {
            "id": item.id,
            "uri": item.uri,
            "modality": item.modality,
            "text": item.text,
            "metadata": json.dumps(dict(item.metadata), ensure_ascii=False) if item.metadata else None,
        }
        if item.modality == "image" and item.image is None:
            file = describe(str(self.home / item.uri), self.home)
            if file.problem and item.text:
                file = replace(file, problem=f"{file.problem}; an Item that is words needs modality='text'")
            return self._load_from_disk(file, row)
        try:
            if item.modality == "text":
                return self._load_text(item, row)
            if isinstance(item.image, bytes):
                return self._load_bytes(item.image, row)
            if isinstance(item.image, (str, Path)):
                return self._load_bytes(read_file(str(item.image)), row)
            return self._load_picture(as_rgb(item.image), row)  # type: ignore[arg-type]
        except ItemError as error:
            return Loaded(Row(**row, failure=str(error)))

    def _load_from_disk(self, file: File, row: dict[str, Any]) -> Loaded:
        row |= {"size": file.size, "mtime_ns": file.mtime_ns}
        try:
            if file.problem:
                raise ItemError(file.problem)
            return self._load_bytes(read_file(file.path), row)
        except ItemError as error:
            return Loaded(Row(**row, failure=str(error)))

    def _load_bytes(self, data: bytes, row: dict[str, Any]) -> Loaded:
        row["content_hash"] = hash_bytes(data)
        same_as = self.content.get(row["content_hash"])
        if same_as is not None:
            return Loaded(Row(**row), same_as=same_as)
        try:
            image = read_image(data, at_least=self.encoder.decode_at_least, max_pixels=self.max_pixels)
        except TooLargeError:
            row["content_hash"] = None  # another limit may allow it: try again next time
            raise
        return Loaded(Row(**row), pixels=self.encoder.preprocess(image))

    def _load_picture(self, image: Image.Image, row: dict[str, Any]) -> Loaded:
        row["content_hash"] = hash_pixels(image)
        same_as = self.content.get(row["content_hash"])
        if same_as is not None:
            return Loaded(Row(**row), same_as=same_as)
        return Loaded(Row(**row), pixels=self.encoder.preprocess(image))

    def _load_text(self, item: Item, row: dict[str, Any]) -> Loaded:
        digest = hashlib.sha256((item.text or "").encode()).hexdigest()
        row["content_hash"] = f"text:{digest}"
        return Loaded(Row(**row), same_as=self.content.get(row["content_hash"]))


def hash_bytes(data: bytes) -> str:
    """Hash a file's content."""
    return hashlib.sha256(data).hexdigest()


def hash_pixels(image: Image.Image) -> str:
    """Hash a decoded picture."""
    digest = hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes())
    return f"pixels:{digest.hexdigest()}"
