"""models: what models there are, and as what files."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mmrag.cli.options import JsonOption, print_json


class ExportPrecision(StrEnum):
    """What can be exported."""

    fp32 = "fp32"
    int8 = "int8"


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    models = typer.Typer(help="Models as files.", rich_markup_mode=None, no_args_is_help=True)
    models.command(epilog="Example:  mmrag models export ViT-B-32-256 --weights datacomp_s34b_b86k --out ./vit-b-32")(
        export
    )
    app.add_typer(models, name="models")


def export(
    architecture: Annotated[str, typer.Argument(help="An architecture of OpenCLIP, such as ViT-B-32-256.")],
    weights: Annotated[
        str, typer.Option(metavar="TAG|FILE", help="OpenCLIP's tag, downloaded; a checkpoint; or 'random', to time it.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The model folder to write.")],
    precision: Annotated[
        list[ExportPrecision] | None, typer.Option(help="Also in 8 bits? Repeatable; fp32 is always written.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a CLIP of OpenCLIP as ONNX files, so that it runs without torch.

    By default in single precision and in 8 bits. Needs: pip install 'mmrag[torch]'
    """
    from mmrag.models.open_clip import export_open_clip

    precisions = precision or list(ExportPrecision)
    card = export_open_clip(architecture, weights=weights, out=out, precisions=[one.value for one in precisions])
    if as_json:
        print_json({"model": str(out), "name": card.name, "dimension": card.dimension, "weights": card.weights})
    else:
        typer.echo(f"{card.name}, {card.dimension} dimensions → {out}\nUse it:  mmrag index FOLDER --model {out}")
