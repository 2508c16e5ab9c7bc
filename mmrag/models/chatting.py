"""What generators that chat have in common: checks, stop texts, thoughts, and pictures described by asking."""

from __future__ import annotations

import dataclasses
import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Generator as Writing
from threading import Event
from typing import TYPE_CHECKING, TypeVar

from mmrag.errors import GenerationError, InputError
from mmrag.models.relay import Listener, relay
from mmrag.models.writing import check_writing
from mmrag.roles import Generator, Piece, Sampling, Turn

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")

_THINK, _THOUGHT = "<think>", "</think>"
_THOUGHTS = re.compile(rf"\s*{_THINK}.*?{_THOUGHT}\s*(?=\S)", re.DOTALL)
"""Thoughts before an answer that has begun."""

_DESCRIBE = "Describe this picture in one short sentence."
_ANSWER = "Answer in a few words."


class ChattingGenerator(Generator):
    """A generator that goes on from any conversation, and describes pictures by being asked to, if it sees.

    A family implements `count_turns` and `_write`; checks, stop texts and the thread that writes are here.

    What a model thinks before it answers, in ``<think>…</think>``, is no part of the answer.
    """

    @property
    def chats(self) -> bool:  # noqa: D102
        return True

    @abstractmethod
    def count_turns(self, turns: Sequence[Turn]) -> int:
        """Count the tokens of a conversation, or give more than there are."""

    @abstractmethod
    def _write(self, turns: Sequence[Turn], sampling: Sampling, cancel: Event | None) -> Writing[Piece]:
        """Go on with a conversation that was checked; `Sampling.stop` is seen to elsewhere. Closing it stops it."""

    def _relayed(self, work: Callable[[Listener[T]], None], sampling: Sampling, cancel: Event | None) -> Writing[T]:
        """Iterate over what a thread of its own gives, for as long as the writing may take; see `relay`."""
        late = too_slow(self, sampling.seconds)
        return relay(work, seconds=sampling.seconds, late=late, cancel=cancel)

    def generate(
        self, turns: Sequence[Turn], sampling: Sampling | None = None, *, cancel: Event | None = None
    ) -> Iterator[Piece]:
        """Go on with a conversation; parameters, results and errors as those of `Generator.generate`."""
        sampling = sampling or Sampling()
        check_turns(self, turns)
        count = self.count_turns(turns)
        if count >= self.context_tokens:
            raise too_long(self, count)
        return stop_at(without_thoughts(self._write(turns, sampling, cancel)), sampling.stop)

    def caption(
        self,
        images: Sequence[Image],
        *,
        prompt: str = "",
        beams: int = 3,
        nucleus: float | None = None,
        max_tokens: int = 30,
        seed: int | None = None,
    ) -> list[str]:
        """Describe pictures; parameters and result as those of `Generator.caption`.

        Conversations know no beams: the likeliest token is taken each time, or sampled with `nucleus`.
        """
        if not self.sees:
            return super().caption(images)
        check_writing(beams, max_tokens, nucleus)
        asked = f"{_DESCRIBE} Begin with the words: {prompt}" if prompt else _DESCRIBE
        sampling = Sampling(max_tokens=max_tokens, seed=seed or 0)
        if nucleus is not None:
            sampling = dataclasses.replace(sampling, temperature=1.0, nucleus=nucleus)
        captions = [self._ask(image, asked, sampling) for image in images]
        return [one if one.startswith(prompt) else f"{prompt.strip()} {one}" for one in captions]

    def answer(
        self, images: Sequence[Image], questions: Sequence[str], *, beams: int = 3, max_tokens: int = 10
    ) -> list[str]:
        """Answer a question about each picture; parameters and result as those of `Generator.answer`."""
        if not self.sees:
            return super().answer(images, questions)
        check_writing(beams, max_tokens)
        if isinstance(questions, str) or len(questions) != len(images):
            raise InputError(f"answer takes a list with a question for each of {len(images)} pictures")
        sampling = Sampling(max_tokens=max_tokens)
        return [
            self._ask(image, f"{question} {_ANSWER}", sampling)
            for image, question in zip(images, questions, strict=True)
        ]

    def _ask(self, image: Image, asked: str, sampling: Sampling) -> str:
        """Ask about one picture; the answer as one line."""
        pieces = self.generate([Turn("user", asked, (image,))], sampling)
        return " ".join("".join(piece.text for piece in pieces).split())


