"""bootstrap: pictures without words → pairs to train on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmrag.cli.model import TextKeyOption
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
    from mmrag.bootstrap import BootstrapReport


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(epilog="Example:  mmrag bootstrap ./images --out pairs/  &&  mmrag train pairs/ --out ./my-model")(
        bootstrap
    )


def bootstrap(
    folders: Annotated[list[Path], typer.Argument(help="Folders of pictures.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write; a run that was stopped goes on.")],
    caption: Annotated[str, typer.Option(metavar="NAME", help="The model that describes.")] = "builtin",
    judge: Annotated[str, typer.Option(metavar="NAME", help="The model that keeps what it believes.")] = "builtin",
    threshold: Annotated[float, typer.Option(help="Least probability of what is kept; cheap to change later.")] = 0.5,
    captions: Annotated[int, typer.Option(metavar="N", help="How many are written for each picture.")] = 1,
    nucleus: Annotated[
        float, typer.Option(metavar="P", help="Sample from the likeliest tokens that sum up to this probability.")
    ] = 0.9,
    beams: Annotated[
        int | None, typer.Option(metavar="N", help="Beam search instead of sampling: one plain caption.")
    ] = None,
    prompt: Annotated[str, typer.Option(help="What each caption begins with.")] = "",
    seed: Annotated[int, typer.Option(help="Decides what is sampled.")] = 0,
    pairs: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Pictures with texts of people's, which are judged too. Repeatable."),
    ] = None,
    text_key: TextKeyOption = None,
    keep_human: Annotated[bool, typer.Option("--keep-human", help="Keep all texts of --pairs.")] = False,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Leave out, by name or by path below the folder. Repeatable."),
    ] = None,
    precision: Annotated[Precision | None, typer.Option(help="What both models compute in.")] = None,
    device: DeviceOption = Device.auto,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make pairs of pictures: describe them, and keep what a second look believes (BLIP's CapFilt).

    Writes pairs.jsonl, which `mmrag train` takes, dropped.jsonl with the reasons, and report.html with examples.
    Ctrl-C keeps what was done; the same command goes on.
    """
    from mmrag.bootstrap import Writing
    from mmrag.bootstrap import bootstrap as make_pairs

    chosen = Writing(
        captions, nucleus if beams is None else None, Writing.beams if beams is None else beams, prompt, seed
    )
    with progress_bar("describing", quiet=quiet) as progress:
        report = make_pairs(
            folders,
            out=out,
            caption=caption,
            judge=judge,
            writing=chosen,
            threshold=threshold,
            pairs=pairs or (),
            text_key=text_key,
            keep_human=keep_human,
            exclude=exclude or (),
            precision=precision,
            device=device,
            progress=progress,
        )
    _tell(report, as_json=as_json)


def _tell(report: BootstrapReport, *, as_json: bool) -> None:
    for name, reason in report.failed.items():
        typer.echo(f"failed  {printable(name)}: {reason}", err=True)
    if as_json:
        print_json(report.as_dict())
        return
    origins = " · ".join(
        f"{origin}: {report.kept[origin]:,} kept, {report.dropped[origin]:,} dropped"
        for origin in sorted({*report.kept, *report.dropped})
    )
    typer.echo(f"{report.pairs:,} pairs of {report.pictures:,} pictures · {origins} · {len(report.failed):,} failed")
    typer.echo(f"{report.out / 'pairs.jsonl'}  (examples: {report.out / 'report.html'})")
