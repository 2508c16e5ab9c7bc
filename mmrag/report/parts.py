"""What several pages show: a picture in its frame, scores, and a path that a click opens."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

from mmrag.report.page import text
from mmrag.report.thumbnails import Thumbnail, thumbnails
from mmrag.sources.parts import PartOf
from mmrag.sources.uri import path_of
from mmrag.types import Item

if TYPE_CHECKING:
    from mmrag.types import ImageInput

_WORDS_SHOWN = 600

MOST_PICTURES = 500
"""So many pictures are in a page, which has then at most 40 MB, and 15 with photographs."""


def first_thumbnails(pictures: Sequence[ImageInput | PartOf]) -> Iterator[Thumbnail]:
    """Make a thumbnail of each of the first `MOST_PICTURES`; those of the others only say that they are left out."""
    yield from thumbnails(pictures[:MOST_PICTURES])
    left_out = Thumbnail(problem=f"only the first {MOST_PICTURES} pictures are in this page")
    yield from repeat(left_out, len(pictures) - MOST_PICTURES)


def item_picture(item: Item, home: Path) -> PartOf:
    """Say where the picture of an item lies."""
    return PartOf(path_of(item.uri, home), item.part)


def item_frame(item: Item, small: Thumbnail, home: Path) -> str:
    """Show the picture of an item, or say why there is none."""
    missing = not os.path.exists(home / item.uri)
    return picture_frame(small, item.part or Path(item.uri).name, missing=missing)


def picture_frame(small: Thumbnail, name: str, *, missing: bool = False) -> str:
    """Show a thumbnail, or say why there is none."""
    if small.uri:
        size = f'width="{small.width}" height="{small.height}"'
        return f'<div class="frame"><img src="{small.uri}" {size} alt="{text(name)}"></div>'
    reason = "not on this disk" if missing else small.problem
    return f'<div class="frame none">{text(reason)}</div>'


def text_frame(words: str, marks: Sequence[tuple[int, int]] = ()) -> str:
    """Show a text, cut if it is long, but behind its last mark."""
    return f'<blockquote class="frame">{marked(words, marks)}</blockquote>'


def marked(words: str, marks: Sequence[tuple[int, int]] = ()) -> str:
    """Write foreign words with places of them marked, cut if they are long, but behind the last mark."""
    shown = max([_WORDS_SHOWN, *(end for _, end in marks)])
    parts, at = [], 0
    for start, end in sorted(marks):
        if max(start, at) < end:
            parts.append(f"{text(words[at : max(start, at)])}<mark>{text(words[max(start, at) : end])}</mark>")
            at = end
    rest = words[at:] if len(words) <= shown else f"{words[at:shown].rstrip()} …"
    return "".join([*parts, text(rest)])


def score_list(parts: Mapping[str, float]) -> str:
    """List scores by name."""
    rows = "".join(f"<div><dt>{text(name)}</dt><dd>{value:.3f}</dd></div>" for name, value in parts.items())
    return f"\n<dl>{rows}</dl>" if rows else ""


def file_link(path: Path, uri: str) -> str:
    """Write a path so that a click opens the file, where there is one."""
    folder, slash, name = uri.rpartition("/")
    shown = f"{text(folder + slash)}<b>{text(name)}</b>"
    return f'<a href="{text(path.as_uri())}">{shown}</a>' if os.path.exists(path) else shown
