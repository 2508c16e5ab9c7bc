"""One text file → a document, by its suffix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mmrag.errors import InputError, ItemError, TooLargeError
from mmrag.sources.text.block import Document, shortened
from mmrag.sources.text.decode import decode
from mmrag.sources.text.html import read_html
from mmrag.sources.text.markdown import read_markdown
from mmrag.sources.text.plain import paragraphs
from mmrag.sources.text.rst import read_rst

MAX_DOCUMENT_BYTES = 1 << 25
"""A book has a million; what is read of a document takes up to fifty times as much memory."""


def _read_plain(text: str) -> Document:
    return Document(list(paragraphs(text.split("\n"))))


_READERS: dict[str, Callable[[str], Document]] = {
    **dict.fromkeys((".txt",), _read_plain),
    **dict.fromkeys((".md", ".markdown"), read_markdown),
    **dict.fromkeys((".rst",), read_rst),
    **dict.fromkeys((".html", ".htm", ".xhtml"), read_html),
}

TEXT_SUFFIXES = frozenset(_READERS)
"""What counts as a text file by its name, in lower case."""


def read_document(data: bytes, suffix: str) -> Document:
    """Read a text file.

    Parameters
    ----------
    data : bytes
        Its content.
    suffix : str
        One of `TEXT_SUFFIXES`, in any case.

    Raises
    ------
    InputError
        If the suffix is none of them.
    ItemError
        If there is no text in it, or more than `MAX_DOCUMENT_BYTES`.
    """
    reader = _READERS.get(suffix.lower())
    if reader is None:
        raise InputError(f"a text file ends in one of {', '.join(sorted(TEXT_SUFFIXES))}, not in {suffix!r}")
    if len(data) > MAX_DOCUMENT_BYTES:
        raise TooLargeError(f"larger than the limit of {MAX_DOCUMENT_BYTES:,} bytes for a text; divide it")
    text, guessed = decode(data, declares=reader is read_html)
    document = reader(text)
    if not document.blocks:
        raise ItemError("there is no text in it")
    return replace(document, title=shortened(document.title), guessed=guessed)
