"""Retrieve while writing: a sentence that is uncertain, or that no source says, is a query for more sources.

As FLARE does it (Jiang et al. 2023, "Active Retrieval Augmented Generation", section 3.2): the next sentence is
drafted; if a word in it is improbable, what is certain of the draft is searched for, and the sentence is written again
with what was found. That a draft without support asks for evidence, too, is of Self-RAG (Asai et al. 2024), told here
by the words that it shares with the sources.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from threading import Event
from typing import TYPE_CHECKING

from mmrag.compose.answer import Found, Source, Step
from mmrag.compose.prompt import Prompt
from mmrag.compose.wording import wording
from mmrag.compose.writer import Writer
from mmrag.roles import Piece, Sampling
from mmrag.sources.text.sentences import sentences

if TYPE_CHECKING:
    from PIL.Image import Image

CERTAIN = 0.4
"""A word below this probability makes its sentence uncertain, and is left out of what is searched for."""

SUPPORTED = 0.5
"""A sentence of whose words a smaller share stands in the sources asks for evidence."""

MOST_SEARCHES = 4
"""How often is searched for one answer."""

_CITATIONS = re.compile(r"\[[0-9, ]*\]?")
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]{4,}|\d+")
_NEXT_LINE = re.compile(r"(?<=\S)\s*\n\s*(?=\S)")


@dataclass(frozen=True)
class _Draft:
    """A sentence as it was written, with the white space before it."""

    pieces: Sequence[Piece]

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def is_last(self) -> bool:
        return self.pieces[-1].end is not None

    def words(self) -> list[tuple[str, float]]:
        """Give its words without citations, each with the probability of its least probable token."""
        words: list[tuple[str, float]] = []
        for piece in self.pieces:
            probability = 1.0 if piece.logprob is None else math.exp(piece.logprob)
            if words and piece.text[:1].strip():
                words[-1] = (words[-1][0] + piece.text, min(words[-1][1], probability))
            else:
                words.append((piece.text, probability))
        bare = ((_CITATIONS.sub("", word).strip(), probability) for word, probability in words)
        return [(word, probability) for word, probability in bare if word]

    def is_uncertain(self) -> bool:
        """Tell whether a word that means something is improbable: a name, a number, or any that is not short."""
        doubtful = [(at, word) for at, (word, probability) in enumerate(self.words()) if probability < CERTAIN]
        return any(_WORD.search(word) or (at and word[0].isupper()) for at, word in doubtful)

    def certain_words(self) -> str:
        """Give what is searched for: the sentence without what is improbable."""
        return " ".join(word for word, probability in self.words() if probability >= CERTAIN)


def write_actively(
    writer: Writer,
    prompt: Prompt,
    sampling: Sampling,
    retrieve: Callable[[str], Sequence[Source]],
    *,
    look: Callable[[Sequence[Source]], Mapping[int, Image]] | None = None,
    cancel: Event | None = None,
) -> Iterator[Piece | Step | Found]:
    """Write an answer sentence by sentence, and search for more sources where one is uncertain or without support.

    A sentence is given when it stands; it is searched for and written again once at most. What was certain costs
    nothing more: the writer is asked again only where new sources were found.

    Parameters
    ----------
    writer : Writer
        One that tells no probabilities is searched for by support alone.
    prompt : Prompt
        With the sources that were found for the question.
    sampling : Sampling
        Holds for the whole answer; a piece counts as a token.
    retrieve : callable
        Words → sources, the best first, by any numbers: those that are new get the next ones.
    look : callable or None
        Sources → the pictures among them, by number, for a writer that sees.
    cancel : Event or None
        As in `Writer.write`.

    Yields
    ------
    Piece
        Of the answer, in order; the last one has an end.
    Step
        "retrieve", before the sentence that it was for: what was searched for, and how many new sources it brought.
    Found
        These new sources.
    """
    started, written, searches = time.monotonic(), 0, 0
    searched_at = -1
    while True:
        left = _left(sampling, written, time.monotonic() - started)
        for draft in _drafts(writer.write(prompt, left, cancel=cancel)):
            if searches < MOST_SEARCHES and searched_at != len(prompt.written) and _asks(draft, prompt):
                searches, searched_at = searches + 1, len(prompt.written)
                words = draft.certain_words() or prompt.question
                longer = _with_more(writer, prompt, sampling, retrieve(words), look)
                new = tuple(longer.sources[len(prompt.sources) :])
                yield Step("retrieve", words, len(new))
                if new:
                    yield Found(new)
                    prompt = longer
                    break
            yield from draft.pieces
            written += len(draft.pieces)
            prompt = replace(prompt, written=prompt.written + draft.text)
            if draft.is_last:
                return


def _asks(draft: _Draft, prompt: Prompt) -> bool:
    """Tell whether a draft should not stand as it is, with the sources that there are."""
    if draft.pieces[-1].end == "cancelled":
        return False
    return draft.is_uncertain() or not _is_supported(draft, prompt)


def _is_supported(draft: _Draft, prompt: Prompt) -> bool:
    """Tell whether enough of its words stand in a source, or in the question; what has none needs no support."""
    said = wording(" ".join(word for word, _ in draft.words()))
    known = wording("\n".join([prompt.question, *(source.text for source in prompt.sources)]))
    return not said.stems or said.overlap(known) >= SUPPORTED


def _with_more(
    writer: Writer,
    prompt: Prompt,
    sampling: Sampling,
    found: Iterable[Source],
    look: Callable[[Sequence[Source]], Mapping[int, Image]] | None,
) -> Prompt:
    """Add sources that are new, as many as the writer can read beside what is there."""
    for source in found:
        if any(source.item.id == known.item.id for known in prompt.sources):
            continue
        number = max((known.number for known in prompt.sources), default=0) + 1
        shown = look([replace(source, number=number)]) if look else {}
        new = replace(source, number=number, seen=number in shown)
        longer = replace(prompt, sources=(*prompt.sources, new), pictures={**prompt.pictures, **shown})
        if not writer.fits(longer, sampling):
            break
        prompt = longer
    return prompt


def _left(sampling: Sampling, written: int, seconds: float) -> Sampling:
    """Take what was used from what was allowed; the writer tells when nothing is left."""
    return replace(
        sampling, max_tokens=max(1, sampling.max_tokens - written), seconds=max(1e-3, sampling.seconds - seconds)
    )


def _drafts(pieces: Iterable[Piece]) -> Iterator[_Draft]:
    """Put pieces together to sentences; a piece in which one ends and the next begins belongs to the first."""
    held: list[Piece] = []
    for piece in pieces:
        held.append(piece)
        end = _first_end("".join(one.text for one in held))
        if end is not None:
            count = _pieces_until(held, end)
            if count < len(held):
                yield _Draft(held[:count])
                held = held[count:]
    if held:
        yield _Draft(held)


def _first_end(text: str) -> int | None:
    """Find where the first sentence or line ends; None if no other has begun."""
    spans = list(islice(sentences(text), 2))
    line = _NEXT_LINE.search(text)
    ends = [*([spans[0][1]] if len(spans) == 2 else []), *([line.start()] if line else [])]
    return min(ends, default=None)


def _pieces_until(pieces: Sequence[Piece], end: int) -> int:
    length = 0
    for count, piece in enumerate(pieces):
        if length >= end:
            return count
        length += len(piece.text)
    return len(pieces)
