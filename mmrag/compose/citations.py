"""Text as it is written → text whose citations all exist, and the sentences it is made of."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from mmrag.compose.answer import Span
from mmrag.sources.text.sentences import lines, sentences

_log = logging.getLogger(__name__)

_RANGE = r"[0-9]{1,4}(?:\s*[-–]\s*[0-9]{1,4})?"
_CITATION = re.compile(rf"[\[【]\s*({_RANGE}(?:\s*[,;，、]\s*{_RANGE})*)\s*[\]】]")
_BEGUN = re.compile(r"[\[【][0-9\s,;，、\-–]{0,40}\Z")
_SPACE_AT_END = re.compile(r"\s*\Z")
_BEGUN_LINE = re.compile(rf"\n\s*(?:{_CITATION.pattern}\s*)+\Z")
_MOST_IN_A_RANGE = 20

Known: TypeAlias = Callable[[int], bool]


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of an answer.

    Attributes
    ----------
    text : str
        Without its citations.
    span : Span
        Where it stands in the whole text, with its citations.
    numbers : tuple of int
        What it cites: each once, in order.
    """

    text: str
    span: Span
    numbers: tuple[int, ...] = ()


def parse(text: str) -> list[Sentence]:
    """Part a text into sentences with what they cite.

    Citations stand in brackets, ``[1]``, ``[1][2]``, ``[1, 2]``, ``[1-3]`` or ``【1】``. What stands behind a sentence
    belongs to it, and what begins a line to the sentence that follows. A line ends a sentence; one of citations alone
    belongs to the sentence before it, or else to the first.

    Examples
    --------
    >>> [(one.text, one.numbers) for one in parse("A dog runs. [1] It is wet [2, 3].")]
    [('A dog runs.', (1,)), ('It is wet.', (2, 3))]
    """
    spans: list[Span] = []
    first = None
    for start, end in lines(text):
        inside = _spans(text[start:end], start)
        if not inside and spans:
            spans[-1] = (spans[-1][0], end)
        first = start if first is None else first
        spans += inside
    if first is not None and spans:
        spans[0] = (_first_sign(text, first), spans[0][1])
    return [_sentence(text, span) for span in spans]


class Reader:
    """Takes an answer piece by piece, and gives what may be shown of it, and each sentence when it is complete.

    A citation comes whole or not at all: one that is divided among pieces waits for its end, one that begins a line for
    what it belongs to, of one that names several each is written by itself, ``[1][2]``, and numbers that do not exist
    are left out, counted and told to the log.

    Parameters
    ----------
    known : callable
        Tells whether a number is that of a source.

    Attributes
    ----------
    text : str
        All that was given so far, and not taken back.
    invented : int
        How many numbers were left out.
    """

    def __init__(self, known: Known) -> None:
        self.text = ""
        self.invented = 0
        self._known = known
        self._held = ""
        self._sentence = 0  # where the sentence begins that is not complete

    def feed(self, piece: str) -> Iterator[str | Sentence]:
        """Take some text; give text that comes next, and behind its last sign each sentence that is complete.

        Go through it to its end before the next piece.
        """
        self._held += piece
        begun = _BEGUN.search(self._held)
        ready = self._held[: begun.start()] if begun else self._held
        waits = _BEGUN_LINE.search(ready) or _SPACE_AT_END.search(ready)
        ready = ready[: waits.start()]  # type: ignore[union-attr]  # the second matches every text
        self._held = self._held[len(ready) :]
        yield from self._take(ready)

    def close(self) -> Iterator[str | Sentence]:
        """Give what was waiting, and the last sentence."""
        ready, self._held = self._held.rstrip(), ""
        yield from self._take(ready)
        for last in self._unfinished():
            self._sentence = last.span[1]
            yield last
        if self.invented:
            _log.warning("citations of sources that do not exist were left out of the answer: %d", self.invented)

    def cite(self, sentence: Sentence, numbers: Sequence[int]) -> tuple[str, Sentence]:
        """Have the sentence that was given last cite sources; give the text that comes next, and the new sentence."""
        added = " " + "".join(f"[{number}]" for number in numbers)
        self.text += added
        self._sentence = len(self.text)
        start, _ = sentence.span
        return added, replace(sentence, span=(start, len(self.text)), numbers=(*sentence.numbers, *numbers))

    def _take(self, ready: str) -> Iterator[str | Sentence]:
        """Add text that is ready, divided where sentences end, so that these can be changed before what follows."""
        rest = self._checked(ready)
        if not self.text:
            rest = rest.lstrip()
        while rest:
            complete = parse(self.text[self._sentence :] + rest)[:-1]
            if not complete:
                break
            end = complete[0].span[1] + self._sentence - len(self.text)
            if end > 0:
                self.text += rest[:end]
                yield rest[:end]
                rest = rest[end:]
            done = self._moved(complete[0])
            self._sentence = done.span[1]
            yield done
        if rest:
            self.text += rest
            yield rest

    def _unfinished(self) -> list[Sentence]:
        return [self._moved(one) for one in parse(self.text[self._sentence :])]

    def _moved(self, sentence: Sentence) -> Sentence:
        start, end = sentence.span
        return replace(sentence, span=(start + self._sentence, end + self._sentence))

    def _checked(self, text: str) -> str:
        """Write citations one by one, and leave out what does not exist, with the blanks before it."""
        parts, start = [], 0
        for found in _CITATION.finditer(text):
            numbers = _numbers(found[1])
            known = [number for number in numbers if self._known(number)]
            self.invented += len(numbers) - len(known)
            before = text[start : found.start()]
            parts.append(before + "".join(f"[{number}]" for number in known) if known else before.rstrip(" \t"))
            start = found.end()
        return "".join((*parts, text[start:]))


def _spans(line: str, offset: int) -> list[Span]:
    """Part one line; its citations are blanked out first, so that they neither end sentences nor begin them."""
    blank = _CITATION.sub(lambda found: " " * len(found[0]), line)
    starts = [start for start, _ in sentences(blank)]
    if not starts:
        return []
    starts[0] = _first_sign(line, 0)
    ends = [*starts[1:], len(line)]
    return [
        (offset + start, offset + start + len(line[start:end].rstrip()))
        for start, end in zip(starts, ends, strict=True)
    ]


def _first_sign(text: str, start: int) -> int:
    """Pass over the white space at a place."""
    return len(text) - len(text[start:].lstrip())


def _sentence(text: str, span: Span) -> Sentence:
    whole = text[slice(*span)]
    cited = [number for found in _CITATION.finditer(whole) for number in _numbers(found[1])]
    plain = " ".join(_CITATION.sub(" ", whole).split())
    return Sentence(_tight(plain), span, tuple(dict.fromkeys(cited)))


def _tight(text: str) -> str:
    """Close the gap that a citation has left before a stop."""
    return re.sub(r"\s+([.,;:!?…。！？])", r"\1", text)


def _numbers(listed: str) -> list[int]:
    numbers: list[int] = []
    for one in re.split(r"[,;，、]", listed):
        first, *last = (int(number) for number in re.split(r"[-–]", one))
        numbers += range(first, min(last[0], first + _MOST_IN_A_RANGE) + 1) if last else [first]
    return numbers
