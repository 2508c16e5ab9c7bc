"""models: what models there are, and as what files."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mmrag.cli.options import JsonOption, print_json


class ExportFormat(StrEnum):
    """What can be exported to."""

    onnx = "onnx"


class ExportPrecision(StrEnum):
    """What can be exported."""

    fp32 = "fp32"
    int8 = "int8"


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    models = typer.Typer(help="Models as files.", rich_markup_mode=None, no_args_is_help=True)
    models.command(
        epilog="Example:  mmrag models export openclip:ViT-B-32-256/datacomp_s34b_b86k --to onnx --out ./vit-b-32"
    )(export)
    app.add_typer(models, name="models")


def export(
    name: Annotated[str, typer.Argument(help="An encoder that torch computes, such as openclip:ViT-B-32-256/TAG.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The model folder to write.")],
    to: Annotated[ExportFormat, typer.Option(help="The format of its networks.")] = ExportFormat.onnx,
    precision: Annotated[
        list[ExportPrecision] | None, typer.Option(help="Also in 8 bits? Repeatable; fp32 is always written.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write an encoder as ONNX files, so that it runs without torch.

    By default in single precision and in 8 bits. Tells the cosines of its vectors to the original's, over samples.
    Needs: pip install 'mmrag[torch]'
    """
    from mmrag.models.onnx_export import export_encoder
    from mmrag.models.registry import load_encoder

    precisions = precision or list(ExportPrecision)
    done = export_encoder(load_encoder(name, device="cpu"), out, precisions=[one.value for one in precisions])
    card = done.card
    if as_json:
        agreement = dataclasses.asdict(done)["agreement"]
        facts = {"name": card.name, "dimension": card.dimension, "weights": card.weights, "format": to.value}
        print_json({"model": str(out), **facts, "cosine": agreement})
        return
    for its_precision, towers in done.agreement.items():
        for modality, one in towers.items():
            counted = f"over {one.samples} {'pictures' if modality == 'image' else 'texts'}"
            cosine = f"cosine to the original at least {one.lowest:.5f}, on average {one.mean:.5f}"
            typer.echo(f"{its_precision}  {modality:<5}  {cosine} {counted}")
    typer.echo(f"{card.name}, {card.dimension} dimensions → {out}\nUse it:  mmrag index FOLDER --model {out}")
