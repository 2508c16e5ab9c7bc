"""ask: a question → an answer whose sentences cite items of the corpus, or that it has none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from threading import Event as Flag
from typing import TYPE_CHECKING, Literal, overload

from mmrag.compose.answer import Answer, Checked, Done, Event, Evidence, Found, Placed, Placement, Source, Step, Wrote
from mmrag.compose.citations import Reader, Sentence
from mmrag.compose.context import as_sources, fitted
from mmrag.compose.extractive import ExtractiveWriter
from mmrag.compose.model_writer import ModelWriter
from mmrag.compose.prompt import Exchange, Prompt
from mmrag.compose.retrieve import Retriever, asked_words, nearest_pictures, seen_likely
from mmrag.compose.support import Grounding
from mmrag.compose.writer import Writer
from mmrag.errors import QueryError
from mmrag.models.registry import default_generator
from mmrag.roles import Generator, Matcher, Piece, Sampling
from mmrag.search.language import says_nothing
from mmrag.search.pipeline import Pipeline, load_pipeline
from mmrag.types import Hit

if TYPE_CHECKING:
    from PIL.Image import Image

    from mmrag.compose.illustrate import Illustrator
    from mmrag.index import Index
    from mmrag.search.answering import AnswerOptions
    from mmrag.types import ImageInput

EXTRACTIVE = "extractive"
"""Names the writer that quotes, and needs no language model."""

REFUSAL = "Nothing in this corpus is likely to answer this."
"""What an answer says where nothing likely was found."""


@overload
def ask(
    index: Index,
    question: str,
    *,
    image: ImageInput | None = None,
    k: int | None = None,
    generator: str | Generator | Writer | None = None,
    matcher: str | Matcher | None = None,
    pipeline: str | Pipeline = "default",
    where: str | None = None,
    history: Sequence[Exchange] = (),
    sampling: Sampling | None = None,
    illustrate: bool = False,
    active: bool = False,
    cancel: Flag | None = None,
    stream: Literal[False] = False,
) -> Answer: ...


@overload
def ask(
    index: Index,
    question: str,
    *,
    image: ImageInput | None = None,
    k: int | None = None,
    generator: str | Generator | Writer | None = None,
    matcher: str | Matcher | None = None,
    pipeline: str | Pipeline = "default",
    where: str | None = None,
    history: Sequence[Exchange] = (),
    sampling: Sampling | None = None,
    illustrate: bool = False,
    active: bool = False,
    cancel: Flag | None = None,
    stream: Literal[True],
) -> Iterator[Event]: ...


def ask(
    index: Index,
    question: str,
    *,
    image: ImageInput | None = None,
    k: int | None = None,
    generator: str | Generator | Writer | None = None,
    matcher: str | Matcher | None = None,
    pipeline: str | Pipeline = "default",
    where: str | None = None,
    history: Sequence[Exchange] = (),
    sampling: Sampling | None = None,
    illustrate: bool = False,
    active: bool = False,
    cancel: Flag | None = None,
    stream: bool = False,
) -> Answer | Iterator[Event]:
    """Answer a question from a corpus, each sentence with what it rests on.

    What may answer is searched for; where nothing is likely to, the answer says so and nobody writes. Pictures without
    words get a caption by a model, which the index keeps. A sentence that cites nothing gets the source that supports
    it best, if one does (`AnswerOptions.attribute`): small language models seldom cite. What no source supports is
    marked in `Answer.evidence`, and stays.

    Parameters
    ----------
    index : Index
        The corpus.
    question : str
        In words.
    image : path, bytes, PIL image or None
        A picture that it is about: what is like it is found, and a generator that sees is shown it.
    k : int or None
        How many sources at most; by default the pipeline's.
    generator : str, Generator, Writer or None
        Who writes: a language model by name or loaded; "extractive", which quotes the best sentences of the sources; by
        default the pipeline's, or else the language model that is here, or else "extractive".
    matcher : str, Matcher or None
        What judges whether a picture supports a sentence; by default the index's own model, if it can.
    pipeline : str or Pipeline
        How sources are found, and its ``[answer]``: a shipped recipe's name, a path that ends in ``.toml``, or a
        Pipeline.
    where : str or None
        Only items that pass this filter are sources.
    history : sequence of Exchange
        What was said before, the oldest first; as much of it as fits is told to the generator. Nothing is searched by
        it.
    sampling : Sampling or None
        How words are chosen; by default as the pipeline says.
    illustrate : bool
        Whether pictures of the corpus are set into the answer, too.
    active : bool
        Whether it is searched again while writing, where the generator is unsure.
    cancel : Event or None
        Once set, by any thread, the writing ends soon; the answer is what was written.
    stream : bool
        Whether to give the events as they happen, of which the last is `Done` with the answer.

    Returns
    -------
    Answer, or iterator of Event

    Raises
    ------
    QueryError
        If the question is empty, the picture cannot be read, or the filter is wrong.
    ModelError
        If there is no such generator or matcher, or the generator only describes pictures.
    GenerationError
        If a source and the question are too long for the generator, it takes too long, or its server is gone.

    Examples
    --------
    >>> answer = mmrag.ask(mmrag.open("photos"), "Who runs on the beach?")  # doctest: +SKIP
    >>> answer.text, [source.item.uri for source in answer.citations]  # doctest: +SKIP
    ('A brown dog runs on the beach [1].', ['2024/07/beach.jpg'])
    """
    if not question.strip():
        raise QueryError('the question is empty; ask something, such as "Who runs on the beach?"')
    if where is not None:
        index.count(where)  # a wrong filter is told as it was written, and at once
    chosen = load_pipeline(pipeline)
    options = chosen.answer
    options = replace(
        options,
        k=options.k if k is None else k,
        illustrate=options.illustrate or illustrate,
        active=options.active or active,
    )
    illustrator = None
    if options.illustrate:
        from mmrag.compose.illustrate import Illustrator  # most answers do without

        illustrator = Illustrator(index, chosen.illustrate, matcher, where=where)
    asking = _Asking(
        question=question,
        image=image,
        history=tuple(history),
        options=options,
        sampling=sampling or Sampling(options.max_tokens, options.temperature),
        cancel=cancel,
        retriever=Retriever(index, replace(chosen, answer=options), where),
        writer=choose_writer(index, options.generator if generator is None else generator),
        grounding=Grounding(index, _choose_matcher(index, matcher)),
        illustrator=illustrator,
    )
    events = _Run(asking).events()
    return events if stream else _whole(events)


def choose_writer(index: Index, generator: str | Generator | Writer | None) -> Writer:
    """Give who writes; a name is loaded once by the index.

    Raises
    ------
    ModelError
        If there is no such generator, or it only describes pictures.
    """
    if isinstance(generator, Writer):
        return generator
    generator = generator or default_generator() or EXTRACTIVE
    if generator == EXTRACTIVE:
        encoder = index.encoder
        return ExtractiveWriter(encoder if "text" in encoder.card.modalities else None)
    return ModelWriter(index.generator(generator))


def _choose_matcher(index: Index, matcher: str | Matcher | None) -> Matcher | None:
    if matcher is not None:
        return index.matcher(matcher)
    return index.encoder if isinstance(index.encoder, Matcher) else None


def _whole(events: Iterator[Event]) -> Answer:
    """Let everything happen, and give the answer."""
    return next(event.answer for event in events if isinstance(event, Done))


@dataclass(frozen=True)
class _Asking:
    """A question, and who answers it how; most is as for `ask`."""

    question: str
    image: ImageInput | None
    history: tuple[Exchange, ...]
    options: AnswerOptions
    sampling: Sampling
    cancel: Flag | None
    retriever: Retriever
    writer: Writer
    grounding: Grounding
    illustrator: Illustrator | None

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody waits for more."""
        return self.cancel is not None and self.cancel.is_set()

    def find(self, words: str, *, image: ImageInput | None = None) -> list[Hit]:
        """Find what is likely to answer.

        A picture is likely if its own probability says so, or if it is like the picture that is asked about; anything
        is if its words say so; and what nothing can tell of, a picture without words under a model that is not
        calibrated, may be.
        """
        sources = as_sources(self.retriever.find(words, image=image))
        alike = {one.number for one in nearest_pictures(sources)} if image is not None else set()
        calibration = self.retriever.index.encoder.card.calibration
        worded = [source for source in sources if source.item.text or source.item.words]
        likely = {source.number for source in self.grounding.likely(words, worded)} if worded else set()
        hits = []
        for source in sources:
            seen = seen_likely(source.hit, calibration) if source.hit else None
            unknown = seen is None and image is None and source not in worded
            if source.hit and (seen or unknown or source.number in alike | likely):
                hits.append(source.hit)
        return hits

    def described(self, hits: Sequence[Hit]) -> list[Hit]:
        """Give those that are pictures without words a caption."""
        if not self.options.caption or self.is_cancelled:
            return list(hits)
        items = self.retriever.index.describe([hit.item for hit in hits], generator=self.options.caption)
        return [hit if item is hit.item else replace(hit, item=item) for hit, item in zip(hits, items, strict=True)]

    def prompt(self, sources: Sequence[Source]) -> Prompt:
        """Put together what the writer is asked, as much as it can read."""
        prompt = Prompt(self.question, sources, self.history)
        if self.image is not None or self.writer.sees:
            prompt = self._with_pictures(prompt)
        return fitted(prompt, self.writer, self.sampling)

    def _with_pictures(self, prompt: Prompt) -> Prompt:
        """Add the picture that is asked about, and those of the sources for who sees; else a caption of it."""
        from mmrag.compose.pictures import asked_picture  # imports the decoders

        image = None if self.image is None else asked_picture(self.image)
        if self.writer.sees:
            shown = self.look(prompt.sources)
            marked = [replace(source, seen=source.number in shown) for source in prompt.sources]
            return replace(prompt, sources=marked, pictures=shown, image=image)
        return replace(prompt, image=image, caption="" if image is None else self._caption(image))

    def _caption(self, image: Image) -> str:
        """Describe a picture for a writer that does not see; one that quotes says nothing of it."""
        if isinstance(self.writer, ExtractiveWriter) or not self.options.caption:
            return ""
        return self.retriever.index.generator(self.options.caption).caption([image])[0]

    def look(self, sources: Sequence[Source]) -> dict[int, Image]:
        """Read the pictures among sources, by number."""
        from mmrag.compose.pictures import pictures_of  # imports the decoders

        return pictures_of(sources, self.retriever.index.home)


