"""caption, vqa: a picture → a sentence about it, or an answer to a question."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmrag.cli.options import (
    Device,
    DeviceOption,
    JsonOption,
    Precision,
    QuietOption,
    print_json,
    printable,
    progress_bar,
)

if TYPE_CHECKING:
    from mmrag.compose.describe import Description

_PrecisionOption = Annotated[Precision | None, typer.Option(help="What the model computes in.")]


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(epilog="Example:  mmrag caption ./images    mmrag caption x.jpg --model blip-caption-base")(caption)
    app.command(epilog='Example:  mmrag vqa x.jpg "how many dogs?"')(vqa)


def caption(
    paths: Annotated[list[Path], typer.Argument(help="Pictures, or folders of them.")],
    model: Annotated[
        str, typer.Option(metavar="NAME", help="A generator that `mmrag models` lists, a model folder, or FAMILY:NAME.")
    ] = "builtin",
    prompt: Annotated[str, typer.Option(metavar="WORDS", help="What each caption begins with.")] = "",
    max_tokens: Annotated[int, typer.Option(help="How many tokens a caption has at most.")] = 30,
    nucleus: Annotated[
        float | None,
        typer.Option(help="Sample from the likeliest tokens that sum up to this, such as 0.9, instead of beam search."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Decides what is sampled.")] = None,
    precision: _PrecisionOption = None,
    device: DeviceOption = Device.auto,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Describe pictures, a line each: its path, and a sentence.

    What cannot be read is told on stderr, the others go on, and the exit code is 1.
    """
    from mmrag.compose.describe import Writing, caption_files
    from mmrag.models.registry import load_generator

    writing = Writing(prompt=prompt, nucleus=nucleus, max_tokens=max_tokens, seed=seed)
    generator = load_generator(model, precision=precision, device=device)
    with progress_bar("describing", quiet=quiet) as progress:
        failed = _tell_all(caption_files(paths, generator, writing, progress=progress), as_json=as_json)
    if failed:
        typer.echo(f"{failed:,} could not be described", err=True)
        raise typer.Exit(1)


def vqa(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A picture.")],
    question: Annotated[str, typer.Argument(help="What to ask about it.")],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A generator that answers, as for caption; by default one that is here, such as blip-vqa-base.",
        ),
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="How many tokens the answer has at most.")] = 10,
    precision: _PrecisionOption = None,
    device: DeviceOption = Device.auto,
    as_json: JsonOption = False,
) -> None:
    """Answer a question about a picture."""
    from mmrag.compose.describe import answer_about, answering_model
    from mmrag.models.registry import load_generator

    name = model or answering_model()
    generator = load_generator(name, precision=precision, device=device)
    answer = answer_about(path, question, generator, max_tokens=max_tokens)
    if as_json:
        print_json({"path": str(path), "question": question, "answer": answer, "model": generator.card.name})
    else:
        typer.echo(printable(answer))


def _tell_all(described: Iterator[Description], *, as_json: bool) -> int:
    """Tell of each picture as it comes; gives how many failed."""
    from mmrag.errors import Interrupted

    done = failed = 0
    try:
        for one in described:
            _tell(one, as_json=as_json)
            done, failed = done + 1, failed + (one.failure is not None)
    except KeyboardInterrupt as error:
        raise Interrupted(f"stopped; {done:,} pictures are described") from error
    return failed


def _tell(one: Description, *, as_json: bool) -> None:
    if as_json:
        print_json(dataclasses.asdict(one))
    elif one.failure is not None:
        typer.echo(f"failed  {printable(one.path)}: {printable(one.failure)}", err=True)
    else:
        typer.echo(f"{printable(one.path)}  {printable(one.caption)}")
