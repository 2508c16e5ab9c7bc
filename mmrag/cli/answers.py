"""Answers in the terminal: the text as it is written, and then what it rests on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mmrag.cli.options import counted, print_json, printable, printable_lines, shown_place

if TYPE_CHECKING:
    from types import FrameType

    from mmrag.compose.answer import Answer, Event, Evidence, Placement, Source, Step

_WORDS_SHOWN = 90
_STEPS_SHOWN = ("rewrite", "caption", "retrieve")
_DOUBT = " (?)"


class Stop(threading.Event):
    """Set by the first Ctrl-C that comes while it listens; the second one is what it always was."""

    def listen(self) -> None:
        """Take the next Ctrl-C as the wish that the writing ends."""
        before = signal.getsignal(signal.SIGINT)

        def heard(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
            self.set()
            signal.signal(signal.SIGINT, before)

        signal.signal(signal.SIGINT, heard)


@contextmanager
def stopping() -> Iterator[Stop]:
    """Give what Ctrl-C may set, and let Ctrl-C be afterwards what it was before."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield Stop()
    finally:
        signal.signal(signal.SIGINT, before)


def print_events(
    events: Iterable[Event], stop: Stop | None = None, *, home: Path, as_json: bool, show_all: bool, quiet: bool
) -> Answer:
    """Print an answer while it is made, and then its sources.

    A sentence that rests on nothing that was found is followed by "(?)", if its `Checked` comes before the text
    behind it does; the line at the end tells how many there are in any case.

    Parameters
    ----------
    events : iterable of Event
        As `mmrag.ask` streams them; `Done` is the last.
    stop : Stop or None
        What ends the writing: it listens from when sources are found on. Before, there is nothing that Ctrl-C should
        keep.
    home : path
        The folder that the sources' uris are relative to: `Index.home`.
    as_json : bool
        Whether to print nothing but one JSON object, when it is done.
    show_all : bool
        Whether to list sources that are not cited, too.
    quiet : bool
        Whether to say nothing of steps on stderr.

    Raises
    ------
    GenerationError
        If the events end without an answer.
    """
    printer = _Printer(stop, silent=as_json, quiet=quiet)
    answer = printer.print_all(events)
    if as_json:
        from mmrag.compose.record import record

        print_json(record(answer))
    else:
        printer.end(answer)
        print_sources(answer, home=home, show_all=show_all)
    return answer


def print_sources(answer: Answer, *, home: Path, show_all: bool) -> None:
    """List the sources of an answer that it cites, or all of them, and the pictures that were set into it."""
    shown = answer.sources if show_all else answer.citations
    if shown or answer.placements:
        typer.echo()
    for source in shown:
        typer.echo(_source_line(source, home))
    for placement in answer.placements:
        typer.echo(_placement_line(placement, home))
    if answer.sources and not (shown or answer.refused):
        found = counted(len(answer.sources), "source", "sources")
        typer.echo(f"mmrag: the answer cites none of the {found} that it was given", err=True)


class _Printer:
    """Prints events as they come, and remembers what it has printed."""

    def __init__(self, stop: Stop | None, *, silent: bool, quiet: bool) -> None:
        self._stop = stop
        self._silent, self._quiet = silent, quiet or silent
        self._written = ""
        self._marks = 0

    def print_all(self, events: Iterable[Event]) -> Answer:
        """Print events until the answer is done."""
        from mmrag.compose.answer import Checked, Done, Found, Step, Wrote
        from mmrag.errors import GenerationError

        for event in events:
            match event:
                case Found():
                    self._listen()
                case Wrote():
                    self._write(event.text)
                case Checked():
                    self._check(event.evidence)
                case Step():
                    self._tell(event)
                case Done():
                    return event.answer
        raise GenerationError("the writing ended without an answer; ask again")

    def end(self, answer: Answer) -> None:
        """End the line, and say what the marks mean."""
        if not self._written:
            self._write(answer.text)
        typer.echo()
        doubtful = [one for one in answer.evidence if one.supported is False]
        if doubtful:
            typer.echo(_doubt_line(doubtful, marked=self._marks), err=True)
        if answer.end == "length":
            typer.echo("mmrag: the answer ends here because it may not be longer: --max-tokens", err=True)

    def _listen(self) -> None:
        """Listen from now on; sources may be found again."""
        if self._stop:
            self._stop.listen()
            self._stop = None

    def _write(self, text: str) -> None:
        self._written += text
        if not self._silent:
            typer.echo(printable_lines(text), nl=False)

    def _check(self, evidence: Evidence) -> None:
        is_last = not self._written[evidence.span[1] :].strip()
        if evidence.supported is False and is_last and not self._silent:
            typer.echo(_DOUBT, nl=False)
            self._marks += 1

    def _tell(self, step: Step) -> None:
        if step.kind in _STEPS_SHOWN and not self._quiet:
            typer.echo(f"{step.kind}: {printable(step.detail)}", err=True)


def _doubt_line(doubtful: Sequence[Evidence], *, marked: int) -> str:
    said = counted(len(doubtful), "sentence rests", "sentences rest")
    if marked == len(doubtful):
        return f"mmrag: {said} on nothing that was found:{_DOUBT}"
    quoted = "; ".join(f'"{printable(one.sentence)}"' for one in doubtful)
    return f"mmrag: {said} on nothing that was found: {quoted}"


def _source_line(source: Source, home: Path) -> str:
    """Say where a source is, and how it begins; a place that ends with its headings has said these."""
    from mmrag.stores.records import place_of

    headings, _, rest = source.text.partition("\n")
    words = _one_line(rest if rest and place_of(source.item).endswith(headings) else source.text)
    return f"[{source.number}] {shown_place(source.item, home)}" + (f" — {words}" if words else "")


def _placement_line(placement: Placement, home: Path) -> str:
    caption = _one_line(placement.caption)
    chance = f"{placement.probability:.2f}".replace("0.", ".", 1)
    return f"picture {shown_place(placement.item, home)} (p {chance})" + (f" — {caption}" if caption else "")


def _one_line(text: str) -> str:
    words = " ".join(text.split())
    return printable(words if len(words) <= _WORDS_SHOWN else f"{words[:_WORDS_SHOWN].rstrip()} …")
