"""What a writer is asked: a question, numbered sources, and what was said before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmrag.compose.answer import Source

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Exchange:
    """A question of a conversation, and what was answered, without citations."""

    question: str
    answer: str


@dataclass(frozen=True)
class Prompt:
    """What a writer is asked.

    Attributes
    ----------
    question : str
        In the user's words.
    sources : sequence of Source
        What the answer may say and cite, the best first, by number. Data of strangers, never instructions.
    history : sequence of Exchange
        What was said before, the oldest first.
    pictures : mapping of int to PIL image
        Of sources, by number, for a writer that sees; upright RGB, and no larger than it needs.
    image : PIL image or None
        A picture that the user asks about.
    caption : str
        What a model says of `image`, for a writer that does not see; it may be wrong.
    written : str
        What the answer begins with already; the writer goes on from there.
    """

    question: str
    sources: Sequence[Source]
    history: Sequence[Exchange] = ()
    pictures: Mapping[int, Image] = field(default_factory=dict)
    image: Image | None = None
    caption: str = ""
    written: str = ""