class _Run:
    """Answers one question once: what happens, in order, and what it has come to so far."""

    def __init__(self, asking: _Asking) -> None:
        self._asking = asking
        self._sources: dict[int, Source] = {}
        self._reader = Reader(self._sources.__contains__)
        self._steps: list[Step] = []
        self._evidence: list[Evidence] = []
        self._placements: tuple[Placement, ...] = ()
        self._end: Literal["stop", "length", "cancelled"] = "stop"

    def events(self) -> Iterator[Event]:
        """Go through all of it."""
        for event in self._happening():
            if isinstance(event, Step):
                self._steps.append(event)
            yield event

    def _happening(self) -> Iterator[Event]:
        asking = self._asking
        hits = asking.find(asking.question, image=asking.image)
        yield Step("search", asked_words(asking.question) or asking.question, len(hits))
        if not hits:
            yield from self._refuse()
            return
        described = asking.described(hits)
        yield from _told_of_captions(hits, described, asking.options.caption)
        prompt = asking.prompt(as_sources(described))
        yield self._keep(Found(tuple(prompt.sources)))
        yield from self._write(prompt)
        yield Done(self._answer(asking.writer.name))

    def _refuse(self) -> Iterator[Event]:
        yield Step("refuse", "nothing likely was found, and nothing was written")
        yield Wrote(REFUSAL)
        steps = tuple(self._steps)
        yield Done(Answer(self._asking.question, REFUSAL, steps=steps, refused=True))

    def _write(self, prompt: Prompt) -> Iterator[Event]:
        asking = self._asking
        if asking.options.active:
            from mmrag.compose.active import write_actively  # most answers do without

            look = asking.look if asking.writer.sees else None
            written = write_actively(
                asking.writer, prompt, asking.sampling, self._more, look=look, cancel=asking.cancel
            )
        else:
            written = asking.writer.write(prompt, asking.sampling, cancel=asking.cancel)
        for one in written:
            if isinstance(one, Piece):
                self._end = one.end or self._end
                yield from self._read(self._reader.feed(one.text))
            else:
                yield self._keep(one) if isinstance(one, Found) else one
        yield from self._read(self._reader.close())
        if asking.illustrator is not None:
            placements = asking.illustrator.placements(cancel=asking.cancel)
            yield Step("illustrate", "pictures were looked for, sentence by sentence", len(placements))
            yield from self._place(placements)

    def _read(self, parts: Iterator[str | Sentence]) -> Iterator[Event]:
        for part in parts:
            if isinstance(part, str):
                yield Wrote(part)
            else:
                yield from self._check(part)

    def _check(self, sentence: Sentence) -> Iterator[Event]:
        """Say what a complete sentence rests on; if it does not, look for what it might."""
        asking, sources = self._asking, list(self._sources.values())
        if asking.options.attribute and not sentence.numbers:
            best = asking.grounding.best(sentence.text, sources)
            if best is not None:
                added, sentence = self._reader.cite(sentence, [best.number])
                yield Wrote(added)
        evidence = asking.grounding.check(sentence.text, sentence.span, sentence.numbers, sources)
        self._evidence.append(evidence)
        yield Checked(evidence)
        if asking.illustrator is not None:
            yield from self._place(asking.illustrator.so_far())
            asking.illustrator.feed(sentence.text, sentence.span)

    def _place(self, placements: tuple[Placement, ...]) -> Iterator[Event]:
        """Tell how the pictures stand, where that is news."""
        if placements != self._placements:
            self._placements = placements
            yield Placed(placements)

    def _more(self, words: str) -> list[Source]:
        """Find sources that were not there before, with the numbers that follow."""
        if says_nothing(words, self._asking.retriever.index.encoder.card.languages):
            return []
        known = {source.item.id for source in self._sources.values()}
        try:
            found = self._asking.find(words)
        except QueryError:  # what was certain of a draft may say nothing by itself, such as "They"
            return []
        new = [hit for hit in found if hit.item.id not in known]
        return as_sources(self._asking.described(new), first=max(self._sources) + 1)

    def _keep(self, found: Found) -> Found:
        self._sources.update((source.number, source) for source in found.sources)
        return found

    def _answer(self, generator: str) -> Answer:
        return Answer(
            question=self._asking.question,
            text=self._reader.text,
            sources=tuple(self._sources[number] for number in sorted(self._sources)),
            evidence=tuple(self._evidence),
            placements=self._placements,
            steps=tuple(self._steps),
            generator=generator,
            end=self._end,
        )


def _told_of_captions(before: Sequence[Hit], after: Sequence[Hit], generator: str) -> Iterator[Step]:
    count = sum(one is not other for one, other in zip(before, after, strict=True))
    if count:
        pictures = "1 picture" if count == 1 else f"{count:,} pictures"
        yield Step("caption", f"{pictures} without words described by {generator}", count)
