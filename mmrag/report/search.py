"""A search as a page: what was asked, and every hit with its picture, scores and path."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mmrag.report.page import page, text, write_page
from mmrag.report.parts import (
    file_link,
    first_thumbnails,
    item_frame,
    item_picture,
    marked,
    picture_frame,
    score_list,
    text_frame,
)
from mmrag.report.thumbnails import Thumbnail
from mmrag.stores.records import place_of
from mmrag.types import Hit, Query


def write_search_page(
    path: str | Path,
    query: Query,
    hits: Sequence[Hit],
    *,
    home: Path,
    overlays: Mapping[str, Path] | None = None,
) -> int:
    """Write a self-contained HTML page of a search.

    Thumbnails are inside, so the page can be sent to anyone; a click on a path opens the file where it still is.

    Parameters
    ----------
    path : str or path
        The file, replaced in one step.
    query : Query
        What was asked.
    hits : sequence of Hit
        What was found.
    home : path
        The folder that the hits' uris are relative to: `Index.home`.
    overlays : mapping of str to path, or None
        The picture that is shown in the place of a hit's picture, by the id of its item.

    Returns
    -------
    int
        The page's size in bytes.

    Raises
    ------
    InputError
        If it cannot be written there.
    """
    html = page(f"{_title(query)} – mmrag", _body(query, hits, home, overlays or {}))
    write_page(Path(path), html)
    return len(html.encode())


def _title(query: Query) -> str:
    """Say what was asked; a picture alone by the name of its file."""
    alone = len(query.terms) == 1 and not (query.without or query.phrases or query.where)
    picture = query.terms[0].image if alone else None
    return Path(picture).name if isinstance(picture, (str, Path)) else str(query)


def _body(query: Query, hits: Sequence[Hit], home: Path, overlays: Mapping[str, Path]) -> str:
    pictures = [overlays.get(hit.item.id, item_picture(hit.item, home)) for hit in hits if hit.item.modality == "image"]
    small = first_thumbnails([*query.pictures, *pictures])
    frames = "".join(picture_frame(next(small), "the query picture") for _ in query.pictures)
    asked = f'<div class="asked">{frames}</div>' if frames else ""
    cards = "\n".join(_card(hit, small, home, bar) for hit, bar in zip(hits, _bars(hits), strict=True))
    return (
        f"<header>{asked}<div><h1>{text(_title(query))}</h1>"
        f"<p>{_counted(hits)}, in {text(str(home))}</p></div></header>\n"
        f"<main>\n<ol>\n{cards}\n</ol>\n</main>"
    )


def _counted(hits: Sequence[Hit]) -> str:
    if not hits:
        return "nothing found"
    kinds = Counter(hit.kind for hit in hits)
    count = f"{len(hits):,} {'hit' if len(hits) == 1 else 'hits'}"
    if len(kinds) == 1:
        return f"{count} by {text(hits[0].kind)}"
    return f"{count}: {', '.join(f'{number:,} by {text(kind)}' for kind, number in kinds.items())}"


def _bars(hits: Sequence[Hit]) -> list[str]:
    """Draw how the scores of the best hit's kind compare; scores of another kind do not, and get none."""
    scores = [hit.score for hit in hits if hit.kind == hits[0].kind]
    bottom, top = min([0.0, *scores]), max(scores, default=1.0)
    return [_bar(hit.score, bottom, top) if hit.kind == hits[0].kind else "" for hit in hits]


def _card(hit: Hit, small: Iterator[Thumbnail], home: Path, bar: str) -> str:
    is_picture = hit.item.modality == "image"
    shown = item_frame(hit.item, next(small), home) if is_picture else text_frame(hit.item.text or "")
    score = f"<b>{hit.rank}</b> <span>{text(hit.kind)} {hit.score:.3f}</span> {bar}"
    more = _parts(hit) + _words(hit) + _duplicates(hit)
    return (
        f'<li><article>{shown}\n<p class="score">{score}</p>\n'
        f'<p class="path">{file_link(home / hit.item.uri, place_of(hit.item))}</p>{more}</article></li>'
    )


def _bar(score: float, bottom: float, top: float) -> str:
    share = (score - bottom) / max(top - bottom, 1e-9)
    return (
        '<svg class="bar" viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect width="{100 * share:.1f}" height="1"/></svg>'
    )


def _parts(hit: Hit) -> str:
    return score_list({name: value for name, value in hit.parts.items() if (name, value) != (hit.kind, hit.score)})


def _words(hit: Hit) -> str:
    told = [hit.item.text, *hit.item.words.values()] if hit.item.modality == "image" else []
    return "".join(f'\n<p class="words">{marked(words)}</p>' for words in told if words)


def _duplicates(hit: Hit) -> str:
    return _folded(hit.duplicates, "with the same content") + _folded(hit.near_duplicates, "nearly the same")


def _folded(uris: Sequence[str], what: str) -> str:
    if not uris:
        return ""
    rows = "".join(f"<li>{text(uri)}</li>" for uri in uris)
    return f"\n<details><summary>{len(uris):,} {what}</summary><ul>{rows}</ul></details>"
