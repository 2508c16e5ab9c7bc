"""eval and train: how good a model is, and making a better one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mmrag.cli.options import Device, DeviceOption, JsonOption, Precision, QuietOption, print_json, progress_bar

TextKeyOption = Annotated[
    str | None,
    typer.Option(help="Key of the texts; by default the first of texts, text, captions, caption, en."),
]

_TOPS = "0,16,32,64,128"


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command("eval", epilog="Example:  mmrag eval pairs.tar --model builtin --json")(evaluate)
    app.command(epilog="Example:  mmrag train pairs-*.tar --val val.tar --out ./my-model")(train)


def evaluate(
    pairs: Annotated[
        list[Path],
        typer.Argument(
            help="Pictures with texts: webdataset's .tar, .jsonl, .csv, .parquet, COCO .json, Karpathy (x.json#val), a "
            "folder with captions beside its pictures, or of `datasets`."
        ),
    ],
    model: Annotated[
        str, typer.Option(metavar="NAME", help="A name that `mmrag models` lists, a model folder, or FAMILY:NAME.")
    ] = "builtin",
    rerank: Annotated[
        str | None, typer.Option(metavar="NAME", help="Judge the best candidates again with this model.")
    ] = None,
    top: Annotated[
        str | None,
        typer.Option(
            metavar="K,K,…",
            help="How many it judges, of each text and of each picture.",
            show_default=_TOPS,
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="The first N pairs only.")] = None,
    precision: Annotated[
        Precision | None, typer.Option(help="What pictures are encoded in; with --rerank, what it judges in.")
    ] = None,
    device: DeviceOption = Device.auto,
    text_key: TextKeyOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure a model on pairs.

    Tells how often the right picture, or text, is among the first 1, 5, 10.
    """
    from mmrag.errors import InputError
    from mmrag.evaluate import evaluate_pairs
    from mmrag.models.registry import absolute_name, load_encoder, load_matcher
    from mmrag.roles import Encoder

    if top is not None and not rerank:
        raise InputError("--top says how many candidates a model judges again; name one: --rerank NAME")
    tops = _numbers(top or _TOPS)
    matcher = load_matcher(rerank, precision=precision, device=device) if rerank else None
    if rerank and isinstance(matcher, Encoder) and absolute_name(rerank) == absolute_name(model):
        encoder: Encoder = matcher
    else:
        encoder = load_encoder(model, precision=None if rerank else precision, device=device)
    with progress_bar("evaluating", quiet=quiet) as progress:
        report = evaluate_pairs(
            pairs, model=encoder, rerank=matcher, tops=tops, limit=limit, text_key=text_key, progress=progress
        )
    if as_json:
        print_json(report)
        return
    typer.echo(f"{report['model']}: {report['n_images']:,} pictures, {report['n_texts']:,} texts")
    for direction in ("text_to_image", "image_to_text"):
        typer.echo(_line(direction, report[direction]))
        for one in report["rerank"]["at"] if matcher else ():
            typer.echo(_line(f"  top {one['top']}", one[direction]))
    if matcher:
        typer.echo(f"{matcher.card.name} judged {report['rerank']['pairs']:,} pairs")


def _numbers(listed: str) -> list[int]:
    from mmrag.errors import InputError

    try:
        return [int(number) for number in listed.split(",")]
    except ValueError as error:
        raise InputError(f"--top takes whole numbers and commas, such as 0,16,128, not {listed!r}") from error


def train(
    pairs: Annotated[list[Path], typer.Argument(help="Pictures with texts: .tar (webdataset) or .jsonl.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The model folder to write.")],
    val: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Pairs that decide which epoch is kept; else the last. Repeatable."),
    ] = None,
    start: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="'builtin', a model folder, or 'packages': pretrained towers, untrained head."
        ),
    ] = "builtin",
    text_key: TextKeyOption = None,
    epochs: Annotated[int | None, typer.Option(help="How often each picture is seen.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pairs per step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Highest rate of the head.")] = None,
    tower_learning_rate: Annotated[float | None, typer.Option(help="Highest rate of the towers.")] = None,
    frozen_stages: Annotated[
        int | None, typer.Option(help="Stages of the image tower that stay as they are; 9 trains the head alone.")
    ] = None,
    train_text: Annotated[
        bool | None, typer.Option("--train-text/--freeze-text", help="Train the text tower too.", show_default="freeze")
    ] = None,
    augment: Annotated[bool, typer.Option(help="Crop, flip and colour the pictures at random.")] = True,
    seed: Annotated[int | None, typer.Option(help="Decides everything that is random.")] = None,
    device: Annotated[str, typer.Option(help="As torch names it: cpu, cuda, mps.")] = "cpu",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a model on your own pairs.

    Writes a folder for `mmrag index --model DIR`, with a log of every epoch in log.jsonl.
    Ctrl-C stops early and keeps the best epoch so far. Needs: pip install 'mmrag[train]'
    """
    from mmrag.errors import MissingExtraError

    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("torch", "train") from error
    from mmrag.train import TrainRecipe
    from mmrag.train.folder import train_folder

    given = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "tower_learning_rate": tower_learning_rate,
        "frozen_stages": frozen_stages,
        "train_text": train_text,
        "seed": seed,
    }
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if not augment:
        chosen["augmentation"] = None
    with progress_bar("training", quiet=quiet or as_json) as progress:
        card, report = train_folder(
            pairs,
            out=out,
            val=val or (),
            start=start,
            recipe=TrainRecipe(**chosen),
            text_key=text_key,
            device=device,
            progress=progress,
        )
    if as_json:
        print_json({"model": str(out), "epoch": report.epoch, "seconds": round(report.seconds, 1), **report.figures})
        return
    if report.interrupted:
        typer.echo("stopped early; the best epoch so far is kept", err=True)
    typer.echo(f"{card.name}, revision {card.revision}: epoch {report.epoch}, {report.seconds:,.0f} s → {out}")
    for direction in ("text_to_image", "image_to_text"):
        if direction in report.figures:
            typer.echo(_line(direction, report.figures[direction]))


def _line(direction: str, figures: dict[str, Any]) -> str:
    recall = "  ".join(f"{name} {value:5.1f} %" for name, value in figures.items() if name.startswith("R@"))
    return f"{direction.replace('_', ' '):<14} {recall}  median rank {figures['median_rank']:g}"
