"""Options and ways of printing that several commands share."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mmrag.index import Index
    from mmrag.ingest.write import Progress

IndexOption = Annotated[
    Path | None,
    typer.Option(
        "--index",
        envvar="MMRAG_INDEX",
        metavar="DIR",
        help="Folder that holds the index (.mmrag); by default the nearest one upwards.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]


class Precision(StrEnum):
    """What networks can compute in."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"
    int8 = "int8"


class Device(StrEnum):
    """Where networks can compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


DeviceOption = Annotated[
    Device, typer.Option(help="Where networks compute, if torch runs them: auto takes a GPU where there is one.")
]


def open_corpus(
    index_dir: Path | None, model: str | None = None, precision: str | None = None, device: str = "auto"
) -> Index:
    """Open the index that --index names, and no other; without it, the nearest one upwards."""
    from mmrag.index import open_index

    return open_index(index_dir or ".", model=model, precision=precision, device=device, upwards=index_dir is None)


def print_json(data: Any) -> None:
    """Print one JSON object on one line."""
    typer.echo(json.dumps(data, ensure_ascii=False))


def printable(text: str) -> str:
    """Show control characters instead of sending them to the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown_path(path: Path) -> str:
    """Write a path relative to the current folder if it is inside, absolute otherwise."""
    here = Path(os.path.realpath("."))
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


@contextmanager
def progress_bar(label: str, *, quiet: bool) -> Iterator[Progress | None]:
    """Show done/total, rate and time left on stderr, if that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:,.1f}/s")

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)
