"""HTML → the blocks of its main text. Nothing is fetched, and no script is run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from mmrag.sources.text.block import Block, Document, Kind, Outline
from mmrag.sources.text.tags import Tag, Text, attributes, scan

_MAIN = frozenset(("main", "article"))
_NEVER = frozenset(
    ("script", "style", "template", "noscript", "svg", "object", "iframe", "select", "button", "textarea")
)
_BESIDE = frozenset(("nav", "aside", "form", "header", "footer"))
_OFTEN_IN_MAIN = frozenset(("header", "footer"))
"""Of an article they are a part of it."""

_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_LINES = frozenset(("pre", "table"))
_BLOCKS = frozenset(
    (
        *("address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "details", "dialog", "div"),
        *("dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "head"),
        *("header", "hr", "html", "li", "main", "nav", "ol", "p", "pre", "search", "section", "summary", "table", "ul"),
    )
)
_VOID = frozenset(
    (
        *("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta"),
        *("param", "source", "track", "wbr"),
    )
)
_ENDED_BY_NEXT = {"p": _BLOCKS, "li": {"li"}, "dt": {"dt", "dd"}, "dd": {"dt", "dd"}, "option": {"option"}}
"""Elements whose end may be left out, and before what."""

_DIVIDES_TABLES = frozenset((*_HEADINGS, *_MAIN, *_BESIDE, "table"))

_HIDDEN = re.compile(r"display\s*:\s*none", re.IGNORECASE)
_MOSTLY = 0.8
"""A block of which a larger share is links is a menu, and no text."""


class _Found(NamedTuple):
    """A block, and what tells whether it is part of the main text."""

    block: Block
    in_main: bool
    beside: bool
    linked: float


def read_html(text: str) -> Document:
    """Read the main text of a page: what is in <main> and <article>, or else what is not around the text."""
    reader = _Reader()
    reader.read(text)
    return Document(_main_text(reader.found), " ".join(reader.title.split()))


def _main_text(found: list[_Found]) -> list[Block]:
    inside = [one.block for one in found if one.in_main and not one.beside]
    body = [one.block for one in found if not one.beside and one.linked <= _MOSTLY]
    return inside or body or [one.block for one in found]


class _Reader:
    """What is open where the page is being read, and the block that is being gathered there."""

    def __init__(self) -> None:
        self.found: list[_Found] = []
        self.title = ""
        self._outline = Outline()
        self._open: list[tuple[str, str]] = []  # a name, and what it means for its content
        self._names, self._meanings = Counter[str](), Counter[str]()
        self._parts: list[tuple[str, bool]] = []  # text, and whether it is a link
        self._line = 1  # behind the last text
        self._first = self._last = 0  # of the block; 0 before its first text

    def read(self, source: str) -> None:
        """Gather all blocks."""
        for one in scan(source):
            if isinstance(one, Text):
                self._add(one)
            elif one.is_end:
                self._close(one)
            else:
                self._start(one)
        self._flush()

    def _add(self, text: Text) -> None:
        self._line = text.line + text.text.count("\n")
        if self._meanings["never"]:
            return
        if self._names["title"]:
            self.title += text.text
            return
        bare = text.text.strip()
        if bare:
            start = text.text.index(bare)
            first = text.line + text.text.count("\n", 0, start)
            self._put(text.text, first, first + bare.count("\n"))
        else:
            self._parts.append((text.text, False))

    def _put(self, text: str, first: int, last: int) -> None:
        self._first, self._last = self._first or first, last
        self._parts.append((text, self._names["a"] > 0))

    def _start(self, tag: Tag) -> None:
        while self._open and tag.name in _ENDED_BY_NEXT.get(self._open[-1][0], ()):
            self._pop()
        self._flush_at(tag.name)
        self._separate(tag)
        if tag.name in _VOID or tag.is_empty:
            return
        self._open.append((tag.name, self._meaning(tag)))
        self._names[tag.name] += 1
        self._meanings[self._open[-1][1]] += 1

    def _separate(self, tag: Tag) -> None:
        """Set apart what has a border between it, and give a picture's words."""
        if tag.name in ("br", "tr"):
            self._parts.append(("\n", False))
        elif tag.name in ("td", "th"):
            self._parts.append((" | ", False))
        elif tag.name in _BLOCKS and self._parts:
            self._parts.append((" ", False))
        elif tag.name == "img" and not self._meanings["never"]:
            self._put(f" {attributes(tag).get('alt', '')} ", self._line, self._line)

    def _meaning(self, tag: Tag) -> str:
        said = attributes(tag) if "hidden" in tag.attributes.lower() or "style" in tag.attributes.lower() else {}
        hidden = (
            "hidden" in said or said.get("aria-hidden", "").lower() == "true" or _HIDDEN.search(said.get("style", ""))
        )
        if tag.name in _NEVER or (hidden and tag.name not in ("html", "body")):
            return "never"
        if tag.name in _BESIDE and not (tag.name in _OFTEN_IN_MAIN and self._meanings["main"]):
            return "beside"
        return "main" if tag.name in _MAIN else ""

    def _close(self, tag: Tag) -> None:
        if not self._names[tag.name]:
            return
        self._flush_at(tag.name)
        while self._open and self._pop() != tag.name:
            pass

    def _pop(self) -> str:
        name, meaning = self._open.pop()
        if name in _HEADINGS or name in _LINES:
            self._flush()
        self._names[name] -= 1
        self._meanings[meaning] -= 1
        return name

    def _flush_at(self, name: str) -> None:
        """End a block where an element begins or ends that divides text; most do not in a table."""
        if name in (_DIVIDES_TABLES if self._names["table"] else _BLOCKS):
            self._flush()

    def _flush(self) -> None:
        """End the block that is being gathered, while what it is in is still open."""
        parts, self._parts = self._parts, []
        first, last = self._first, self._last
        self._first = self._last = 0
        level = next((level for name, level in _HEADINGS.items() if self._names[name]), 0)
        kind: Kind = "heading" if level else "lines" if any(self._names[name] for name in _LINES) else "paragraph"
        text = _shown((part for part, _ in parts), kind, is_code=self._names["pre"] > 0)
        if not text.strip(" |\n"):
            return
        beside = self._meanings["beside"] > 0
        path = self._outline.enter(level, text) if level and not beside else self._outline.path
        linked = sum(len("".join(part.split())) for part, is_link in parts if is_link) / len("".join(text.split()))
        block = Block(text, path, first, last, kind)
        self.found.append(_Found(block, self._meanings["main"] > 0, beside, 0 if level else linked))


def _shown(parts: Iterable[str], kind: Kind, *, is_code: bool) -> str:
    """Lay text out as a browser does; a line's end stays one."""
    text = "".join(parts)
    if is_code:
        return text.strip("\n").rstrip()
    if kind == "heading":
        return " ".join(text.split())
    lines = (" ".join(line.split()).removeprefix("| ") for line in text.split("\n"))
    return "\n".join(line for line in lines if line and line != "|")
