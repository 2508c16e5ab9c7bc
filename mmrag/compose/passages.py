"""Sources → passages: what sentences and questions are compared with."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from mmrag.compose.answer import Source, Span
from mmrag.compose.context import FACTS, WORDS
from mmrag.compose.wording import Wording, wording
from mmrag.sources.text.sentences import lines, sentences

Kind: TypeAlias = Literal["said", "generated", "fact", "heading"]
"""Who says it: people, or a model of a picture; or that it is a fact such as a date, or what a text stands under."""

_LABEL = re.compile(r"\s*([A-Za-z][A-Za-z_ ]{1,30}): ")
_OF_LABEL: dict[str, Kind] = {WORDS["generated"]: "generated", **dict.fromkeys(FACTS, "fact")}


@dataclass(frozen=True, slots=True)
class Passage:
    """A sentence of a source.

    Attributes
    ----------
    text : str
        As it stands there.
    span : Span
        Where it stands in `Source.text`.
    kind : {"said", "generated", "fact", "heading"}
        What it is; all but what was "said" tells of what stands beside it, and answers nothing by itself.
    """

    text: str
    span: Span
    kind: Kind = "said"

    @property
    def wording(self) -> Wording:
        """What it says, as far as its words tell."""
        return wording(self.text)


def passages(source: Source) -> list[Passage]:
    r"""Divide a source into its sentences, line by line; a name before a colon that begins a line is left out.

    Examples
    --------
    >>> from mmrag.types import Item
    >>> source = Source(1, Item("a.jpg"), "A dog. It runs.\nCaption by a model: a cat")
    >>> [(one.text, one.span, one.kind) for one in passages(source)]
    [('A dog.', (0, 6), 'said'), ('It runs.', (7, 15), 'said'), ('a cat', (36, 41), 'generated')]
    """
    found = []
    for start, end in lines(source.text):
        label = _LABEL.match(source.text, start, end)
        first = label.end() if label else start
        kind = _kind(source, source.text[start:end], label[1] if label else "")
        spans = [(first + left, first + right) for left, right in sentences(source.text[first:end])]
        found += [Passage(source.text[left:right], (left, right), kind) for left, right in spans]
    return found


def _kind(source: Source, line: str, label: str) -> Kind:
    if source.item.modality == "image":
        return _OF_LABEL.get(label, "said")
    return "heading" if line.strip() == " › ".join(source.item.metadata.get("headings", ())) else "said"
