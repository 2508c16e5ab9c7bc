"""Options and ways of printing that several commands share."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from mmrag.index import Index
    from mmrag.ingest.write import Progress
    from mmrag.types import Failure, Item

_FAILURES_SHOWN = 10
_JOINERS = "\u200c\u200d"  # scripts and emoji are written with them

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


RemoteOption = Annotated[
    bool,
    typer.Option(
        "--allow-remote", help="Open connections: read what is behind s3://, gs:// and https://. Nothing is sent there."
    ),
]


class PanelledCommand(TyperCommand):
    """A command whose help has a section for each `rich_help_panel`, as rich would print it, without importing rich."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options, section by section."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(parameter, "rich_help_panel", None) or "Options", []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


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
    Device,
    typer.Option(help="Where torch computes: auto takes a GPU where there is one. ONNX models compute on the CPU."),
]
PrecisionOption = Annotated[
    Precision | None,
    typer.Option(help="What pictures are encoded in; by default the fastest that gives the same vectors."),
]
MovedModelOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Where the index's model is now, if it has moved.")
]
ModelOption = Annotated[
    str, typer.Option(metavar="NAME", help="A name that `mmrag models` lists, a model folder, or FAMILY:NAME.")
]


def open_corpus(
    index_dir: Path | None, model: str | None = None, precision: str | None = None, device: str = "auto"
) -> Index:
    """Open the index that --index names, and no other; without it, the nearest one upwards."""
    from mmrag.home import open_index

    return open_index(index_dir or ".", model=model, precision=precision, device=device, upwards=index_dir is None)


def print_json(data: Any) -> None:
    """Print one JSON object on one line, in which a terminal finds nothing to obey."""
    text = json.dumps(data, ensure_ascii=False)
    typer.echo(text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text))


def printable(text: str) -> str:
    """Show control characters and changes of direction instead of sending them to the terminal."""
    return "".join(c if c.isprintable() or c in _JOINERS else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """Make each line of a text `printable`."""
    return "\n".join(map(printable, text.split("\n")))


def tell_error(error: Exception) -> None:
    """Say on stderr what went wrong."""
    typer.echo(f"mmrag: {printable_lines(str(error))}", err=True)


def tell_failures(failures: Sequence[Failure]) -> None:
    """Name the first of what could not be read, on stderr."""
    for failure in failures[:_FAILURES_SHOWN]:
        typer.echo(failure_line(failure), err=True)
    if len(failures) > _FAILURES_SHOWN:
        typer.echo(f"… and {len(failures) - _FAILURES_SHOWN:,} more; mmrag info --failed lists them all", err=True)


def failure_line(failure: Failure) -> str:
    """Say on one line what could not be read, and why."""
    from mmrag.sources.uri import shown_name

    return f"failed  {printable(shown_name(failure.uri, failure.part))}: {printable(failure.reason)}"


def tuning_line(facts: dict[str, Any]) -> str:
    """Say how hard the view of an index looks, and what it was measured to find."""
    view, tuning = facts["view"], facts["tuning"]
    effort = [f"rescore_factor {view['rescore_factor']:g}"] if view["rescore"] else []
    if view["factory"].startswith("IVF"):
        effort.append(f"nprobe {view['nprobe']}")
    if view["factory"].startswith("HNSW"):
        effort.append(f"efSearch {view['ef_search']}")
    if tuning is None:
        return f"{', '.join(effort)}; not tuned: mmrag tune"
    return (
        f"{', '.join(effort)}: {100 * tuning['recall']:.1f} % of the ten best found, "
        f"target {100 * view['target']:g} %, by {counted(tuning['queries'], 'query', 'queries')} ({tuning['source']}) "
        f"over {tuning['rows']:,} items"
    )


def counted(number: int, one: str, many: str) -> str:
    """Say how many there are, of what is called so."""
    return f"{number:,} {one if number == 1 else many}"


def shown_path(path: Path) -> str:
    """Write a path relative to the current folder if it is inside, absolute otherwise."""
    here = Path(os.path.realpath("."))
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def shown_place(item: Item, home: Path) -> str:
    """Say where an item is, from the current folder; of a part of a file, where in it. A click opens it."""
    from mmrag.stores.records import place_of

    path = home / item.uri
    if not path.exists():
        return printable(place_of(item))
    name = printable(place_of(dataclasses.replace(item, uri=shown_path(path))))
    return f"\x1b]8;;{path.as_uri()}\x1b\\{name}\x1b]8;;\x1b\\" if sys.stdout.isatty() else name


def switch_network_off() -> None:
    """Forbid this process every look-up in a hub; to be called before anything of a hub's is imported."""
    os.environ["HF_HUB_OFFLINE"] = "1"


@contextmanager
def progress_bar(label: str, *, quiet: bool, unit: Literal["items", "bytes"] = "items") -> Iterator[Progress | None]:
    """Show done/total, rate and time left on stderr, if that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:,.1f}/s")

    counts = (MofNCompleteColumn(), Rate()) if unit == "items" else (DownloadColumn(), TransferSpeedColumn())
    columns = (TextColumn(label), BarColumn(), *counts, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)
