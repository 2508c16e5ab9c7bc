"""Answer: text whose claims cite items, with the pictures that belong in it; and the events it is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from mmrag.types import Hit, Item

Span: TypeAlias = tuple[int, int]
"""Where something begins and ends in a text, in characters; the end is not part of it."""


@dataclass(frozen=True, slots=True)
class Source:
    """An item as an answer may cite it.

    Attributes
    ----------
    number : int
        What it is cited by, from 1: "[1]".
    item : Item
        What it is.
    text : str
        All that the generator was told of it in words: a chunk, captions, what stands in the picture, facts.
    hit : Hit or None
        How it was found; None where the caller brought it.
    seen : bool
        Whether the generator was shown its picture.
    """

    number: int
    item: Item
    text: str
    hit: Hit | None = None
    seen: bool = False


@dataclass(frozen=True, slots=True)
class Support:
    """How well one source supports one sentence.

    Attributes
    ----------
    number : int
        Of the source.
    kind : {"match", "words"}
        What judged: a matcher that looked at the picture, or the words that sentence and source share and mean.
    probability : float
        That the source says what the sentence says, from 0 to 1, as calibrated.
    span : Span or None
        Where in `Source.text` the best place stands; None for a picture.
    parts : mapping of str to float, as pairs
        The scores that the probability was made from, such as ("overlap", .8) and ("cosine", .7).
    """

    number: int
    kind: Literal["match", "words"]
    probability: float
    span: Span | None = None
    parts: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one sentence of an answer rests on.

    Attributes
    ----------
    sentence : str
        Without its citations.
    span : Span
        Where it stands in `Answer.text`, with its citations.
    citations : tuple of int
        The numbers that it cites, all of which exist, in order.
    supports : tuple of Support
        For each source that it cites; the best first.
    supported : bool or None
        Whether a cited source says so, for all that can be told; None for a sentence that claims nothing.
    """

    sentence: str
    span: Span
    citations: tuple[int, ...] = ()
    supports: tuple[Support, ...] = ()
    supported: bool | None = None


@dataclass(frozen=True, slots=True)
class Placement:
    """A picture of the corpus that belongs to a sentence of a text.

    Attributes
    ----------
    item : Item
        The picture.
    sentence : int
        Which sentence of the text it belongs to, from 0.
    span : Span
        Where that sentence stands in the text. The picture goes behind the paragraph of it.
    score : float
        What the assignment maximised; higher is better.
    probability : float
        That picture and sentence match, by the matcher; else by the encoder's card.
    caption : str
        What is set below it: its own caption, or else the words it was placed for.
    parts : mapping of str to float, as pairs
        Such as ("cosine", .31), ("logit", 2.1).
    """

    item: Item
    sentence: int
    span: Span
    score: float
    probability: float
    caption: str = ""
    parts: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """Something that was done on the way to an answer.

    Attributes
    ----------
    kind : {"search", "rewrite", "caption", "retrieve", "refuse", "illustrate"}
        A search for the question; a follow-up put as a question of its own; a picture described; a search while
        writing; a decision not to write; pictures set into the text.
    detail : str
        What was asked, rewritten or found, as one line.
    found : int
        How many items it brought that were not there before.
    """

    kind: Literal["search", "rewrite", "caption", "retrieve", "refuse", "illustrate"]
    detail: str
    found: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """Text that answers a question, and what it rests on.

    Attributes
    ----------
    question : str
        As it was asked.
    text : str
        The answer, with its citations as [1], [2], … . Every number is one of `sources`.
    sources : tuple of Source
        All that the generator was given, by number.
    evidence : tuple of Evidence
        For each sentence of `text`, in order.
    placements : tuple of Placement
        Pictures set into `text`, in order; empty unless asked for.
    steps : tuple of Step
        What was done.
    generator : str
        Name of the model that wrote it; "extractive" if sentences of the corpus are quoted; "" if nobody wrote.
    refused : bool
        Whether nothing likely was found, so that `text` says this and nothing was generated.
    end : {"stop", "length", "cancelled"}
        Why the writing ended.
    """

    question: str
    text: str
    sources: tuple[Source, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    placements: tuple[Placement, ...] = ()
    steps: tuple[Step, ...] = ()
    generator: str = ""
    refused: bool = False
    end: Literal["stop", "length", "cancelled"] = "stop"

    @property
    def citations(self) -> tuple[Source, ...]:
        """The sources that the text cites, by number."""
        cited = {number for one in self.evidence for number in one.citations}
        return tuple(source for source in self.sources if source.number in cited)

    @property
    def images(self) -> tuple[Item, ...]:
        """The pictures that belong to it: those set into the text, else those that it cites; none twice."""
        placed = [one.item for one in self.placements]
        cited = [source.item for source in self.citations if source.item.modality == "image"]
        return tuple({item.id: item for item in (placed or cited)}.values())

    @property
    def supported(self) -> bool:
        """Whether every sentence that claims something rests on what it cites."""
        return not self.refused and all(one.supported is not False for one in self.evidence)


@dataclass(frozen=True, slots=True)
class Found:
    """Event: these sources are there, with the numbers that they keep. Comes again where more are found."""

    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class Wrote:
    """Event: this text comes next in the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Checked:
    """Event: a sentence is complete, and this is what it rests on."""

    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Placed:
    """Event: so the pictures stand now, while it is written, too; the last of these holds."""

    placements: tuple[Placement, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Done:
    """Event, the last: the whole answer."""

    answer: Answer


Event: TypeAlias = Step | Found | Wrote | Checked | Placed | Done
"""What happens while an answer is made, in order. `Done` comes last, exactly once."""
