"""eval: how good a model is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mmrag.cli.options import (
    Device,
    DeviceOption,
    JsonOption,
    ModelOption,
    Precision,
    QuietOption,
    print_json,
    progress_bar,
)

TextKeyOption = Annotated[
    str | None,
    typer.Option(help="Key of the texts; by default the first of texts, text, captions, caption, en."),
]

_TOPS = "0,16,32,64,128"


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command("eval", epilog="Example:  mmrag eval pairs.tar --model builtin --json")(evaluate)


def evaluate(
    pairs: Annotated[
        list[Path],
        typer.Argument(
            help="Pictures with texts: .tar (webdataset), .jsonl, .csv, .parquet, COCO's .json, Karpathy's "
            "(x.json#test), a folder with captions beside its pictures, or of `datasets`."
        ),
    ],
    model: ModelOption = "builtin",
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
    captions: Annotated[
        bool, typer.Option("--captions", help="Measure how well it describes: BLEU and CIDEr, with ten examples.")
    ] = False,
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

    Tells how often the right picture, or text, is among the first 1, 5, 10; with --captions, how near its captions
    are to the texts.
    """
    from mmrag.errors import InputError
    from mmrag.evaluate import evaluate_pairs
    from mmrag.models.registry import absolute_name, load_encoder, load_matcher
    from mmrag.roles import Encoder

    if captions:
        if rerank or top is not None:
            raise InputError(
                "--captions measures how a model describes, and nothing is judged; leave out --rerank, --top"
            )
        _evaluate_captions(pairs, model, limit, precision, device, text_key, as_json=as_json, quiet=quiet)
        return
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
        typer.echo(recall_line(direction, report[direction]))
        for one in report["rerank"]["at"] if matcher else ():
            typer.echo(recall_line(f"  top {one['top']}", one[direction]))
    if matcher:
        typer.echo(f"{matcher.card.name} judged {report['rerank']['pairs']:,} pairs")


def _evaluate_captions(
    pairs: list[Path],
    model: str,
    limit: int | None,
    precision: Precision | None,
    device: Device,
    text_key: str | None,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    from mmrag.evaluate import evaluate_captions
    from mmrag.models.registry import load_generator

    generator = load_generator(model, precision=precision, device=device)
    with progress_bar("describing", quiet=quiet) as progress:
        report = evaluate_captions(pairs, model=generator, limit=limit, text_key=text_key, progress=progress)
    if as_json:
        print_json(report)
        return
    typer.echo(f"{report['model']}: {report['n_images']:,} pictures, {report['n_texts']:,} texts")
    figures = {name: value for name, value in report.items() if name.startswith("BLEU") or name == "CIDEr"}
    typer.echo("  ".join(f"{name} {value:.1f}" for name, value in figures.items()))
    for example in report["examples"]:
        typer.echo(f"  {example['id']}: {example['caption']}")


def _numbers(listed: str) -> list[int]:
    from mmrag.errors import InputError

    try:
        return [int(number) for number in listed.split(",")]
    except ValueError as error:
        raise InputError(f"--top takes whole numbers and commas, such as 0,16,128, not {listed!r}") from error


def recall_line(direction: str, figures: dict[str, Any]) -> str:
    """Write a direction's R@k on one line."""
    recall = "  ".join(f"{name} {value:5.1f} %" for name, value in figures.items() if name.startswith("R@"))
    return f"{direction.replace('_', ' '):<14} {recall}  median rank {figures['median_rank']:g}"
