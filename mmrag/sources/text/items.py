"""A text file → the items that an index holds of it."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from mmrag.roles import Encoder
from mmrag.sources.text.block import Block, Document
from mmrag.sources.text.chunk import Chunk, chunk
from mmrag.sources.text.document import read_document
from mmrag.sources.uri import item_id
from mmrag.types import Item

logger = logging.getLogger("mmrag")


def document_items(data: bytes, uri: str, suffix: str, encoder: Encoder) -> list[Item]:
    """Make a text item of each chunk of a file, no longer than the encoder reads.

    Parameters
    ----------
    data : bytes
        The file's content.
    uri : str
        Its name, which all items have; their `part` is the number of the chunk, from "0".
    suffix : str
        One of `mmrag.sources.text.TEXT_SUFFIXES`.
    encoder : Encoder
        It reads texts.

    Returns
    -------
    list of Item
        With the metadata "lines" ([first, last], from 1), "headings" and "title", if there are any, and the facts that
        the file states.

    Raises
    ------
    ItemError
        If there is no text in it, or too much.
    InputError
        If the suffix is none of a text file.
    ModelError
        If the encoder reads no texts.
    """
    encoder.check_modality("text")
    document = read_document(data, suffix)
    if document.guessed:
        logger.warning("%s is not UTF-8 and does not say what it is; it was read as %s", uri, document.guessed)
    chunks = chunk(_titled(document), limit=encoder.card.max_tokens, count_tokens=encoder.count_tokens)
    return [_item(one, number, uri, document) for number, one in enumerate(chunks)]


def _titled(document: Document) -> list[Block]:
    """Put all under the title of a document that has no other headings."""
    if not document.title or any(block.headings for block in document.blocks):
        return document.blocks
    return [replace(block, headings=(document.title,)) for block in document.blocks]


def _item(one: Chunk, number: int, uri: str, document: Document) -> Item:
    metadata: dict[str, Any] = {**document.facts, "lines": list(one.lines)}
    if one.headings:
        metadata["headings"] = list(one.headings)
    if document.title:
        metadata["title"] = document.title
    part = str(number)
    return Item(
        uri=uri,
        id=item_id(uri, part),
        modality="text",
        text=one.text,
        part=part,
        metadata=metadata,
        origins={"text": uri},
    )
