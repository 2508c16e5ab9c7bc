"""What was kept and dropped of pictures' texts, as a page with examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmrag.report.page import page, text, write_page
from mmrag.report.parts import file_link, picture_frame
from mmrag.report.thumbnails import Thumbnail, thumbnails

MOST_EXAMPLES = 60
"""Of pictures with a text that was dropped, and as many of others."""

_MOST_FAILURES = 200


@dataclass(frozen=True)
class Example:
    """A picture and its texts.

    Attributes
    ----------
    path : path
        Where it lies.
    name : str
        What it is called in the page.
    texts : tuple of (text, note, kept)
        With where each is from and how probable it is, and whether it was kept.
    dropped : float or None
        The probability of the least probable text that was dropped.
    """

    path: Path
    name: str
    texts: tuple[tuple[str, str, bool], ...]
    dropped: float | None


def write_bootstrap_page(
    path: Path, title: str, counts: str, examples: Sequence[Example], failed: Mapping[str, str]
) -> None:
    """Write a self-contained page: examples of pictures with and without dropped texts, and what could not be read.

    Of each kind at most `MOST_EXAMPLES` are shown: of the dropped ones evenly from the least probable to the nearly
    kept, of the others evenly from first to last.

    Raises
    ------
    InputError
        If it cannot be written there.
    """
    ranked = sorted((one for one in examples if one.dropped is not None), key=lambda one: one.dropped or 0.0)
    others = [one for one in examples if one.dropped is None]
    sections = (
        _section("With texts that were dropped", ranked),
        _section("With all texts kept", others),
        _failures(failed),
    )
    head = f"<header><div><h1>{text(title)}</h1><p>{text(counts)}</p></div></header>"
    write_page(path, page(f"{title} – mmrag", f"{head}\n<main>\n{''.join(sections)}</main>"))


def _section(title: str, examples: Sequence[Example]) -> str:
    if not examples:
        return ""
    shown = _spread(examples)
    small = thumbnails([one.path for one in shown])
    cards = "\n".join(_card(one, thumbnail) for one, thumbnail in zip(shown, small, strict=True))
    return f"<h2>{text(title)}</h2><p>{len(shown):,} of {len(examples):,} pictures</p>\n<ol>\n{cards}\n</ol>\n"


def _spread(examples: Sequence[Example]) -> list[Example]:
    count = min(len(examples), MOST_EXAMPLES)
    return [examples[number * len(examples) // count] for number in range(count)]


def _card(one: Example, small: Thumbnail) -> str:
    lines = "".join(
        f'<p class="words{"" if kept else " dropped"}">{text(words)} <span class="note">{text(note)}</span></p>'
        for words, note, kept in one.texts
    )
    frame = picture_frame(small, one.path.name, missing=not one.path.exists())
    return f'<li><article>{frame}\n<p class="path">{file_link(one.path, one.name)}</p>{lines}</article></li>'


def _failures(failed: Mapping[str, str]) -> str:
    if not failed:
        return ""
    rows = [f"<li>{text(name)}: {text(reason)}</li>" for name, reason in failed.items()][:_MOST_FAILURES]
    return f"<h2>Not readable</h2><p>{len(rows):,} of {len(failed):,}</p><ul>{''.join(rows)}</ul>\n"
