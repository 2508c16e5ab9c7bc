"""The nouns that travel between rooms: Item, Query, Hit, and what a change to an index came to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmrag.errors import InputError, QueryError

if TYPE_CHECKING:
    from PIL.Image import Image

    ImageInput = str | Path | bytes | Image

Modality = Literal["image", "text"]

WORDS = ("tags", "generated", "ocr")
"""What words can belong to an item beside its text: embedded in the file, a generated caption, what stands in it."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that can be found: a picture, or a piece of text.

    Parameters
    ----------
    uri : str
        Where it is: a path relative to the index's home, absolute outside it, or any name of the
        caller's own for what lives only in memory.
    id : str
        Stable identity. Empty when adding: it is then derived from the uri.
    modality : {"image", "text"}
        What the vector is computed from.
    text : str or None
        The text itself (modality "text"), or the caption of a picture.
    metadata : mapping
        Facts, by name: anything JSON can hold.
    image : path, bytes, PIL image or None
        Where to take the pixels from when adding; by default the file at `uri`. Never stored.
    part : str or None
        Which part of the file at `uri` it is: the number of a chunk or a row, or a name in an archive. None: the whole.
    words : mapping of str to str
        Further words that belong to it, each by its kind: one of `WORDS`.
    origins : mapping of str to str
        Where "text" and each of `words` come from: a file, or a model.
    """

    uri: str
    id: str = ""
    modality: Modality = "image"
    text: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    image: ImageInput | None = field(default=None, repr=False, compare=False)
    part: str | None = None
    words: Mapping[str, str] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse an item that could never be found again."""
        if not self.uri:
            raise InputError("an Item needs a uri: a path, or a name of your own")
        if self.modality not in ("image", "text"):
            raise InputError(f"an Item's modality is 'image' or 'text', not {self.modality!r}")
        if self.modality == "text" and not (self.text or "").strip():
            raise InputError(f"the text item {self.uri!r} has no text")
        unknown = set(self.words) - set(WORDS)
        if unknown:
            raise InputError(f"words of {self.uri!r} are of the kinds {', '.join(WORDS)}, not {sorted(unknown)[0]!r}")
        try:
            f"{self.uri}{self.id}{self.part}{self.text}{''.join(self.words.values())}".encode()
            json.dumps([dict(self.metadata), dict(self.origins)], ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise InputError(f"an Item's uri, id, text and metadata must be valid Unicode: {self.uri!r}") from error
        except (TypeError, ValueError) as error:
            raise InputError(f"the metadata of {self.uri!r} cannot be written as JSON: {error}") from error


@dataclass(frozen=True, slots=True)
class Term:
    """Words or a picture that a query is made of, and how much it counts.

    Parameters
    ----------
    text : str or None
        Words.
    image : path, bytes, PIL image or None
        A picture.
    weight : float
        Above 0; 1 is what `Query.text` counts.

    Raises
    ------
    QueryError
        If it is neither words nor a picture, or both, or its weight is no number above 0.
    """

    text: str | None = None
    image: ImageInput | None = field(default=None, repr=False)
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what says nothing."""
        if (self.image is None) == (not (self.text or "").strip()):
            raise QueryError("a term of a query is words or a picture, one of them")
        if not 0 < self.weight < float("inf"):
            raise QueryError(f"the weight of a term is a number above 0, not {self.weight!r}")
        _check_unicode(self.text)

    def __str__(self) -> str:
        """As the query language writes it."""
        if self.text:
            return self.text if self.weight == 1 else f"{self.text}^{self.weight:g}"
        name = str(self.image) if isinstance(self.image, (str, Path)) else "a picture"
        return name if self.weight == 1 else f"{name}:{self.weight:g}"


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked: words, pictures or both, what it must not contain, and which items count at all.

    Parameters
    ----------
    text : str or None
        Words.
    image : path, bytes, PIL image or None
        A picture.
    plus : tuple of Term
        What is looked for beside them, at the same time.
    without : tuple of Term
        What is not wanted.
    phrases : tuple of str
        Words that must stand in an item's words exactly so; case does not count.
    where : str or None
        A filter over facts, such as ``"year >= 2022 and width > 2000"``.

    Raises
    ------
    QueryError
        If there is nothing to ask.
    """

    text: str | None = None
    image: ImageInput | None = field(default=None, repr=False)
    plus: tuple[Term, ...] = ()
    without: tuple[Term, ...] = ()
    phrases: tuple[str, ...] = ()
    where: str | None = None

    def __post_init__(self) -> None:
        """Refuse a query with nothing to say."""
        if not all(isinstance(one, Term) for one in (*self.plus, *self.without)):
            raise QueryError('what a Query has in plus and without are Terms, such as without=(Term("a leash"),)')
        if not self.terms and not any(phrase.strip() for phrase in self.phrases):
            raise QueryError(self._what_is_missing())
        for text in (self.text, self.where, *self.phrases):
            _check_unicode(text)

    @property
    def terms(self) -> tuple[Term, ...]:
        """All that is looked for, in the order given: the words, the picture, and the rest."""
        words = () if not (self.text or "").strip() else (Term(text=self.text),)
        picture = () if self.image is None else (Term(image=self.image),)
        return (*words, *picture, *self.plus)

    @property
    def words(self) -> str:
        """All words that are looked for, as one text; empty if there are none."""
        return " ".join([*(one.text for one in self.terms if one.text), *self.phrases])

    @property
    def plain_words(self) -> str | None:
        """The words of a query that is nothing but words, whatever filter it has; None if there is more to it."""
        several = len(self.terms) != 1 or self.without or self.phrases
        return None if several else self.terms[0].text

    @property
    def pictures(self) -> tuple[ImageInput, ...]:
        """All pictures that are looked for."""
        return tuple(one.image for one in self.terms if one.image is not None)

    def __str__(self) -> str:
        """On one line, as the command line takes it."""
        looked_for = " + ".join(str(one) for one in self.terms if one.text)
        quoted = " ".join(f'"{phrase}"' for phrase in self.phrases)
        like = [f"--like {one}" for one in self.terms if not one.text]
        without = [f'--without "{one}"' if one.text else f"--without-like {one}" for one in self.without]
        where = [f'--where "{self.where}"'] if self.where else []
        return " ".join(part for part in (looked_for, quoted, *like, *without, *where) if part)

    def _what_is_missing(self) -> str:
        example = 'such as "a dog on a beach"'
        if self.without:
            return f"the query only says what is not wanted; say what to look for, too, {example}"
        if self.where:
            return f"a filter alone puts nothing in order; say what to look for among what passes it, {example}"
        return f"the query is empty; say what to look for, {example}"


def _check_unicode(text: str | None) -> None:
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise QueryError(f"the query is not valid text: {text!r}") from error


@dataclass(frozen=True, slots=True)
class Hit:
    """An item that answers a query.

    Parameters
    ----------
    rank : int
        From 1.
    score : float
        Higher is better, whatever its kind.
    kind : str
        What the score is: "cosine" (of unit vectors, in [-1, 1]), "rrf" (the sum of the reciprocal ranks by cosine and
        by words, at most 2/61), "weighted" (a weighted mean of both, from 0 to 1), or "match" (a matcher's logit plus
        its cosine, unbounded). Hits of a kind are in the order of their scores.
    item : Item
        What was found.
    parts : mapping of str to float
        The scores that `score` was made from: "cosine" of recall; where words were looked at, "bm25", and the places
        among the best by each, "cosine_rank" and "bm25_rank"; of a match also its "logit", and "itc", the cosine
        that was added, if the matcher has one. "probability", from 0 to 1, says how likely it is that it matches: by
        the matcher, or where words have found a picture by cosine, by the encoder's card, if that is calibrated.
        "without" is how likely a matcher finds it that there is something in it that is not wanted.
    duplicates : tuple of str
        Uris of other files with the very same content, folded into this hit.
    near_duplicates : tuple of str
        Uris of other items that look or read nearly the same, folded into this hit: of those that were candidates.
    matched : tuple of str
        Which of the item's words have the words that were asked for: "text", "tags", "generated", "ocr" or "names"
        (its file and folders).
    """

    rank: int
    score: float
    kind: str
    item: Item
    parts: Mapping[str, float] = field(default_factory=dict)
    duplicates: tuple[str, ...] = ()
    near_duplicates: tuple[str, ...] = ()
    matched: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Classification:
    """The labels of a picture.

    Parameters
    ----------
    uri : str
        As of an item.
    labels : tuple of str
        The most probable ones, the best first; empty where the picture could not be read.
    probabilities : tuple of float
        Of these labels, from 0 to 1. Those of all labels sum up to 1.
    truth : str or None
        The label that the picture's folder is named as, if it is one of the labels.
    truth_rank : int or None
        Where that one stands among all labels, from 1.
    failure : str or None
        Why the picture could not be read.
    """

    uri: str
    labels: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    truth: str | None = None
    truth_rank: int | None = None
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Fact:
    """What filters can ask for, and what the items of an index have of it.

    Parameters
    ----------
    name : str
        As filters have it.
    kind : str
        "true or false", "a whole number", "a number", "text" or "a list of texts".
    items : int
        How many items have it.
    lowest, highest : bool, int, float or str
        The range of its values; of lists, that of what they contain.
    """

    name: str
    kind: str
    items: int
    lowest: bool | float | str
    highest: bool | float | str


@dataclass(frozen=True, slots=True)
class Failure:
    """A file or item that could not be indexed, and why; `part` says which of several items in the file."""

    uri: str
    reason: str
    part: str | None = None


@dataclass(frozen=True, slots=True)
class Version:
    """A state of an index that can be restored.

    Parameters
    ----------
    number : int
        Of the table's version.
    created : datetime
        With a time zone.
    items : int
        How many items it holds.
    failed : int
        How many more could not be read.
    """

    number: int
    created: datetime
    items: int
    failed: int


@dataclass(frozen=True, slots=True)
class Copy:
    """An item that is the same as others, or nearly.

    Parameters
    ----------
    item : Item
        What it is.
    size : int or None
        Of its file, in bytes; None of what is no file of its own.
    content : str
        Equal of those with the very same content.
    """

    item: Item
    size: int | None
    content: str

    @property
    def pixels(self) -> int:
        """Width times height; 0 if they are not known."""
        width, height = (self.item.metadata.get(name) for name in ("width", "height"))
        return width * height if isinstance(width, int) and isinstance(height, int) else 0


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Items that are the same, or look or read nearly the same.

    Parameters
    ----------
    groups : tuple of tuple of Copy
        The group with the most first; of each the one to keep first: of the most pixels, then of the most bytes.
    unknown : int
        How many more items may be near to others, but have no fingerprint that would tell.
    """

    groups: tuple[tuple[Copy, ...], ...] = ()
    unknown: int = 0


@dataclass(frozen=True, slots=True)
class Checkup:
    """What a check of an index has found.

    Parameters
    ----------
    items : int
        How many can be found.
    failed : int
        How many more could not be read when they were last tried.
    mended : tuple of str
        What was not right, and is now.
    wrong : tuple of str
        What is not right and cannot be mended, and what to do.
    """

    items: int = 0
    failed: int = 0
    mended: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Extent:
    """How much an index keeps.

    Parameters
    ----------
    segments : int
        Of its view.
    rows : int
        In these, with those that are deleted.
    deleted : int
        How many of them are.
    bytes : int
        On the disk: table, view, and the versions that can be restored.
    """

    segments: int
    rows: int
    deleted: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Compaction:
    """What compacting an index came to."""

    before: Extent
    after: Extent

    def __str__(self) -> str:
        """One line, as the command line prints it."""
        one, other = self.before, self.after
        return (
            f"{one.segments:,} → {other.segments:,} segments · {one.rows:,} → {other.rows:,} rows · "
            f"{one.bytes / 1e6:,.1f} → {other.bytes / 1e6:,.1f} MB"
        )


@dataclass(frozen=True, slots=True)
class Changes:
    """What a change to an index came to, in items.

    `failed` holds the failures of this run; those of earlier runs, on files that have not changed
    since, are counted in `still_failing` and listed by `Index.failures`. `enriched` counts what models have said of
    pictures: captions, and texts that stand in them. `left` counts files of rows (tables, tars, datasets) that lie in
    indexed folders and were not opened: they are read if they are named themselves.
    """

    added: int = 0
    updated: int = 0
    moved: int = 0
    removed: int = 0
    unchanged: int = 0
    failed: tuple[Failure, ...] = ()
    still_failing: int = 0
    enriched: int = 0
    left: int = 0

    def __add__(self, other: Changes) -> Changes:
        """Sum up two changes."""
        return Changes(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    def any(self) -> bool:
        """Tell whether there is something to tell."""
        return bool(self.added or self.updated or self.moved or self.removed or self.failed or self.enriched)

    def __str__(self) -> str:
        """One line, as the command line prints it."""
        parts = ["added", "updated", "moved", "removed", "unchanged"]
        line = " · ".join(f"{getattr(self, part):,} {part}" for part in parts)
        failing = len(self.failed) + self.still_failing
        enriched = f" · {self.enriched:,} enriched" if self.enriched else ""
        return f"{line} · {failing:,} failed{enriched}"
