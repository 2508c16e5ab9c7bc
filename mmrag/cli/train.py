"""train: pairs → a better model."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmrag.cli.model import TextKeyOption, recall_line
from mmrag.cli.options import Device, DeviceOption, JsonOption, Precision, QuietOption, print_json

if TYPE_CHECKING:
    from mmrag.train import TrainReport


def register(app: typer.Typer) -> None:
    """Add this file's command."""
    app.command(epilog="Example:  mmrag train pairs-*.tar --recipe clip --val val.tar --out ./my-model")(train)


def train(
    out: Annotated[Path, typer.Option(metavar="DIR", help="The model folder to write.")],
    pairs: Annotated[
        list[Path] | None, typer.Argument(help="Pictures with texts: .tar (webdataset), .jsonl, .csv, .parquet, …")
    ] = None,
    recipe: Annotated[
        str, typer.Option(metavar="NAME", help="How: clip, siglip, lit, lora, blip, …, or the path of a .toml.")
    ] = "builtin",
    val: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Pairs that decide which epoch is kept; else the last. Repeatable."),
    ] = None,
    start: Annotated[
        str | None, typer.Option(metavar="NAME", help="The model to begin with; by default the recipe's.")
    ] = None,
    text_key: TextKeyOption = None,
    epochs: Annotated[int | None, typer.Option(help="How often each picture is seen.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pairs per step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Highest rate of the optimizer.")] = None,
    precision: Annotated[Precision | None, typer.Option(help="What networks compute in.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe: loop.average=0.99. Repeatable."),
    ] = None,
    device: DeviceOption = Device.auto,
    resume: Annotated[bool, typer.Option(help="Go on with the run in --out, where it stopped.")] = False,
    tensorboard: Annotated[bool, typer.Option(help="Write DIR/tensorboard too.")] = False,
    plot: Annotated[bool, typer.Option(help="Train nothing; draw the run in --out, also while it runs.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a model on your own pairs.

    Writes a folder for `mmrag index --model DIR`, with a log in log.jsonl and a plot in training.html.
    Ctrl-C saves; the same command with --resume goes on. Needs: pip install 'mmrag[train]'
    """
    from mmrag.errors import InputError, MissingExtraError

    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("torch", "train") from error
    if plot:
        _plot(out)
        return
    if not pairs:
        raise InputError("there is nothing to train on: name files of pairs, such as pairs-*.tar")
    given = {
        "start": start,
        "data.text_key": text_key,
        "loop.epochs": epochs,
        "data.batch_size": batch_size,
        "optimizer.learning_rate": learning_rate,
        "loop.precision": precision and precision.value,
    }
    chosen = {key: value for key, value in given.items() if value is not None} | _changes(changes or [])
    first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun starts
    report = _train(
        pairs,
        out,
        val,
        recipe,
        chosen,
        device,
        resume=resume,
        tensorboard=tensorboard,
        quiet=quiet or as_json or not first,
    )
    if first:
        _tell(report, out, as_json=as_json)


def _changes(written: list[str]) -> dict[str, Any]:
    from mmrag.train.recipe import read_change

    return dict(map(read_change, written))


def _plot(out: Path) -> None:
    from mmrag.train.plot import write_plots

    for path in write_plots(out):
        typer.echo(path)


def _train(
    pairs: list[Path],
    out: Path,
    val: list[Path] | None,
    recipe: str,
    chosen: dict[str, Any],
    device: Device,
    *,
    resume: bool,
    tensorboard: bool,
    quiet: bool,
) -> TrainReport:
    from mmrag.cli.live import live_table
    from mmrag.errors import Interrupted
    from mmrag.sources.pairs import open_pairs
    from mmrag.train import fit, load_recipe
    from mmrag.train.log import Entry
    from mmrag.train.log import tensorboard as tensorboard_reporter
    from mmrag.train.tasks import open_task

    how = load_recipe(recipe, changes=chosen)
    learnt = open_pairs(pairs, text_key=how.data.text_key)
    held_out = open_pairs(val, text_key=how.data.text_key) if val else None
    task = open_task(how.task, start=how.start, settings=how.settings, where=f"{recipe}: settings")
    with ExitStack() as stack:
        reporters = [stack.enter_context(live_table())] if not quiet else []
        if tensorboard:
            reporters.append(tensorboard_reporter(out / "tensorboard"))

        def report(entry: Entry) -> None:
            for one in reporters:
                one(entry)

        try:
            return fit(
                task, learnt, val=held_out, out=out, recipe=how, device=_best(device), resume=resume, reporter=report
            )
        except KeyboardInterrupt as error:  # the second one, or before the first step
            raise Interrupted(f"ended at once; --resume goes on from the last checkpoint in {str(out)!r}") from error


def _best(device: Device) -> str:
    import torch

    if device is not Device.auto:
        return device.value
    return "cuda" if torch.cuda.is_available() else "cpu"


def _tell(report: TrainReport, out: Path, *, as_json: bool) -> None:
    if as_json:
        facts = {"epoch": report.epoch, "epochs": report.epochs, "steps": report.steps}
        figures = {"start": report.start_figures, "figures": report.figures, "skipped": report.skipped}
        print_json({"model": str(out), **facts, "seconds": round(report.seconds, 1), **figures})
        return
    for reason, count in report.skipped.items():
        typer.echo(f"{count:,} skipped: {reason}", err=True)
    typer.echo(f"epoch {report.epoch} of {report.epochs}, {report.seconds:,.0f} s → {out}")
    if report.figures and not report.epoch:
        typer.echo("no epoch was better than the start, which is what was kept", err=True)
    _tell_figures("start", report.start_figures)
    _tell_figures("kept", report.figures)


def _tell_figures(name: str, figures: dict[str, Any]) -> None:
    from mmrag.train.log import flat_numbers

    directions = [direction for direction in ("text_to_image", "image_to_text") if direction in figures]
    for direction in directions:
        typer.echo(f"{name:<6} {recall_line(direction, figures[direction])}")
    if figures and not directions:
        typer.echo(f"{name:<6} " + "  ".join(f"{key} {value:.4g}" for key, value in flat_numbers(figures).items()))
