"""The words and facts of an item, from several places: who says it last, and what outlives a second reading."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mmrag.stores.rows import Row
from mmrag.types import WORDS, Item

if TYPE_CHECKING:
    from mmrag.sources.facts import Embedded

KINDS = ("text", *WORDS)
ENRICHED = ("generated", "ocr")
"""What a model has made of the pixels: it holds as long as they are the same."""

SAID = ("uri", *KINDS, "metadata")
"""The columns that tell an updated item from one that was merely looked at."""


@dataclass(frozen=True)
class Words:
    """The words and facts of an item that one place tells, or several one over the other.

    Attributes
    ----------
    texts : mapping of str to str
        By kind, one of `KINDS`.
    facts : mapping
        By name.
    origins : mapping of str to str
        Where the texts are from, by kind; may name a kind in which nothing was found.
    """

    texts: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_embedded(cls, embedded: Embedded) -> Words:
        """Take what a picture's own file says."""
        texts = {"tags": embedded.tags} if embedded.tags else {}
        return cls(texts, embedded.facts, {"tags": embedded.origin} if embedded.tags else {})

    @classmethod
    def of_item(cls, item: Item) -> Words:
        """Take what a caller says."""
        texts = {"text": item.text, **item.words}
        return cls({kind: text for kind, text in texts.items() if text}, item.metadata, item.origins)

    @classmethod
    def of_row(cls, row: Row | Mapping[str, Any]) -> Words:
        """Take what a row, or the record of one, holds."""
        columns = row if isinstance(row, Mapping) else {name: getattr(row, name) for name in (*KINDS, *_JSON)}
        texts = {kind: columns[kind] for kind in KINDS if columns[kind]}
        facts, origins = (json.loads(columns[name]) if columns[name] else {} for name in _JSON)
        return cls(texts, facts, origins)

    @classmethod
    def from_json(cls, text: str) -> Words:
        """Read what `to_json` has written."""
        return cls(**json.loads(text))

    def to_json(self) -> str | None:
        """Write it down; None if there is nothing to write."""
        told = {"texts": dict(self.texts), "facts": dict(self.facts), "origins": dict(self.origins)}
        return json.dumps(told, ensure_ascii=False) if self else None

    def __bool__(self) -> bool:
        """Whether it tells anything."""
        return bool(self.texts or self.facts or self.origins)

    def over(self, others: Words) -> Words:
        """Put this over what others tell, kind by kind and fact by fact."""
        below = {kind: origin for kind, origin in others.origins.items() if kind not in self.texts}
        return Words({**others.texts, **self.texts}, {**others.facts, **self.facts}, below | {**self.origins})

    def only(self, *kinds: str) -> Words:
        """Leave out the facts and all other kinds."""
        return Words(
            {kind: text for kind, text in self.texts.items() if kind in kinds},
            {},
            {kind: origin for kind, origin in self.origins.items() if kind in kinds},
        )

    def columns(self) -> dict[str, Any]:
        """Give the columns of a row."""
        return {kind: self.texts.get(kind) for kind in KINDS} | {
            "metadata": _json(self.facts),
            "origins": _json(self.origins),
        }


_JSON = ("metadata", "origins")


def given_of(record: Mapping[str, Any]) -> Words:
    """Tell what a caller has said of the picture in a file.

    Whatever is in a row that nothing was read into yet, as an older mmrag wrote it, is a caller's.
    """
    if record["given"]:
        return Words.from_json(record["given"])
    return Words() if record["beside"] is not None else Words.of_row(record)


def as_before(row: Row, record: Mapping[str, Any]) -> Row:
    """Give a row that was read again what a caller has said of it, and what is still true of its content."""
    if row.modality == "text":
        same = row.content_hash == record["content_hash"]
        return replace(row, **Words.of_row(record).columns()) if same else row
    given = given_of(record)
    return replace(enriched_as_before(row, record), given=given.to_json(), **_over(given, row, record))


def enriched_as_before(row: Row, record: Mapping[str, Any]) -> Row:
    """Give a row what models have made of the same content, unless it tells that itself."""
    return replace(row, **_over(Words(), row, record))


def _over(given: Words, row: Row, record: Mapping[str, Any]) -> dict[str, Any]:
    words = Words.of_row(row)
    if row.content_hash is not None and row.content_hash == record["content_hash"]:
        words = words.over(_made(record))
    return given.over(words).columns()


def _made(record: Mapping[str, Any]) -> Words:
    """Take what models have made; what a caller has said in their place is given again or not by the caller."""
    told = given_of(record).texts if record["given"] else {}
    return Words.of_row(record).only(*(kind for kind in ENRICHED if kind not in told))


def _json(mapping: Mapping[str, Any]) -> str | None:
    # half characters, which JSON can name, cannot be stored
    return json.dumps(dict(mapping), ensure_ascii=False).encode("utf-8", "replace").decode() if mapping else None
