"""Files → what is in them: a picture as it is, a document as its chunks, a table, archive or dataset as its rows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from mmrag.errors import InputError, ItemError
from mmrag.ingest.profile import Profile
from mmrag.roles import Encoder
from mmrag.sources.file import read_file
from mmrag.sources.kinds import Kind, kind_of, suffix_of
from mmrag.sources.pairs.listing import list_rows
from mmrag.sources.pairs.row import NO_PICTURE, Picture, Row
from mmrag.sources.text.items import document_items
from mmrag.sources.uri import item_id
from mmrag.sources.walk import File
from mmrag.types import Item, Modality


@dataclass(frozen=True, slots=True)
class Member:
    """One of several items in a file, or, without an `item`, the file itself, which could not be read to its end.

    Attributes
    ----------
    file : File
        What it is in.
    item : Item or None
        Its name, words and facts.
    picture : Picture or None
        Where its pixels are, if it is a picture.
    problem : str
        Why it cannot be read.
    last : bool
        Nothing of the file comes behind it: only its row has the file's time, which says that all were read.
    """

    file: File
    item: Item | None = None
    picture: Picture | None = None
    problem: str = ""
    last: bool = False


def open_files(files: Iterable[File], encoder: Encoder, profile: Profile) -> Iterator[File | Member]:
    """Go through files, and through what is in each, one after the other: none is held whole, except a document."""
    for file in files:
        kind: Kind = "rows" if os.path.isdir(file.path) else kind_of(file.uri)
        if file.problem or kind == "picture":
            yield file
        else:
            yield from _members(file, kind, encoder, profile)


def _members(file: File, kind: Kind, encoder: Encoder, profile: Profile) -> Iterator[Member]:
    """Mark the last of what is in a file; what ends it too early comes behind all others."""
    held: Member | None = None
    try:
        for member in _chunks(file, encoder, profile) if kind == "document" else _rows(file, encoder):
            if held is not None:
                yield held
            held = member
    except (InputError, ItemError) as error:
        if held is not None:
            yield held
        yield Member(file, problem=str(error).removeprefix(f"{file.path} "), last=True)
        return
    if held is None:
        yield Member(file, problem=f"holds nothing that {encoder.card.name} can embed", last=True)
    else:
        yield replace(held, last=True)


def _chunks(file: File, encoder: Encoder, profile: Profile) -> Iterator[Member]:
    with profile.stage("read"):
        content = read_file(file.path, allow_remote=True)  # or there would be no File of it
        items = document_items(content.data, file.uri, suffix_of(file.uri), encoder)
    file = replace(file, size=content.size, mtime_ns=content.mtime_ns)
    return (Member(file, item) for item in items)


def _rows(file: File, encoder: Encoder) -> Iterator[Member]:
    for row in list_rows(file.path):
        if row.problem and row.problem != NO_PICTURE:
            yield Member(file, _item(file, row, "image"), problem=row.problem)
        elif not row.problem and "image" in encoder.card.modalities:
            yield Member(file, _item(file, row, "image"), row.picture)
        elif row.texts and "text" in encoder.card.modalities:
            yield from _texts(file, row, encoder)
        elif row.problem:
            lacking = "no picture" if row.texts else "neither a picture nor a text"
            yield Member(file, _item(file, row, "image"), problem=f"has {lacking}")


def _item(file: File, row: Row, modality: Modality) -> Item:
    text = "\n".join(row.texts) or None
    origins = {"text": file.uri} if text and modality == "image" else {}
    return Item(
        uri=file.uri,
        id=item_id(file.uri, row.id),
        part=row.id,
        modality=modality,
        text=text,
        metadata=row.facts,
        origins=origins,
    )


def _texts(file: File, row: Row, encoder: Encoder) -> Iterator[Member]:
    """Make an item of a row's text, or several, ``17.0``, ``17.1`` …, where it is longer than the model reads."""
    whole = _item(file, row, "text")
    if encoder.count_tokens([whole.text or ""])[0] <= encoder.card.max_tokens:
        yield Member(file, whole)
        return
    try:
        chunks = document_items((whole.text or "").encode(), file.uri, ".txt", encoder)
    except ItemError as error:  # of this row alone
        yield Member(file, whole, problem=str(error))
        return
    for chunk in chunks:
        part = f"{row.id}.{chunk.part}"
        yield Member(file, replace(chunk, id=item_id(file.uri, part), part=part, metadata=row.facts))
