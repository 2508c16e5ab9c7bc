"""reindex, restore, check: another model, going back, and looking whether all is well."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from mmrag.cli.options import (
    Device,
    DeviceOption,
    IndexOption,
    JsonOption,
    Precision,
    QuietOption,
    RemoteOption,
    open_corpus,
    print_json,
    progress_bar,
    tell_failures,
)


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(epilog="Example:  mmrag reindex --model ./my-model")(reindex)
    app.command(epilog="Example:  mmrag restore 12")(restore)
    app.command(epilog="Example:  mmrag check")(check)


def reindex(
    model: Annotated[
        str, typer.Option(metavar="NAME", help="A name that `mmrag models` lists, a model folder, or FAMILY:NAME.")
    ],
    precision: Annotated[
        Precision | None,
        typer.Option(help="What pictures are encoded in; by default the fastest that gives the same vectors."),
    ] = None,
    device: DeviceOption = Device.auto,
    recipe: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="What to refuse: a name in indexes/, or a .toml file.")
    ] = "default",
    allow_remote: RemoteOption = False,
    index_dir: IndexOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Embed everything again with another model, and switch when that is done.

    Until then searches go on with the old one; nothing is half done at any moment. Run it again after an interruption:
    it goes on where it was. Needs room for both on the disk. What cannot be read any more is kept as a failure:
    mmrag info --failed. Earlier versions cannot be restored afterwards.
    """
    corpus = open_corpus(index_dir)
    before = corpus.manifest.model
    with progress_bar("embedding", quiet=quiet or as_json) as progress:
        changes = corpus.reindex(
            model, precision=precision, device=device, recipe=recipe, progress=progress, allow_remote=allow_remote
        )
    failing = len(changes.failed) + changes.still_failing
    if as_json:
        print_json({"model": corpus.manifest.model, "items": len(corpus), **dataclasses.asdict(changes)})
        return
    typer.echo(f"{len(corpus):,} items are by {corpus.manifest.model} now, not by {before} · {failing:,} failed")
    tell_failures(changes.failed)


def restore(
    version: Annotated[int, typer.Argument(help="A number that `mmrag info --versions` lists.")],
    index_dir: IndexOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go back to an earlier version of the index. No file is touched.

    The state after each of the last runs that changed something is kept: 10 of them, unless the recipe that the index
    was made with says store.keep_versions. Going back makes a new version, so that it can be undone.
    """
    corpus = open_corpus(index_dir)
    corpus.restore(version)
    if as_json:
        print_json({"restored": version, "items": len(corpus)})
    else:
        typer.echo(f"version {version} is back: {len(corpus):,} items")
        typer.echo("The next `mmrag index` brings the index up to date with the folders again.", err=True)


def check(index_dir: IndexOption = None, as_json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Look at every row of the index, and mend what can be mended.

    What makes search fast (the view) is compared with the table and made again from it where they differ, and what
    interrupted runs left is removed. Wrong rows of the table itself cannot be mended: they are told, and the exit
    code is 1.
    """
    corpus = open_corpus(index_dir)
    with progress_bar("checking", quiet=quiet or as_json) as progress:
        checkup = corpus.check(progress=progress)
    if as_json:
        print_json(dataclasses.asdict(checkup))
    else:
        for line in checkup.mended:
            typer.echo(f"mended  {line}")
        for line in checkup.wrong:
            typer.echo(f"wrong   {line}", err=True)
        if not checkup.wrong:
            typer.echo(f"{checkup.items:,} items and {checkup.failed:,} failures: all is well")
    if checkup.wrong:
        raise typer.Exit(1)
