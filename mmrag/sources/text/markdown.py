"""Markdown → blocks. Which line belongs to what says markdown-it; nothing of the text is left out."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from functools import cache
from typing import TYPE_CHECKING, Any

from mmrag.sources.text.block import Block, Document, Kind, Outline
from mmrag.sources.text.html import read_html
from mmrag.sources.text.markup import plain_markdown
from mmrag.sources.text.plain import paragraphs

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_DEEPEST = 40
"""Of lists and quotes in each other; each level costs the parser a few frames of Python's stack."""

_MOST_BITS = 1024
"""Of a whole number: about what a float can say, and less than what Python writes out."""

_FRONT_MATTER = re.compile(r"---[ \t]*\n(.{0,4096}?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_MARKS_ONLY = re.compile(r"[\W_]*")
_QUOTED = re.compile(r"^(?:\s{0,3}>)+ ?")


def read_markdown(text: str) -> Document:
    """Read CommonMark with tables, and what stands in front of it in YAML as facts."""
    facts, first_line = front_matter(text)
    lines = text.split("\n")
    blocks = list(_blocks(lines, first_line))
    title = facts.pop("title", "")
    if not isinstance(title, str) or not title:
        title = next((one.text for one in blocks if one.kind == "heading"), "")
    return Document(blocks, title, facts)


def front_matter(text: str) -> tuple[dict[str, Any], int]:
    """Give the facts, and the number of lines that they take; anything else in YAML is part of the text."""
    found = _FRONT_MATTER.match(text)
    if not found:
        return {}, 0
    import yaml

    try:
        said = yaml.safe_load(found.group(1))
    except Exception:  # of values that are not what they are tagged as, it raises almost anything
        return {}, 0
    if not isinstance(said, dict):
        return {}, 0
    facts = {_whole(str(name)): _fact(value) for name, value in said.items()}
    return {name: value for name, value in facts.items() if value is not None}, found.group(0).count("\n")


def _fact(value: Any) -> Any:
    """Make what JSON can hold; what is nested deeper than a list, which may be without end, is not looked at."""
    if isinstance(value, list):
        return [one for one in map(_single, value) if one is not None]
    return _single(value)


def _single(value: Any) -> Any:
    if isinstance(value, date):  # or a datetime
        return value.isoformat()
    if isinstance(value, str):
        return _whole(value)
    if isinstance(value, int):
        return value if value.bit_length() < _MOST_BITS else None
    return value if isinstance(value, float) and math.isfinite(value) else None


def _whole(text: str) -> str:
    """Replace half characters, which YAML can name, and nothing else can hold."""
    return text.encode("utf-8", "replace").decode()


def _blocks(lines: Sequence[str], start: int) -> Iterator[Block]:
    outline, done = Outline(), start
    tokens: list[Token] = []
    _parser().block.parse("\n".join(lines[start:]), _parser(), {}, tokens)
    for token, text in _leaves(tokens):
        first, end = (start + number for number in token.map or (0, 0))
        if first < done:
            continue  # a table's cell
        yield from _left_out(lines, done, first, outline.path)
        done = end
        yield from _leaf(token, text, lines[first:end], first + 1, outline)
    yield from _left_out(lines, done, len(lines), outline.path)


def commonmark() -> MarkdownIt:
    """Make a reader of what everything here takes for Markdown: CommonMark with tables."""
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"maxNesting": _DEEPEST}).enable("table")


@cache
def _parser() -> MarkdownIt:
    return commonmark().disable("reference")


def _leaves(tokens: Sequence[Token]) -> Iterator[tuple[Token, str]]:
    """Give what holds text and no other block, and its text."""
    for number, token in enumerate(tokens):
        if token.type in ("heading_open", "paragraph_open"):
            yield token, tokens[number + 1].content
        elif token.type in ("fence", "code_block", "html_block", "table_open", "hr"):
            yield token, token.content


def _leaf(token: Token, text: str, lines: Sequence[str], start: int, outline: Outline) -> Iterator[Block]:
    """Make blocks of a token.

    Parameters
    ----------
    lines : sequence of str
        Those of the file that it takes.
    start : int
        The number of the first of them.
    """
    if token.type == "html_block":
        for one in read_html(text).blocks:
            yield replace(
                one,
                headings=outline.path,
                first_line=start + one.first_line - 1,
                last_line=start + one.last_line - 1,
                kind="paragraph" if one.kind == "heading" else one.kind,
            )
    elif token.type == "heading_open":
        heading = " ".join(plain_markdown(text).split())
        if heading:
            path = outline.enter(int(token.tag[1]), heading)
            yield Block(heading, path, start, start + len(lines) - 1, "heading")
    elif token.type == "table_open":
        rows = [plain_markdown(line.strip().strip("|").strip()) for line in (lines[0], *lines[2:])]
        yield from _block("\n".join(rows), start, outline, "lines", last=start + len(lines) - 1)
    elif token.type == "paragraph_open":
        yield from _block(plain_markdown(text), start, outline, "paragraph", last=start + text.count("\n"))
    else:
        yield from _block(text.rstrip(), start + (token.type == "fence"), outline, "lines")


def _block(text: str, first: int, outline: Outline, kind: Kind, *, last: int | None = None) -> Iterator[Block]:
    if text.strip():
        yield Block(text, outline.path, first, first + text.count("\n") if last is None else last, kind)


def _left_out(lines: Sequence[str], first: int, end: int, headings: tuple[str, ...]) -> Iterator[Block]:
    """Find the text that is nested too deeply for the parser, which skips it."""
    some = ["" if _MARKS_ONLY.fullmatch(line) else _QUOTED.sub("", line, count=1) for line in lines[first:end]]
    yield from paragraphs(some, headings=headings, first_line=first + 1)
