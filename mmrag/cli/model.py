"""eval: how good a model is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mmrag.cli.options import JsonOption, QuietOption, print_json, progress_bar

TextKeyOption = Annotated[
    str | None,
    typer.Option(help="Key of the texts; by default the first of texts, text, captions, caption, en."),
]


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command("eval", epilog="Example:  mmrag eval pairs.tar --model builtin --json")(evaluate)


def evaluate(
    pairs: Annotated[list[Path], typer.Argument(help="Pictures with texts: .tar (webdataset) or .jsonl.")],
    model: Annotated[str, typer.Option(metavar="NAME", help="'builtin', a model folder, or FAMILY:NAME.")] = "builtin",
    text_key: TextKeyOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure a model on pairs.

    Tells how often the right picture, or text, is among the first 1, 5, 10.
    """
    from mmrag.evaluate import evaluate_pairs

    with progress_bar("encoding", quiet=quiet) as progress:
        tell = (lambda done: progress(done, 0)) if progress else None
        report = evaluate_pairs(pairs, model=model, text_key=text_key, progress=tell)
    if as_json:
        print_json(report)
        return
    typer.echo(f"{report['model']}: {report['n_images']:,} pictures, {report['n_texts']:,} texts")
    for direction in ("text_to_image", "image_to_text"):
        typer.echo(_line(direction, report[direction]))


def _line(direction: str, figures: dict[str, Any]) -> str:
    recall = "  ".join(f"{name} {value:5.1f} %" for name, value in figures.items() if name.startswith("R@"))
    return f"{direction.replace('_', ' '):<14} {recall}  median rank {figures['median_rank']:g}"
