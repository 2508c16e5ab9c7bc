"""Text → the pictures of an index that belong in it.

Each sentence is a query: its most similar pictures are judged by a matcher, and those that belong to it, as
`mmrag.compose.belonging` tells, are options of an assignment over the whole text.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmrag.compose.answer import Placement, Span
from mmrag.compose.belonging import belonging_of
from mmrag.compose.illustrated import Illustrated
from mmrag.compose.place import Option, assign
from mmrag.compose.prose import Sentence, read_prose
from mmrag.errors import QueryError
from mmrag.roles import Matcher
from mmrag.search.condition import both
from mmrag.search.illustration import IllustrateOptions
from mmrag.search.language import says_nothing
from mmrag.search.shorthand import only
from mmrag.sources.uri import shown_name
from mmrag.types import Hit, Item, Query

if TYPE_CHECKING:
    from mmrag.index import Index
    from mmrag.search.rerank import Progress

__all__ = ["IllustrateOptions", "Illustrated", "Illustrator", "illustrate"]

_SENTENCES_FOR_A_PICTURE = 3
_SECONDS_BETWEEN_LOOKS = 0.1  # whether somebody has cancelled


@dataclass(frozen=True, slots=True)
class Candidate:
    """A picture that was judged for a sentence.

    Attributes
    ----------
    item : Item
        The picture.
    probability : float
        That it belongs to the sentence, from 0 to 1.
    parts : mapping of str to float, as pairs
        "cosine", "logit" and "margin": by how much the logit is above the mean of the others.
    names : tuple of str
        Of the picture, and of those that are the same or nearly.
    """

    item: Item
    probability: float
    parts: tuple[tuple[str, float], ...]
    names: tuple[str, ...]


class Illustrator:
    """Finds the pictures for a text that may still be being written.

    Parameters
    ----------
    index : Index
        Where the pictures are.
    options : IllustrateOptions or None
        Which pictures belong, and how many.
    matcher : str, Matcher or None
        What verifies them, by name or loaded; by default that of the options. The index loads it, once.
    where : str or None
        Only pictures that pass this filter, as for `Index.search`.

    Raises
    ------
    ModelError
        If there is no such matcher.
    QueryError
        If it sees no pictures, or the filter is wrong.
    """

    def __init__(
        self,
        index: Index,
        options: IllustrateOptions | None = None,
        matcher: str | Matcher | None = None,
        *,
        where: str | None = None,
    ) -> None:
        self._index = index
        self._options = options or IllustrateOptions()
        self._matcher = index.matcher(self._options.matcher if matcher is None else matcher)
        if "image" not in self._matcher.card.modalities:
            raise QueryError(
                f"{self._matcher.card.name} reads texts only, and pictures are to be judged; take a matcher that sees "
                "pictures, such as builtin or blip-itm-base: mmrag models"
            )
        self._where = both(only("images"), where)
        self._fed: list[Sentence] = []
        self._found: list[list[Candidate]] = []
        self._running: list[Future[None]] = []
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mmrag-illustrate")
        self._feeding = threading.Lock()

    def feed(self, sentence: str, span: Span) -> None:
        """Look for pictures for the next sentence, beside the caller.

        What is fed while another search runs is searched for together, once that one is done.

        Parameters
        ----------
        sentence : str
            Its words.
        span : Span
            Where it stands in the text.
        """
        with self._feeding:
            self._fed.append(Sentence(sentence, span))
            self._running.append(self._pool.submit(self._catch_up))

    def feed_all(self, sentences: Sequence[Sentence], progress: Progress | None = None) -> None:
        """Look for pictures for several sentences at once, and wait."""
        with self._feeding:
            self._fed += sentences
            self._running.append(self._pool.submit(self._catch_up, progress))
        self._wait()

    def placements(self, *, cancel: threading.Event | None = None) -> tuple[Placement, ...]:
        """Give the best assignment over all that was fed, in the order of the text; waits for what is being searched.

        Parameters
        ----------
        cancel : Event or None
            Once set, by any thread, the waiting ends, and this is `so_far`.

        Raises
        ------
        QueryError
            If the filter is wrong.
        ModelError
            If the index's model reads no words, or the matcher cannot judge.
        """
        self._wait(cancel)
        return self.so_far()

    def so_far(self) -> tuple[Placement, ...]:
        """Give the best assignment over the sentences that were searched for up to now; what follows may change it."""
        found = self._found[:]
        return choose(self._fed[: len(found)], found, self._options)

    def candidates(self, sentences: Sequence[str], progress: Progress | None = None) -> list[list[Candidate]]:
        """Judge the most similar pictures of each sentence, whether they belong or not; nothing is fed.

        A sentence that says nothing by itself ("That was it.") has none.
        """
        languages = self._index.encoder.card.languages
        saying = [number for number, one in enumerate(sentences) if not says_nothing(one, languages)]
        if not saying:
            return [[] for _ in sentences]
        wanted = self._options.candidates
        queries = [Query(text=sentences[number], where=self._where) for number in saying]
        hits = self._index.search(queries, k=wanted, rerank=self._matcher, top=wanted, progress=progress)
        judged = dict(zip(saying, (_judged(some, self._matcher) for some in hits), strict=True))
        return [judged.get(number, []) for number in range(len(sentences))]

    def _wait(self, cancel: threading.Event | None = None) -> None:
        while True:
            done, running = wait_for(self._running, timeout=_SECONDS_BETWEEN_LOOKS)
            if not running or (cancel is not None and cancel.is_set()):
                break
        self._running = [*running]
        for one in done:
            one.result()

    def _catch_up(self, progress: Progress | None = None) -> None:
        """Search for all that was fed and has not been searched for."""
        new = self._fed[len(self._found) :]
        if new:
            self._found += self.candidates([one.text for one in new], progress)


def illustrate(
    index: Index,
    text: str,
    *,
    options: IllustrateOptions | None = None,
    matcher: str | Matcher | None = None,
    where: str | None = None,
    progress: Progress | None = None,
) -> Illustrated:
    """Find the pictures of an index that belong in a text, and where.

    Parameters
    ----------
    index : Index
        Where the pictures are; only its items are ever placed.
    text : str
        In Markdown, or plain.
    options, matcher, where
        As for `Illustrator`.
    progress : callable or None
        Called with how many pictures are judged and how many there are.

    Raises
    ------
    InputError
        If the text is blank.
    ModelError, QueryError
        As `Illustrator`.

    Examples
    --------
    >>> index = mmrag.open("photos")  # doctest: +SKIP
    >>> done = mmrag.illustrate(index, "We walked along the beach. A dog was running into the waves.")  # doctest: +SKIP
    >>> [(one.sentence, one.item.uri) for one in done.placements]  # doctest: +SKIP
    [(1, 'images/dog.jpg')]
    """
    if not text.strip():
        raise QueryError("the text is empty; there is nothing to illustrate")
    illustrator = Illustrator(index, options, matcher, where=where)
    sentences = read_prose(text).sentences
    illustrator.feed_all(sentences, progress)
    return Illustrated(text, len(sentences), illustrator.placements())


def _judged(hits: Sequence[Hit], matcher: Matcher) -> list[Candidate]:
    """Say of each hit that the matcher has judged how likely it belongs; what it could not read is left out."""
    judged = [hit for hit in hits if "logit" in hit.parts]
    total = sum(hit.parts["logit"] for hit in judged)
    belonging = belonging_of(matcher)
    candidates = []
    for hit in judged:
        logit = hit.parts["logit"]
        others = (total - logit) / (len(judged) - 1) if len(judged) > 1 else logit
        parts = {"cosine": hit.parts.get("itc", hit.parts["cosine"]), "logit": logit, "margin": logit - others}
        probability = belonging.probability(parts) if belonging else hit.parts["probability"]
        names = (shown_name(hit.item.uri, hit.item.part), *hit.duplicates, *hit.near_duplicates)
        candidates.append(Candidate(hit.item, probability, tuple(parts.items()), names))
    return candidates


def choose(
    sentences: Sequence[Sentence], found: Sequence[Sequence[Candidate]], options: IllustrateOptions
) -> tuple[Placement, ...]:
    """Give the best assignment of candidates to sentences.

    Parameters
    ----------
    sentences : sequence of Sentence
        Of a text, in order.
    found : sequence of sequences of Candidate
        For each sentence, as `Illustrator.candidates` gives them.
    options : IllustrateOptions
        Which of them belong, and how many.
    """
    likely = [
        (number, one)
        for number, some in enumerate(found)
        for one in some
        if one.probability > options.min_probability and (options.order == "free" or _taken(one.item))
    ]
    pictures = _same_numbers([one.names for _, one in likely])
    whens = _moments([one.item for _, one in likely], options)
    room = 1 - options.min_probability
    choices = [
        Option(number, picture, (one.probability - options.min_probability) / room, when)
        for (number, one), picture, when in zip(likely, pictures, whens, strict=True)
    ]
    budget = options.budget or -(-len(sentences) // _SENTENCES_FOR_A_PICTURE)
    chosen = assign(choices, budget=budget, distance=options.distance)
    return tuple(_placement(sentences, *likely[place], choices[place].score) for place in chosen)


def _placement(sentences: Sequence[Sentence], number: int, candidate: Candidate, score: float) -> Placement:
    item, sentence = candidate.item, sentences[number]
    caption = " ".join((item.text or item.words.get("generated") or sentence.text).split())
    return Placement(item, number, sentence.span, score, candidate.probability, caption, candidate.parts)


def _same_numbers(names: Sequence[Sequence[str]]) -> list[int]:
    """Give pictures numbers: those with a name in common, be it by way of others, have the same."""
    first: dict[str, str] = {}

    def root(name: str) -> str:
        while first.setdefault(name, name) != name:
            name = first[name]
        return name

    for own, *others in names:
        for other in others:
            first[root(other)] = root(own)
    numbers: dict[str, int] = {}
    return [numbers.setdefault(root(own), len(numbers)) for own, *_ in names]


def _taken(item: Item) -> str:
    """Say when a picture was taken: ISO 8601, which sorts as text does; empty if that is not known."""
    moment = item.metadata.get("taken_at")
    return moment if isinstance(moment, str) else ""


def _moments(items: Sequence[Item], options: IllustrateOptions) -> list[float]:
    if options.order == "free":
        return [0.0] * len(items)
    ranks = {moment: rank for rank, moment in enumerate(sorted({_taken(item) for item in items}))}
    return [float(ranks[_taken(item)]) for item in items]
