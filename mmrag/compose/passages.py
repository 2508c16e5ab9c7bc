"""Sources → passages: what sentences and questions are compared with."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mmrag.compose.answer import Source, Span
from mmrag.compose.wording import Wording, wording
from mmrag.sources.text.sentences import lines, sentences

_LABEL = re.compile(r"\s*[A-Za-z][A-Za-z_ ]{1,30}: ")


@dataclass(frozen=True, slots=True)
class Passage:
    """A sentence of a source.

    Attributes
    ----------
    text : str
        As it stands there.
    span : Span
        Where it stands in `Source.text`.
    """

    text: str
    span: Span

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
    >>> [(one.text, one.span) for one in passages(source)]
    [('A dog.', (0, 6)), ('It runs.', (7, 15)), ('a cat', (36, 41))]
    """
    found = []
    for start, end in lines(source.text):
        label = _LABEL.match(source.text, start, end)
        first = label.end() if label else start
        spans = [(first + left, first + right) for left, right in sentences(source.text[first:end])]
        found += [Passage(source.text[left:right], (left, right)) for left, right in spans]
    return found