def stop_at(pieces: Writing[Piece], stop_texts: Sequence[str]) -> Writing[Piece]:
    """Pass pieces on until a stop text comes, which may begin in one piece and end in another.

    Parameters
    ----------
    pieces : generator of Piece
        As `Generator.generate` gives them; closed as soon as no more of them are wanted.
    stop_texts : sequence of str
        The first of them to be complete ends the writing; neither it nor what follows is passed on.

    Yields
    ------
    Piece
        Those that may be part of a stop text are held back until it is certain. One that is cut keeps its `logprob`.
    """
    held: list[Piece] = []
    try:
        for piece in pieces:
            held.append(piece)
            text = "".join(one.text for one in held)
            met = [(place + len(stop), place) for stop in stop_texts if (place := text.find(stop)) >= 0]
            if met:
                yield from _up_to(held, min(met)[1])
                yield Piece("", end="stop")
                return
            safe = len(text) - max((_begun(text, stop) for stop in stop_texts), default=0)
            while held and (piece.end or len(held[0].text) <= safe):
                safe -= len(held[0].text)
                yield held.pop(0)
    finally:
        pieces.close()


def _begun(text: str, stop: str) -> int:
    """Tell how many characters at the end of a text may be the beginning of a stop text."""
    return max((n for n in range(1, min(len(stop), len(text) + 1)) if text.endswith(stop[:n])), default=0)


def _up_to(pieces: Sequence[Piece], length: int) -> Iterator[Piece]:
    """Cut pieces at a number of characters."""
    for piece in pieces:
        if length <= 0:
            return
        yield dataclasses.replace(piece, text=piece.text[:length], end=None)
        length -= len(piece.text)


def without_thoughts(pieces: Writing[Piece]) -> Writing[Piece]:
    """Drop what a model thinks before it answers, between ``<think>`` and ``</think>`` at the very beginning.

    Parameters
    ----------
    pieces : generator of Piece
        As a model writes them; closed as soon as no more of them are wanted.

    Yields
    ------
    Piece
        The answer, without blanks behind the thoughts. Its first one has no `logprob` if thoughts are cut from it.

    Raises
    ------
    GenerationError
        If it thinks until it may write no more.
    """
    held: list[Piece] = []
    try:
        for piece in pieces:
            held.append(piece)
            text = "".join(one.text for one in held)
            thoughts = _THOUGHTS.match(text)
            if thoughts:
                held = [Piece(text[thoughts.end() :], end=piece.end)]
            elif piece.end and _thinks(text):
                held = [_end_of_thoughts(text, piece)]
            if thoughts or piece.end or not (_thinks(text) or _THINK.startswith(text.lstrip())):
                break
        yield from held
        yield from pieces
    finally:
        pieces.close()


def _thinks(text: str) -> bool:
    return text.lstrip().startswith(_THINK)


def _end_of_thoughts(text: str, last: Piece) -> Piece:
    """Give the last piece of what has no answer."""
    if last.end == "length" and _THOUGHT not in text:
        raise only_thoughts()
    return Piece("", end=last.end)


def only_thoughts() -> GenerationError:
    """Say that a model has thought until it might write no more."""
    return GenerationError(
        "the model thought for as long as it may write, and wrote no answer; let it write more tokens"
    )


def check_turns(generator: Generator, turns: Sequence[Turn]) -> None:
    """Check that a generator can go on with a conversation.

    Raises
    ------
    InputError
        If there are no turns, the last is the system's, none is the user's, one after the first is the system's, or
        pictures are given to what does not see.
    """
    if not turns or turns[-1].who == "system":
        last = f"the last of {len(turns)} turns is the {turns[-1].who}'s" if turns else "there are no turns"
        raise InputError(f"{last}; a conversation ends with a turn of the user, or with what the assistant has begun")
    if all(turn.who != "user" for turn in turns):
        raise InputError("nobody has asked anything; what the assistant has begun stands behind a turn of the user")
    if any(turn.who == "system" for turn in turns[1:]):
        raise InputError("a system turn stands behind others; it comes first, or there is none")
    pictures = sum(len(turn.images) for turn in turns)
    if pictures and not generator.sees:
        raise InputError(
            f"{generator.card.name} sees no pictures, and was given {pictures}; give it words only, or take a "
            "generator that sees: mmrag models"
        )


def too_long(generator: Generator, tokens: int) -> GenerationError:
    """Say that a conversation leaves no room for a word."""
    return GenerationError(
        f"the conversation has {tokens:,} tokens, and {generator.card.name} reads {generator.context_tokens:,}, "
        "what it writes included; give it fewer or shorter sources, or take a generator that reads more"
    )


def too_slow(generator: Generator, seconds: float) -> GenerationError:
    """Say that the writing has taken longer than allowed."""
    return GenerationError(
        f"{generator.card.name} was not done after {seconds:g} s; allow more (Sampling.seconds), or fewer words "
        "(max_tokens), or take a smaller model"
    )
