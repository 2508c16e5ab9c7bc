"""Marks inside of a line of Markdown or reStructuredText, which are not to be read.

Every pattern runs in linear time: what it repeats cannot contain what it begins with.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence

_CODE = re.compile(r"(``?)([^`]+)\1")
_EMPHASIS = re.compile(
    r"(?<![\w*])(\*{1,3})(?=\S)([^*]+)(?<=\S)\1(?![\w*])|(?<!\w)(_{1,3})(?=\S)([^_]+)(?<=\S)\3(?!\w)"
)
_MARKDOWN = (
    (re.compile(r"!?\[([^\[\]]*)\]\([^()\s]*(?:\s+\"[^\"\n]*\")?\)"), r"\1"),  # [text](address "title")
    (re.compile(r"!?\[([^\[\]]+)\]\[[^\[\]]*\]"), r"\1"),  # [text][name]
    (re.compile(r"<((?:https?://|mailto:)[^<>\s]+)>"), r"\1"),
    (re.compile(r"</?[A-Za-z][A-Za-z0-9]*(?:\s[^<>]*)?/?>"), ""),
    (re.compile(r"\\([!-/:-@\[-`{-~])"), r"\1"),
    (re.compile(r"~~([^~]+)~~"), r"\1"),
)
_RST = (
    (re.compile(r":[\w:+.-]{1,60}:`([^`<>]+)(?:<[^`<>]*>)?`"), r"\1"),  # :role:`text <target>`
    (re.compile(r"`([^`<>]+)<([^`<>]*)>`__?"), r"\1(\2)"),  # `text <address>`_
    (re.compile(r"`([^`]+)`__?(?!\w)"), r"\1"),
)


def plain_markdown(text: str) -> str:
    """Take away links' addresses, emphasis, tags and escapes; what is `code` stays as it is."""
    return _outside_code(text, lambda some: html.unescape(_without_emphasis(_replaced(some, _MARKDOWN))))


def plain_rst(text: str) -> str:
    """Take away roles, emphasis and the marks of references; what is ``code`` stays as it is."""
    return _outside_code(_replaced(text, _RST), _without_emphasis)


def _outside_code(text: str, clean: Callable[[str], str]) -> str:
    parts, end = [], 0
    for code in _CODE.finditer(text):
        parts += [clean(text[end : code.start()]), code.group(2)]
        end = code.end()
    return "".join([*parts, clean(text[end:])])


def _replaced(text: str, patterns: Sequence[tuple[re.Pattern[str], str]]) -> str:
    for pattern, replacement in patterns:
        text = pattern.sub(replacement, text)
    return text


def _without_emphasis(text: str) -> str:
    for _ in range(2):  # one may stand in another
        text = _EMPHASIS.sub(lambda found: found.group(2) or found.group(4), text)
    return text
