"""Quoted words: which items have a phrase in their words, exactly so.

What is written counts, character by character; only case does not, any white space is as good as any other, and é is é
whether it is one character or, as macOS names files, two. A phrase stands at the borders of words, whatever punctuation
surrounds it, but in scripts that put no space between words it may stand anywhere. In what was read in pictures, which
glues words together and tears them apart, white space does not count at all, and phrases of four characters or more may
stand inside words. In names of folders and files, "_", "-", "." and "/" are as good as a space.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmrag.errors import QueryError
from mmrag.search.recall import Found
from mmrag.stores.segment import damage_told
from mmrag.stores.view import Allowed, View
from mmrag.stores.words import KINDS
from mmrag.types import WORDS

_COLUMNS = ("text", *WORDS, "uri", "part")
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_UNSPACED_NAMES = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
_NO_LETTER = r"[^\p{L}\p{M}\p{N}]"
_SPACE = r"[\s\p{Z}]"  # \s alone is ASCII's
_END = r"(?:$|\P{M})"  # not amid a letter whose accents follow it
_INSIDE_WORDS = 4
_MOST_CHARACTERS = 300  # a pattern grows with it
_NAME_GAP = re.compile(r"[\s_\-./]+")


def rows_with(view: View, phrases: Sequence[str]) -> Allowed:
    """Tell which rows have every one of some phrases in their words; for each segment, bool ``(rows,)``.

    Raises
    ------
    QueryError
        If a phrase is too long.
    """
    said, masks = _checked(phrases), []
    for segment in view.segments:
        with damage_told(view.folder):
            columns = segment.sound_columns.select(_COLUMNS)
        mask = np.ones(columns.num_rows, dtype=bool)
        for phrase in said:
            mask &= np.logical_or.reduce(list(_standing(columns, phrase).values()))
        masks.append(mask)
    return masks


def with_matched(found: Sequence[Found], phrases: Sequence[str]) -> list[Found]:
    """Note of what was found in which kinds of its words the phrases stand, beside what is known to match."""
    records = [one.record for one in found]
    columns = pa.table({name: pa.array([one[name] for one in records], pa.string()) for name in _COLUMNS})
    standing = [_standing(columns, phrase) for phrase in _checked(phrases)]
    return [
        replace(
            one,
            matched=tuple(kind for kind in KINDS if kind in one.matched or any(some[kind][n] for some in standing)),
        )
        for n, one in enumerate(found)
    ]


def _checked(phrases: Sequence[str]) -> list[str]:
    said = [unicodedata.normalize("NFC", phrase.strip()) for phrase in phrases if phrase.strip()]
    longest = max(map(len, said), default=0)
    if longest > _MOST_CHARACTERS:
        raise QueryError(
            f"a quoted phrase has at most {_MOST_CHARACTERS} characters, and this one has {longest:,}; quote less of it"
        )
    return said


def _standing(columns: pa.Table, phrase: str) -> dict[str, npt.NDArray[np.bool_]]:
    """Tell for each kind of words in which rows a phrase stands."""
    found = {kind: _matching(columns[kind], _pattern(phrase)) for kind in ("text", "tags", "generated")}
    found["ocr"] = _matching(columns["ocr"], _pattern_read(phrase))
    names = _pattern_of_name(phrase)
    found["names"] = _matching(columns["uri"], names)
    if not phrase.isdecimal():  # most parts have no name but a number
        found["names"] = found["names"] | _matching(columns["part"], names)
    return found


def _matching(column: pa.ChunkedArray, pattern: str) -> npt.NDArray[np.bool_]:
    import pyarrow.compute as pc

    from mmrag.stores.arrow import to_numpy

    if column.null_count == len(column):
        return np.zeros(len(column), dtype=bool)
    return to_numpy(pc.match_substring_regex(column, pattern, ignore_case=True).combine_chunks())


def _pattern(phrase: str) -> str:
    """Match a phrase at the borders of words, with any white space where it has some."""
    return _bordered(phrase, f"{_SPACE}+".join(map(_either_form, phrase.split())))


def _pattern_read(phrase: str) -> str:
    """Match a phrase whatever the white space, and inside words unless it is short."""
    letters = "".join(phrase.split())
    body = f"{_SPACE}*".join(map(_either_form, letters))
    return f"{body}{_END}" if len(letters) >= _INSIDE_WORDS else _bordered(letters, body)


def _pattern_of_name(phrase: str) -> str:
    """Match a phrase in a path, but not a suffix alone."""
    pieces = [piece for piece in _NAME_GAP.split(phrase) if piece]
    if not pieces:
        return r"[^\s\S]"  # nothing: there is no name in it
    return _bordered(
        pieces[0] + pieces[-1], r"[\s\p{Z}_\-./]+".join(map(_either_form, pieces)), before=r"[^\p{L}\p{M}\p{N}.]"
    )


def _either_form(text: str) -> str:
    """Match a text in NFC whether its accents are parts of letters (NFC) or characters of their own (NFD)."""
    forms = ((re.escape(one), re.escape(unicodedata.normalize("NFD", one))) for one in text)
    return "".join(whole if whole == apart else f"(?:{whole}|{apart})" for whole, apart in forms)


def _bordered(phrase: str, body: str, *, before: str = _NO_LETTER) -> str:
    """Let no word go on before or behind a phrase that begins or ends with a letter of a script with spaces."""
    left = f"(?:^|{before}|[{_UNSPACED}])" if _is_of_spaced_word(phrase[0]) else ""
    right = f"(?:$|{_NO_LETTER}|[{_UNSPACED}])" if _is_of_spaced_word(phrase[-1]) else _END
    return f"{left}{body}{right}"


def _is_of_spaced_word(character: str) -> bool:
    if unicodedata.category(character)[0] not in "LMN":
        return False
    name = unicodedata.name(character, "")
    return not name.startswith(_UNSPACED_NAMES)
