"""Plain text → paragraphs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mmrag.sources.text.block import Block


def paragraphs(lines: Sequence[str], *, headings: tuple[str, ...] = (), first_line: int = 1) -> Iterator[Block]:
    """Divide lines at those that are blank.

    Parameters
    ----------
    lines : sequence of str
        Without their ends.
    headings : tuple of str
        What they stand under.
    first_line : int
        The number of the first one in the file.
    """
    started = None
    for number, line in enumerate([*lines, ""]):
        if line.strip():
            started = number if started is None else started
        elif started is not None:
            text = "\n".join(one.rstrip() for one in lines[started:number])
            yield Block(text, headings, first_line + started, first_line + number - 1)
            started = None
