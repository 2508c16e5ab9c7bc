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
        The text itself (modality "text"), or words that belong to a picture.
    metadata : mapping
        Anything JSON can hold.
    image : path, bytes, PIL image or None
        Where to take the pixels from when adding; by default the file at `uri`. Never stored.
    """

    uri: str
    id: str = ""
    modality: Modality = "image"
    text: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    image: ImageInput | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse an item that could never be found again."""
        if not self.uri:
            raise InputError("an Item needs a uri: a path, or a name of your own")
        if self.modality not in ("image", "text"):
            raise InputError(f"an Item's modality is 'image' or 'text', not {self.modality!r}")
        if self.modality == "text" and not (self.text or "").strip():
            raise InputError(f"the text item {self.uri!r} has no text")
        try:
            f"{self.uri}{self.id}{self.text}".encode()
            json.dumps(dict(self.metadata))
        except UnicodeEncodeError as error:
            raise InputError(f"an Item's uri, id and text must be valid Unicode: {self.uri!r}") from error
        except (TypeError, ValueError) as error:
            raise InputError(f"the metadata of {self.uri!r} cannot be written as JSON: {error}") from error


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked: words, or a picture.

    Parameters
    ----------
    text : str or None
        Words.
    image : path, bytes, PIL image or None
        A picture.

    Raises
    ------
    QueryError
        If there is nothing to ask, or both at once.
    """

    text: str | None = None
    image: ImageInput | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse a query with nothing to say."""
        if self.text is not None and self.image is not None:
            raise QueryError("a query is words or a picture, not both")
        if self.image is None and not (self.text or "").strip():
            raise QueryError('the query is empty; say what to look for, such as "a dog on a beach"')
        try:
            (self.text or "").encode()
        except UnicodeEncodeError as error:
            raise QueryError(f"the query is not valid text: {self.text!r}") from error


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
        What the score is: "cosine" (of unit vectors, in [-1, 1]), or "match" (a matcher's logit plus its
        cosine, unbounded). Hits of a kind are in the order of their scores.
    item : Item
        What was found.
    parts : mapping of str to float
        The scores that `score` was made from: "cosine" of recall; of a match also its "logit", and "itc", the cosine
        that was added, if the matcher has one. "probability", from 0 to 1, says how likely it is that it matches: by
        the matcher, or where words have found a picture by cosine, by the encoder's card, if that is calibrated.
    duplicates : tuple of str
        Uris of other files with the very same content, folded into this hit.
    """

    rank: int
    score: float
    kind: str
    item: Item
    parts: Mapping[str, float] = field(default_factory=dict)
    duplicates: tuple[str, ...] = ()


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
class Failure:
    """A file or item that could not be indexed, and why."""

    uri: str
    reason: str


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
class Changes:
    """What a change to an index came to, in items.

    `failed` holds the failures of this run; those of earlier runs, on files that have not changed
    since, are counted in `still_failing` and listed by `Index.failures`.
    """

    added: int = 0
    updated: int = 0
    moved: int = 0
    removed: int = 0
    unchanged: int = 0
    failed: tuple[Failure, ...] = ()
    still_failing: int = 0

    def __add__(self, other: Changes) -> Changes:
        """Sum up two changes."""
        return Changes(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    def any(self) -> bool:
        """Tell whether there is something to tell."""
        return bool(self.added or self.updated or self.moved or self.removed or self.failed)

    def __str__(self) -> str:
        """One line, as the command line prints it."""
        parts = ["added", "updated", "moved", "removed", "unchanged"]
        line = " · ".join(f"{getattr(self, part):,} {part}" for part in parts)
        failing = len(self.failed) + self.still_failing
        return f"{line} · {failing:,} failed"
