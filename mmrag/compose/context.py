"""Hits → numbered sources, and as many of them as a writer can read at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from mmrag.compose.answer import Source
from mmrag.compose.prompt import Prompt
from mmrag.compose.writer import Writer
from mmrag.errors import GenerationError
from mmrag.roles import Sampling
from mmrag.sources.text.sentences import middle, sentences
from mmrag.types import Hit, Item

FACTS = ("taken_at", "place", "camera")
"""What is told of a picture beside its words, where it is known."""

WORDS = {"generated": "Caption by a model", "tags": "Tags", "ocr": "Text in the picture"}
"""What a line of words of each kind begins with; a picture's own caption stands by itself."""


def as_sources(hits: Iterable[Hit], *, first: int = 1) -> list[Source]:
    """Give hits numbers from `first` on, and all that words tell of them."""
    return [Source(number, hit.item, told_of(hit.item), hit) for number, hit in enumerate(hits, start=first)]


def told_of(item: Item) -> str:
    """Say in words what is known of an item: of a text itself, which begins with its headings; of a picture, in lines.

    A picture's own caption comes first and as it is; what a model has written of it, its tags, what stands in it, and
    when, where and by which camera it was taken follow by name.

    Examples
    --------
    >>> print(told_of(Item("a.jpg", text="A dog", words={"ocr": "STOP"}, metadata={"taken_at": "2024-07-01T10:00:00"})))
    A dog
    Text in the picture: STOP
    taken_at: 2024-07-01T10:00:00
    """
    if item.modality == "text":
        return (item.text or "").strip()
    words = [f"{name}: {' '.join(item.words[kind].split())}" for kind, name in WORDS.items() if item.words.get(kind)]
    facts = [f"{name}: {item.metadata[name]}" for name in FACTS if item.metadata.get(name)]
    return "\n".join([*([item.text.strip()] if item.text else []), *words, *facts])


def fitted(prompt: Prompt, writer: Writer, sampling: Sampling) -> Prompt:
    """Leave out what a writer cannot read at once: the oldest of what was said before, and then the last sources.

    The best sources come whole; the first that does not fit is cut behind a sentence, and the others are left out, with
    their pictures. The very first is cut anywhere, if there is no other way.

    Raises
    ------
    GenerationError
        If not even the question and the beginning of one source fit.
    """
    first = _with(prompt, prompt.sources[:1])
    while first.history and not writer.fits(first, sampling):
        first = replace(first, history=first.history[1:])
    prompt = replace(prompt, history=first.history)

    def fits(sources: Sequence[Source]) -> bool:
        return writer.fits(_with(prompt, sources), sampling)

    if not prompt.sources or fits(prompt.sources):
        return prompt
    whole = _most(len(prompt.sources), lambda count: fits(prompt.sources[:count]))
    sources = list(prompt.sources[:whole])
    shortened = _shortened(prompt.sources[whole], lambda source: fits([*sources, source]), anywhere=not sources)
    sources += [shortened] if shortened else []
    if not sources:
        raise GenerationError(
            f"{writer.name} cannot read the question and one source at once, with {sampling.max_tokens:,} tokens left "
            "to write; ask more briefly, let it write less (--max-tokens), or take a generator that reads more"
        )
    return _with(prompt, sources)


def _with(prompt: Prompt, sources: Sequence[Source]) -> Prompt:
    numbers = {source.number for source in sources}
    pictures = {number: image for number, image in prompt.pictures.items() if number in numbers}
    return replace(prompt, sources=tuple(sources), pictures=pictures)


def _shortened(source: Source, fits: Callable[[Source], bool], *, anywhere: bool) -> Source | None:
    """Cut a source behind as many sentences as fit; if `anywhere`, and not even one does, between two of its words."""
    ends = [end for _, end in sentences(source.text)]
    count = _most(len(ends), lambda many: fits(replace(source, text=source.text[: ends[many - 1]])))
    if count:
        return replace(source, text=source.text[: ends[count - 1]])
    text = source.text[: ends[0]] if ends and anywhere else ""
    while at := middle(text):
        text = text[:at].rstrip()
        if fits(replace(source, text=text)):
            return replace(source, text=text)
    return None


def _most(count: int, holds: Callable[[int], bool]) -> int:
    """Find the greatest number up to `count` for which something holds that holds for all smaller ones; 0 does.

    Far greater numbers are not tried: a text may be millions of sentences longer than what fits.
    """
    low, high = 0, 1
    while high <= count and holds(high):
        low, high = high, 2 * high
    high = min(high, count + 1)
    while high - low > 1:
        half = (low + high) // 2
        low, high = (half, high) if holds(half) else (low, half)
    return low
