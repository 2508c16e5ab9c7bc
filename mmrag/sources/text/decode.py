"""A text file's bytes → its characters."""

from __future__ import annotations

import codecs
import re

from mmrag.errors import ItemError

_MARKS = (  # the longer first: UTF-32's begins as UTF-16's
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_DECLARED = re.compile(rb"""charset\s{0,9}=\s{0,9}["']?\s{0,9}([A-Za-z0-9_:.-]{2,40})""")
_DECLARED_WITHIN = 4096
_CHARSETS = ("iso-", "windows-", "cp", "gb", "big5", "euc", "shift", "sjis", "koi8", "mac", "tis", "us-ascii")
_ALSO_CALLED = {"iso-8859-1": "cp1252", "us-ascii": "cp1252", "gb2312": "gb18030", "gbk": "gb18030"}  # as browsers do
_GUESS = "cp1252"


def decode(data: bytes, *, declares: bool = False) -> tuple[str, str]:
    r"""Decode a text by its byte order mark, as UTF-8, as it declares itself, or else as Windows' Western European.

    Parameters
    ----------
    data : bytes
        The file's content.
    declares : bool
        Whether it may name its encoding, as HTML does in ``<meta charset>``.

    Returns
    -------
    str
        With ``"\n"`` as the only end of a line.
    str
        The encoding, if it was only guessed; else empty.

    Raises
    ------
    ItemError
        If it is no text.
    """
    text, guessed = _decode(data, declares)
    if "\0" in text:
        raise ItemError("not a text: it has NUL bytes; a text in UTF-16 needs a byte order mark, or save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n"), guessed


def _decode(data: bytes, declares: bool) -> tuple[str, str]:
    for mark, name in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(name, errors="replace"), ""
    declared = _declared(data) if declares else None
    if declared and declared.startswith("iso2022"):  # its bytes are valid UTF-8, and mean something else
        return data.decode(declared, errors="replace"), ""
    try:
        return data.decode(), ""
    except UnicodeDecodeError:
        if declared:
            return data.decode(declared, errors="replace"), ""
        return data.decode(_GUESS, errors="replace"), _GUESS


def _declared(data: bytes) -> str | None:
    found = _DECLARED.search(data[:_DECLARED_WITHIN])
    name = found.group(1).decode().lower() if found else ""
    name = _ALSO_CALLED.get(name, name)
    if not name.startswith(_CHARSETS):
        return None
    try:
        return codecs.lookup(name).name
    except LookupError:
        return None
