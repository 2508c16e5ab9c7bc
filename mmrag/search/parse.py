"""What a caller asks → Query: the query language.

::

    query = term { " + " term }                      a dog + on a beach
    term  = words, and "words that must stand in it" harbour "Fujifilm X100V"
            [ "^" weight ]                           a dog + on a beach^0.5

A plus between spaces parts terms, which are looked for at the same time. What stands in double quotes must stand in
an item's words. A weight says how much a term counts beside the others, which count 1; of a picture it comes behind
a colon: ``sunset.jpg:0.5``. Anything else is words: ``C++``, ``ratio 3:2``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrag.errors import QueryError
from mmrag.types import Query, Term

if TYPE_CHECKING:
    from mmrag.types import ImageInput

_NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+))"
_WEIGHT = re.compile(rf"\^{_NUMBER}$")
_PICTURE_WEIGHT = re.compile(rf":{_NUMBER}$")
_PLUS = re.compile(r"(?:^|(?<=\s))\+(?=\s|$)")


def parse_query(
    words: str = "",
    *,
    image: ImageInput | None = None,
    like: Sequence[ImageInput] = (),
    without: Sequence[str] = (),
    without_like: Sequence[ImageInput] = (),
    where: str | None = None,
) -> Query:
    """Read a query as the command line takes it.

    Parameters
    ----------
    words : str
        In the query language: terms parted by a plus between spaces, quoted phrases, weights.
    image : path, bytes, PIL image or None
        A picture to look for.
    like : sequence of str, path, bytes or PIL image
        More of them; a str is a file, and may end in a weight: ``"sunset.jpg:0.5"``.
    without : sequence of str
        Words for what is not wanted; may end in a weight: ``"a leash^2"``.
    without_like : sequence of str, path, bytes or PIL image
        Pictures of what is not wanted, as in `like`.
    where : str or None
        A filter over facts.

    Raises
    ------
    QueryError
        If there is nothing to look for, a term is empty, or a quote has no other end.

    Examples
    --------
    >>> query = parse_query('harbour "Fujifilm X100V" + at night^0.5', without=["a boat"])
    >>> str(query)
    'harbour + at night^0.5 "Fujifilm X100V" --without "a boat"'
    """
    if words.count('"') % 2:
        raise QueryError(f'a quote has no other end in {words!r}; quoted words look so: harbour "Fujifilm X100V"')
    for name, given in (("like", like), ("without", without), ("without_like", without_like)):
        if isinstance(given, (str, bytes, Path)):
            raise QueryError(f"{name} takes a list; put the one into a list: {name}=[{given!r}]")
    parts = _split(words)
    terms = [term for part in parts for term in _terms(*part, alone=len(parts) == 1)]
    phrases = tuple(" ".join(phrase.split()) for _, quoted in parts for phrase in quoted)
    first = terms.pop(0).text if terms and terms[0].weight == 1 else None
    return Query(
        text=first,
        image=image,
        plus=(*terms, *map(_picture, like)),
        without=(*map(parse_exclusion, without), *map(_picture, without_like)),
        phrases=phrases,
        where=where,
    )


def as_query(asked: Any) -> Query:
    """Make a Query of words in the query language (a str), or of a picture (a Path, bytes or a PIL image).

    Raises
    ------
    QueryError
        If it is none of these, or says nothing.
    """
    if isinstance(asked, Query):
        return asked
    if isinstance(asked, str):
        return parse_query(asked)
    if isinstance(asked, (Path, bytes)) or hasattr(asked, "convert"):
        return Query(image=asked)
    raise QueryError(
        f"a query is words (str), a picture (Path, bytes, PIL image) or a Query, not {type(asked).__name__}"
    )


def _split(words: str) -> list[tuple[str, list[str]]]:
    """Part a query at its pluses: for each term, its words and its phrases."""
    parts: list[tuple[str, list[str]]] = [("", [])]
    for n, piece in enumerate(words.split('"')):
        text, phrases = parts[-1]
        if n % 2:  # what stands in quotes
            phrases.append(piece)
            continue
        first, *others = _PLUS.split(piece)
        parts[-1] = f"{text} {first}", phrases
        parts += [(other, []) for other in others]
    return parts


def _terms(text: str, phrases: Sequence[str], *, alone: bool) -> list[Term]:
    """Read what stands between two pluses: words, or none if it is all phrases."""
    text = " ".join(text.split())
    if not all(phrase.strip() for phrase in phrases):
        raise QueryError('nothing stands in the quotes; quoted words look so: harbour "Fujifilm X100V"')
    if not (text or phrases or alone):
        raise QueryError('a plus stands between two things to look for, and here is one: "a dog" + "on a beach"')
    return [_weighted(text)] if text else []


def _weighted(text: str) -> Term:
    found = _WEIGHT.search(text)
    if not found:
        return Term(text=text)
    words = text[: found.start()].strip()
    if not words:
        raise QueryError(f"the weight {text!r} stands behind no words; weighted words look so: on a beach^0.5")
    return Term(text=words, weight=float(found[1]))


def parse_exclusion(text: str) -> Term:
    """Read words for what is not wanted, which may end in a weight.

    Raises
    ------
    QueryError
        If there are none, or they are quoted.
    """
    if not text.strip():
        raise QueryError('an exclusion has no words; it looks so: --without "a leash"')
    if '"' in text:
        raise QueryError(
            f"an exclusion is by what words mean, and cannot be quoted: {text!r}. "
            "To leave out items by the very words, use a filter: --where"
        )
    return _weighted(" ".join(text.split()))


def _picture(given: ImageInput) -> Term:
    """Read a picture; a str that no file is named as may end in a weight."""
    if not isinstance(given, str):
        return Term(image=given)
    found = _PICTURE_WEIGHT.search(given)
    if found is None or Path(given).exists():
        return Term(image=Path(given))
    return Term(image=Path(given[: found.start()]), weight=float(found[1]))
