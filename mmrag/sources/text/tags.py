"""HTML → tags and the text between them, in linear time whatever it is.

The standard library's parser takes minutes over a hundred kilobytes of ``<a <a <a``, and raises AssertionError at some
declarations, in Python 3.11.7.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import NamedTuple

_MARKUP = re.compile(r"<(?=[A-Za-z/!?])")
_TAG = re.compile(r"</?[A-Za-z][^\s/>]*")
_REST = re.compile(r"""(?:[^>"']++|"[^"]*+"|'[^']*+')*+>""")
_ATTRIBUTE = re.compile(r"""([^\s=/"'>]++)(?:\s*+=\s*+("[^"]*+"|'[^']*+'|[^\s>]++))?""")
_RAW = {name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE) for name in ("script", "style", "textarea", "title")}


class Tag(NamedTuple):
    """A start or an end of an element; `name` is in lower case, `attributes` is what stands behind it."""

    name: str
    is_end: bool = False
    is_empty: bool = False
    attributes: str = ""


class Text(NamedTuple):
    """Characters, entities decoded; `line` is that of the first."""

    text: str
    line: int


def attributes(tag: Tag) -> dict[str, str]:
    """Give the attributes of a tag; their names are in lower case."""
    found = _ATTRIBUTE.findall(tag.attributes)
    return {name.lower(): html.unescape(value.strip("\"'")) for name, value in found}


def scan(source: str) -> Iterator[Tag | Text]:
    """Divide HTML into its tags and the text between them; comments and declarations are left out."""
    return _Scanner(source).scan()


class _Scanner:
    """Where it stands in the source, and what it knows not to be ahead."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._lines_to = 0
        self._line = 1
        self._last_end = source.rfind(">")
        self._last_comment_end = source.rfind("-->")
        self._quotes_close = True

    def scan(self) -> Iterator[Tag | Text]:
        """Give one after the other."""
        source, position, text_from = self._source, 0, 0
        while found := _MARKUP.search(source, position, self._last_end + 1):
            start = found.start()
            end, tag = self._markup(start)
            position = end or start + 1
            if not end:
                continue  # the sign itself
            yield from self._text(text_from, start)
            text_from = position
            if tag:
                yield tag
                if tag.name in _RAW and not tag.is_end and not tag.is_empty:
                    position = text_from = self._raw_end(tag.name, end)
                    yield from self._text(end, position)
        yield from self._text(text_from, len(source))

    def _markup(self, start: int) -> tuple[int, Tag | None]:
        """Tell where what begins here ends, 0 if it is no markup, and which tag it is."""
        source = self._source
        if source.startswith("<!--", start):
            return (source.index("-->", start + 4) + 3, None) if start + 4 <= self._last_comment_end else (0, None)
        if source.startswith(("<!", "<?"), start):
            return source.index(">", start) + 1, None
        name = _TAG.match(source, start)
        if not name:
            return 0, None
        end = self._tag_end(name.end())
        inside = source[name.end() : end - 1]
        tag = Tag(name.group().lstrip("</").lower(), name.group()[1] == "/", inside.endswith("/"), inside)
        return end, tag

    def _tag_end(self, position: int) -> int:
        """Find the end of a tag, where what is in quotes does not count; if one does not close, none does from then."""
        found = _REST.match(self._source, position) if self._quotes_close else None
        if found:
            return found.end()
        self._quotes_close = False
        return self._source.index(">", position) + 1

    def _raw_end(self, name: str, position: int) -> int:
        found = _RAW[name].search(self._source, position)
        return found.start() if found else len(self._source)

    def _text(self, start: int, end: int) -> Iterator[Text]:
        if start < end:
            yield Text(html.unescape(self._source[start:end]), self._line_at(start))

    def _line_at(self, position: int) -> int:
        self._line += self._source.count("\n", self._lines_to, position)
        self._lines_to = position
        return self._line
