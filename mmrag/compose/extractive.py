"""Answers without a language model: the sentences of the sources that answer best, quoted with where they stand."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Event

from mmrag.compose.answer import Source
from mmrag.compose.comparison import Answering, Comparison
from mmrag.compose.prompt import Prompt
from mmrag.compose.writer import Writer
from mmrag.errors import GenerationError
from mmrag.roles import Encoder, Piece, Sampling
from mmrag.search.likelihood import PROBABILITY

QUOTES = 3
"""How many sentences an answer quotes at most."""

_NEAR_BEST = 0.6
_OWN_WEIGHT = 0.7
_UNQUOTABLE = re.compile(r"[\[【][^\]】]*[\]】]|[“”\x00-\x1f\x7f-\x9f]+")
_PIECE = re.compile(r"\s*\S+")


@dataclass(frozen=True, slots=True)
class _Quote:
    """What is quoted, if anything is, and the number of its source."""

    text: str
    number: int

    def __str__(self) -> str:
        return f"“{self.text}” [{self.number}]" if self.text else f"The picture itself [{self.number}]."


class ExtractiveWriter(Writer):
    """Quotes the sentences and captions that are likeliest to answer a question, each with its source.

    It says nothing of its own: quotes are what stands in `Source.text`, letter by letter, and the one fixed phrase,
    "The picture itself [2].", points to a picture that nobody has said anything of. What a model says of a picture is
    quoted only where it answers, for it may be wrong. A quote that says what one before it says is passed over
    (maximal marginal relevance: Carbonell and Goldstein 1998). The same prompt gives
    the same answer; temperature, nucleus and seed do nothing. A token is a word here.

    Parameters
    ----------
    encoder : Encoder or None
        What tells how near a sentence is to the question in meaning, as for `mmrag.compose.comparison.Comparison`.
    """

    name = "extractive"

    def __init__(self, encoder: Encoder | None) -> None:
        self._comparison = Comparison(encoder)

    def fits(self, prompt: Prompt, sampling: Sampling) -> bool:  # noqa: ARG002
        """Tell that it does: sources may be of any length."""
        return True

    def write(self, prompt: Prompt, sampling: Sampling, *, cancel: Event | None = None) -> Iterator[Piece]:
        """Write the quotes, a word at a time; what does not fit into `sampling.max_tokens` words is left out.

        A quote stands on a line of its own. The first is cut behind a word if it is too long.
        """
        deadline = time.monotonic() + sampling.seconds
        text, complete = _fitted(self._quotes(prompt), sampling.max_tokens)
        text, stopped = _before(text, sampling.stop)
        if text and prompt.written and not prompt.written.endswith("\n"):
            text = f"\n{text}"
        for piece in _PIECE.findall(text):
            if cancel is not None and cancel.is_set():
                yield Piece("", end="cancelled")
                return
            if time.monotonic() > deadline:
                raise GenerationError(f"quoting took longer than {sampling.seconds:g} seconds; allow more (seconds)")
            yield Piece(piece)
        yield Piece("", end="stop" if complete or stopped else "length")

    def _quotes(self, prompt: Prompt) -> list[_Quote]:
        """Choose what to quote, the best first; then pictures that their words do not speak for.

        To a question about a picture the pictures that are like it come first, each of them.
        """
        answering = [one for one in self._comparison.answering(prompt.question, prompt.sources) if self._quotable(one)]
        pictures = [source for source in prompt.sources if source.item.modality == "image"]
        if prompt.image is not None:
            texts = [one for one in answering if one.source not in pictures]
            quotes = [*(_of_picture(source, answering) for source in pictures), *map(_quote, self._chosen(texts))]
        else:
            worded = {one.source.number for one in answering}
            wordless = [source for source in pictures if source.number not in worded]
            shown = _nearly_as_likely(wordless, max((one.probability for one in answering), default=0.0))
            quotes = [*map(_quote, self._chosen(answering)), *(_Quote("", one.number) for one in shown)][:QUOTES]
        return [one for one in quotes if str(one) not in prompt.written]

    def _quotable(self, one: Answering) -> bool:
        """Tell whether a passage says something; a model's caption, which may be wrong, only if it answers."""
        if one.passage.kind == "heading" or not _unmarked(one.passage.text):
            return False
        return one.passage.kind == "said" or self._comparison.is_likely(one)

    def _chosen(self, answering: Sequence[Answering]) -> list[Answering]:
        """Take passages that are nearly as likely as the best, and differ from one another."""
        rest = [one for one in answering if one.probability >= _NEAR_BEST * answering[0].probability]
        chosen: list[Answering] = []
        while rest and len(chosen) < QUOTES:
            best = max(rest, key=lambda one: self._worth(one, chosen))
            chosen.append(best)
            rest = [one for one in rest if one.passage.wording != best.passage.wording]
        return chosen

    def _worth(self, one: Answering, chosen: Sequence[Answering]) -> float:
        alike = max((self._alike(one, other) for other in chosen), default=0.0)
        return _OWN_WEIGHT * one.probability - (1 - _OWN_WEIGHT) * alike

    def _alike(self, one: Answering, other: Answering) -> float:
        cosines = self._comparison.cosines([one.passage.text], [other.passage.text])
        return one.passage.wording.overlap(other.passage.wording) if cosines is None else float(cosines[0, 0])


def _quote(one: Answering) -> _Quote:
    return _Quote(_unmarked(one.passage.text), one.source.number)


def _of_picture(source: Source, answering: Sequence[Answering]) -> _Quote:
    """Quote the best of what is said of a picture; point to it if nothing is."""
    return next((_quote(one) for one in answering if one.source is source), _Quote("", source.number))


def _nearly_as_likely(pictures: Sequence[Source], likeliest: float) -> list[Source]:
    """Leave out pictures that are far less likely to show what is asked than the best of them, or a quote."""
    chances = [1.0 if one.hit is None else one.hit.parts.get(PROBABILITY, 1.0) for one in pictures]
    least = _NEAR_BEST * max(likeliest, *chances, 0.0)
    return [one for one, chance in zip(pictures, chances, strict=True) if chance >= least]


def _unmarked(text: str) -> str:
    """Give the longest part of a passage without quotation marks, control characters and what looks like a citation."""
    return max(_UNQUOTABLE.split(text), key=len).strip()


def _fitted(quotes: Sequence[_Quote], words: int) -> tuple[str, bool]:
    """Put as many quotes as have room into lines, and tell whether these are all."""
    fitting: list[str] = []
    for quote in quotes:
        room = words - sum(len(line.split()) for line in fitting)
        line = str(quote)
        if len(line.split()) > room:
            return "\n".join(fitting or [str(_cut(quote, room))]), False
        fitting.append(line)
    return "\n".join(fitting), True


def _cut(quote: _Quote, words: int) -> _Quote:
    """Shorten a quote so that it has room with its citation, to a word at least."""
    kept = _PIECE.findall(quote.text)[: max(1, words - 1)]
    return _Quote("".join(kept), quote.number)


def _before(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """Give what stands before the first of the texts that end the writing, and tell whether there is one."""
    places = [place for place in (text.find(one) for one in stop) if place >= 0]
    return (text[: min(places)], True) if places else (text, False)
