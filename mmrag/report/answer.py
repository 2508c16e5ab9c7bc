"""An answer as a page: its text, with the pictures set into it, what each sentence rests on, and its sources."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from mmrag.report.page import page, text, write_page
from mmrag.report.parts import (
    file_link,
    first_thumbnails,
    item_frame,
    item_picture,
    marked,
    score_list,
    text_frame,
)
from mmrag.report.thumbnails import Thumbnail
from mmrag.stores.records import place_of
from mmrag.types import Item

if TYPE_CHECKING:
    from mmrag.compose.answer import Answer, Evidence, Placement, Source, Span, Support

_CITATION = re.compile(r"\[(\d{1,4})\]", re.ASCII)
_PARAGRAPH = re.compile(r"\S(?:.|\n(?![ \t]*(?:\n|$)))*")
_LONGEST_TITLE = 100

Small = Callable[[Item], Thumbnail]


def write_answer_page(path: str | Path, answer: Answer, *, home: Path) -> int:
    """Write a self-contained HTML page of an answer.

    Citations lead to the sources below, where the places that support a sentence are marked. Whatever a model or a
    source says is shown as it is written: no address in it becomes a link or is loaded.

    Parameters
    ----------
    path : str or path
        The file, replaced in one step.
    answer : Answer
        What was answered.
    home : path
        The folder that the uris of its sources are relative to: `Index.home`.

    Returns
    -------
    int
        The page's size in bytes.

    Raises
    ------
    InputError
        If it cannot be written there.
    """
    small = _thumbnails([*(one.item for one in answer.placements), *(one.item for one in answer.sources)], home)
    figures = [(one.span[0], _figure(one, small, home)) for one in answer.placements]
    body = (
        f"<header><div><h1>{text(answer.question)}</h1><p>{_told(answer)}, in {text(str(home))}</p></div></header>\n"
        f"<main>\n{_text(answer.text, figures, answer.evidence, {one.number for one in answer.sources})}\n"
        f"{_evidence(answer)}{_sources(answer, small, home)}{_steps(answer)}</main>"
    )
    question = answer.question
    title = question if len(question) <= _LONGEST_TITLE else f"{question[:_LONGEST_TITLE].rstrip()} …"
    html = page(f"{title} – mmrag", body)
    write_page(Path(path), html)
    return len(html.encode())


def _thumbnails(items: Sequence[Item], home: Path) -> Small:
    """Make the thumbnails of all pictures among some items, each once; gives what gives that of an item."""
    pictures = {item_picture(item, home): None for item in items if item.modality == "image"}
    made = dict(zip(pictures, first_thumbnails(list(pictures)), strict=True))
    return lambda item: made[item_picture(item, home)]


def _told(answer: Answer) -> str:
    if answer.refused:
        return "nothing likely was found, and nothing was written"
    ends = {"length": "cut where it may not be longer", "cancelled": "stopped before its end"}
    doubtful = sum(one.supported is False for one in answer.evidence)
    told = [
        f"written by {text(answer.generator)}",
        f"{len(answer.citations):,} of {len(answer.sources):,} sources cited",
        *([f"{doubtful:,} of {len(answer.evidence):,} sentences not supported"] if doubtful else []),
        *([ends[answer.end]] if answer.end in ends else []),
    ]
    return ", ".join(told)


def _text(
    words: str, figures: Sequence[tuple[int, str]], evidence: Sequence[Evidence], numbers: Collection[int]
) -> str:
    """Write a text by paragraphs, with each figure behind the paragraph in which its place is."""
    parts, left = [], sorted(figures)
    for found in _PARAGRAPH.finditer(words):
        parts.append(_paragraph(words, found.span(), evidence, numbers))
        parts += [figure for place, figure in left if place < found.end()]
        left = [one for one in left if one[0] >= found.end()]
    return "\n".join(['<section class="answer">', *parts, *(figure for _, figure in left), "</section>"])


def _paragraph(words: str, span: Span, evidence: Sequence[Evidence], numbers: Collection[int]) -> str:
    start, end = span
    parts, at = [], start
    for one in evidence:
        first, last = max(one.span[0], at), min(one.span[1], end)
        if first < last:
            parts += [_linked(words[at:first], numbers), _sentence(_linked(words[first:last], numbers), one)]
            at = last
    return f"<p>{''.join(parts)}{_linked(words[at:end], numbers)}</p>"


def _sentence(html: str, evidence: Evidence) -> str:
    told = text("; ".join(f"[{one.number}] {one.kind} {one.probability:.2f}" for one in evidence.supports))
    if evidence.supported is None:
        return html
    if evidence.supported:
        return f'<span title="supported: {told}">{html}</span>'
    title = f"not supported: {told}" if told else "cites nothing"
    return f'<span class="doubtful" title="{title}">{html}</span> <small class="verdict not">not supported</small>'


def _linked(words: str, numbers: Collection[int]) -> str:
    """Make links of the citations in foreign words, to the sources that there are, and of nothing else."""
    parts, at = [], 0
    for found in _CITATION.finditer(words):
        if int(found[1]) in numbers:
            number = int(found[1])
            parts.append(f'{text(words[at : found.start()])}<a class="cite" href="#source-{number}">[{number}]</a>')
            at = found.end()
    return "".join([*parts, text(words[at:])])


def _figure(placement: Placement, small: Small, home: Path) -> str:
    item = placement.item
    link = file_link(home / item.uri, place_of(item))
    scores = score_list({"probability": placement.probability, **dict(placement.parts)})
    caption = f'{text(placement.caption)}<p class="path">{link}</p>{scores}'
    return f"<figure>{item_frame(item, small(item), home)}<figcaption>{caption}</figcaption></figure>"


def _evidence(answer: Answer) -> str:
    claims = [one for one in answer.evidence if one.supported is not None]
    if not claims:
        return ""
    sources = {source.number: source for source in answer.sources}
    rows = "\n".join(_claim(one, sources) for one in claims)
    return f'<h2>What each sentence rests on</h2>\n<ul class="evidence">\n{rows}\n</ul>\n'


def _claim(evidence: Evidence, sources: Mapping[int, Source]) -> str:
    kind, verdict = ("is", "supported") if evidence.supported else ("not", "not supported")
    supports = "".join(_support(one, sources[one.number]) for one in evidence.supports)
    told = supports or "<p>It cites nothing that was found.</p>"
    return f'<li>{text(evidence.sentence)} <small class="verdict {kind}">{verdict}</small>{told}</li>'


def _support(support: Support, source: Source) -> str:
    quote = "" if support.span is None else f" <q>{text(source.text[slice(*support.span)])}</q>"
    by = "its words" if support.kind == "words" else "its picture"
    link = f'<a class="cite" href="#source-{support.number}">[{support.number}]</a>'
    return f"<p>{link} with probability {support.probability:.2f}, by {by}{quote}</p>{score_list(dict(support.parts))}"


def _sources(answer: Answer, small: Small, home: Path) -> str:
    if not answer.sources:
        return ""
    cited = {source.number for source in answer.citations}
    marks: dict[int, list[Span]] = {source.number: [] for source in answer.sources}
    for support in chain.from_iterable(one.supports for one in answer.evidence):
        if support.span is not None:
            marks[support.number].append(support.span)
    cards = "\n".join(_card(one, marks[one.number], small, home, cited=one.number in cited) for one in answer.sources)
    return f"<h2>Sources</h2>\n<ol>\n{cards}\n</ol>\n"


def _card(source: Source, marks: Sequence[Span], small: Small, home: Path, *, cited: bool) -> str:
    item = source.item
    words = ""
    if item.modality == "text":
        frame = text_frame(source.text, marks)
    else:
        frame = item_frame(item, small(item), home)
        words = f'\n<p class="words">{marked(source.text, marks)}</p>' if source.text else ""
    found = f", {text(source.hit.kind)} {source.hit.score:.3f}" if source.hit else ""
    score = f"<b>{source.number}</b> <span>{'cited' if cited else 'not cited'}{found}</span>"
    parts = score_list(source.hit.parts) if source.hit else ""
    return (
        f'<li id="source-{source.number}"><article>{frame}\n<p class="score">{score}</p>\n'
        f'<p class="path">{file_link(home / item.uri, place_of(item))}</p>{words}{parts}</article></li>'
    )


def _steps(answer: Answer) -> str:
    if not answer.steps:
        return ""
    rows = "".join(f"<li>{text(one.kind)}: {text(one.detail)} ({one.found:,} new)</li>" for one in answer.steps)
    count = f"{len(answer.steps):,} {'step' if len(answer.steps) == 1 else 'steps'}"
    return f"<details><summary>{count}</summary><ul>{rows}</ul></details>\n"
