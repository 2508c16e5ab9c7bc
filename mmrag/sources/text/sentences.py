"""Where a text may be divided: behind its sentences, or else anywhere between two signs that are written as one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_STOPS = ".!?…"
_WIDE_STOPS = "。！？｡؟۔।॥።៕"  # of scripts in which no space needs to follow
_CLOSING = "\"'»”’)\\]』」）】》〉"
_SENTENCE_END = re.compile(
    rf"(?<![{_STOPS}])[{_STOPS}]++[{_CLOSING}“‘]*+(?=\s++[^\s\da-zà-öø-ÿ])|[{_WIDE_STOPS}]++[{_CLOSING}]*+"
)
_ZERO_WIDTH_JOINER = "\u200d"
_SKIN_TONES = range(0x1F3FB, 0x1F400)
_LONGEST_CLUSTER = 16
"""Signs that are written as one; more marks on one letter are somebody's joke."""


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Give where each sentence begins and ends, white space between them left out.

    In Western scripts a stop ends one if white space and no small letter or digit follows ("e.g. this", "No. 5").
    """
    yield from _trimmed(text, (found.end() for found in _SENTENCE_END.finditer(text)))


def lines(text: str) -> Iterator[tuple[int, int]]:
    """Give where each line begins and ends; they keep how far they are indented."""
    start = 0
    for line in text.split("\n"):
        if line.strip():
            yield start, start + len(line.rstrip())
        start += len(line) + 1


def _trimmed(text: str, ends: Iterator[int]) -> Iterator[tuple[int, int]]:
    start = 0
    for end in (*ends, len(text)):
        part = text[start:end]
        if part.strip():
            yield start + len(part) - len(part.lstrip()), start + len(part.rstrip())
        start = end


def middle(text: str) -> int:
    """Find where a text is best divided in two: at the white space nearest to its middle, or else between two letters.

    Either part has a quarter of it at least, if it has more than a few signs. 0 if nothing divides it.
    """
    half, quarter = len(text) // 2, len(text) // 4
    before = max(text.rfind(sign, quarter + 1, half) for sign in " \n\t\u3000")
    after = [at for at in (text.find(sign, half, len(text) - quarter) for sign in " \n\t\u3000") if at > 0]
    near = [*([before] if before > 0 else []), *after]
    if near:
        return min(near, key=lambda at: abs(at - half))
    for at in range(half, min(half + _LONGEST_CLUSTER, len(text))):
        if at > 0 and not _is_joined(text, at):
            return at
    return half if len(text) > _LONGEST_CLUSTER else 0


def _is_joined(text: str, at: int) -> bool:
    """Tell whether the sign at a place is written as one with that before it."""
    sign = text[at]
    mark = unicodedata.category(sign).startswith("M") or ord(sign) in _SKIN_TONES
    return mark or _ZERO_WIDTH_JOINER in (sign, text[at - 1])
