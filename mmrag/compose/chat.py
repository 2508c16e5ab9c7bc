"""A conversation about a corpus: each question is understood by what was said before it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event as Stop
from typing import TYPE_CHECKING, Literal, overload

from mmrag.compose import followup, saved
from mmrag.compose.answer import Answer, Done, Event, Source, Step
from mmrag.compose.ask import ask
from mmrag.compose.prompt import Exchange
from mmrag.errors import GenerationError, ItemError
from mmrag.sources.parts import read_part
from mmrag.sources.uri import path_of

if TYPE_CHECKING:
    from mmrag.compose.writer import Writer
    from mmrag.index import Index
    from mmrag.roles import Generator, Matcher, Sampling
    from mmrag.search.pipeline import Pipeline
    from mmrag.types import ImageInput

_log = logging.getLogger(__name__)

MOST_REMEMBERED = 1_600
"""Bytes of what was said before that a writer is told, the latest first: about 400 tokens, whatever the language."""


class Chat:
    """Several questions about a corpus, one after the other.

    A follow-up ("and what colour is it?") is rewritten into a question of its own, which is searched for and answered;
    the answer's steps tell it. "The second one" and "[2]" name a source of the answer before: its words are added, and
    a picture is asked with. By rules that is, unless a `rewriter` is given: a small language model does it worse.

    Parameters
    ----------
    index : Index
        What is asked.
    generator, matcher, k, pipeline, where, sampling, illustrate, active
        As for `mmrag.ask`, for each question.
    rewriter : str, Generator or None
        The language model that rewrites follow-ups, where what it says can be trusted; the rules else.

    Attributes
    ----------
    answers : tuple of Answer
        To all questions so far, the oldest first.
    missing : tuple of str
        Ids of sources of a conversation that was resumed, which are in the index no more.

    Examples
    --------
    >>> chat = Chat(index)  # doctest: +SKIP
    >>> chat.ask("what did we see on the beach?").text  # doctest: +SKIP
    >>> chat.ask("and what colour is it?").steps[0].detail  # doctest: +SKIP
    """

    def __init__(
        self,
        index: Index,
        *,
        generator: str | Generator | Writer | None = None,
        matcher: str | Matcher | None = None,
        rewriter: str | Generator | None = None,
        k: int | None = None,
        pipeline: str | Pipeline = "default",
        where: str | None = None,
        sampling: Sampling | None = None,
        illustrate: bool = False,
        active: bool = False,
    ) -> None:
        self.answers: tuple[Answer, ...] = ()
        self.missing: tuple[str, ...] = ()
        self._index = index
        self._generator, self._matcher = generator, matcher
        self._rewriter = index.generator(rewriter) if isinstance(rewriter, str) else rewriter
        self._k, self._pipeline, self._where, self._sampling = k, pipeline, where, sampling
        self._illustrate, self._active = illustrate, active

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """All questions as they were asked, and what was answered, without citations."""
        return tuple(Exchange(one.question, followup.plain_text(one)) for one in self.answers)

    @overload
    def ask(
        self,
        question: str,
        *,
        image: ImageInput | None = None,
        stream: Literal[False] = False,
        cancel: Stop | None = None,
    ) -> Answer: ...

    @overload
    def ask(
        self, question: str, *, image: ImageInput | None = None, stream: Literal[True], cancel: Stop | None = None
    ) -> Iterator[Event]: ...

    def ask(
        self, question: str, *, image: ImageInput | None = None, stream: bool = False, cancel: Stop | None = None
    ) -> Answer | Iterator[Event]:
        """Answer a question, with what was said before in mind; it is remembered when it is answered to its end.

        Parameters
        ----------
        question : str
            In the user's words.
        image : path, bytes, PIL image or None
            A picture that it is about.
        stream : bool
            Whether to give events as they happen, instead of the answer.
        cancel : Event or None
            Once set, the writing ends soon; what was written is an answer, and is remembered.

        Raises
        ------
        MmragError
            As `mmrag.ask`.
        """
        events = self._events(question, image, cancel)
        if stream:
            return events
        *_, last = events
        if not isinstance(last, Done):
            raise GenerationError("the writing ended without an answer; ask again")
        return last.answer

    def forget(self) -> None:
        """Begin anew: what was said before counts no more."""
        self.answers = ()

    def save(self, path: str | Path) -> None:
        """Write the conversation into a JSON file, replaced in one step: questions, answers, and ids of their sources.

        No path of an item is in it, no picture, and nothing of models but their names.

        Raises
        ------
        InputError
            If it cannot be written there.
        """
        saved.write(Path(path), self.answers, self._index.manifest)

    def resume(self, path: str | Path) -> None:
        """Go on with a conversation that `save` has written; what was said here before is forgotten.

        Sources that are in the index no more are left out, and `missing` names them.

        Raises
        ------
        InputError
            If the file cannot be read, is no conversation, or one about another index.
        """
        self.answers, self.missing = saved.read(Path(path), self._index)

    def _events(self, question: str, image: ImageInput | None, cancel: Stop | None) -> Iterator[Event]:
        before = self.answers[-1] if self.answers else None
        source = followup.named_source(question, before)
        rewritten = self._rewritten(question, before, source)
        steps = () if rewritten == question else (Step("rewrite", rewritten),)
        yield from steps
        for event in ask(
            self._index,
            rewritten,
            image=image if image is not None or source is None else self._picture(source),
            k=self._k,
            generator=self._generator,
            matcher=self._matcher,
            pipeline=self._pipeline,
            where=self._where,
            history=remembered(self.answers),
            sampling=self._sampling,
            illustrate=self._illustrate,
            active=self._active,
            cancel=cancel,
            stream=True,
        ):
            if isinstance(event, Done):
                answer = replace(event.answer, question=question, steps=(*steps, *event.answer.steps))
                self.answers = (*self.answers, answer)
                event = Done(answer)
            yield event

    def _rewritten(self, question: str, before: Answer | None, source: Source | None) -> str:
        by_model = self._rewriter and before and source is None and followup.needs_context(question)
        if self._rewriter and by_model:
            try:
                said = followup.rewrite_by_model(question, self.answers, self._rewriter)
            except GenerationError as error:
                _log.warning("%r is rewritten by rules: %s", question, error)
                said = None
            if said:
                return said
        return followup.rewrite(question, before, source)

    def _picture(self, source: Source) -> bytes | None:
        """Read the picture of a source; None of a text, and where it cannot be read: its words are asked with, then."""
        if source.item.modality != "image":
            return None
        try:
            return read_part(path_of(source.item.uri, self._index.home), source.item.part)
        except ItemError as error:
            _log.warning("%s is asked with by its words alone: %s", source.item.uri, error)
            return None


def remembered(answers: Sequence[Answer]) -> tuple[Exchange, ...]:
    """Give what a writer is told of the answers before: the latest that fit into `MOST_REMEMBERED`, oldest first.

    What was refused teaches nothing but to refuse, and is left out.
    """
    told: list[Exchange] = []
    room = MOST_REMEMBERED
    for answer in reversed(answers):
        exchange = Exchange(followup.asked(answer), followup.plain_text(answer))
        room -= len(f"{exchange.question}{exchange.answer}".encode())
        if room < 0:
            break
        if not answer.refused and exchange.answer:
            told.append(exchange)
    return tuple(reversed(told))
