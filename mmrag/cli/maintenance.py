"""reindex, restore, check, compact: another model, going back, looking whether all is well, and making it small."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from mmrag.cli.options import (
    Device,
    DeviceOption,
    IndexOption,
    JsonOption,
    ModelOption,
    PrecisionOption,
    QuietOption,
    RemoteOption,
    open_corpus,
    print_json,
    progress_bar,
    tell_failures,
    tuning_line,
)


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(epilog="Example:  mmrag reindex --model ./my-model")(reindex)
    app.command(epilog="Example:  mmrag restore 12")(restore)
    app.command(epilog="Example:  mmrag check")(check)
    app.command(epilog="Example:  mmrag compact")(compact)
    app.command(epilog="Example:  mmrag tune --queries asked.txt --target 0.98")(tune)


def reindex(
    model: ModelOption,
    precision: PrecisionOption = None,
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


def compact(
    view: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="Get the view of this recipe: a name in indexes/, or a file."),
    ] = None,
    index_dir: IndexOption = None,
    as_json: JsonOption = False,
) -> None:
    """Join what many runs have left into one, without what is deleted. Searches go on.

    Indexing does this in small steps by itself; after many changes this makes the index as small and fast as a new
    one. Needs room for a second view on the disk. Versions that can be restored stay.
    """
    corpus = open_corpus(index_dir)
    compaction = corpus.compact(view=view)
    if as_json:
        print_json(dataclasses.asdict(compaction))
    else:
        typer.echo(str(compaction))


def tune(
    queries: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What is asked of this corpus, a query a line; the last 500 count."),
    ] = None,
    target: Annotated[
        float | None, typer.Option(help="Share of the ten best hits to be found, such as 0.95; by default the view's.")
    ] = None,
    index_dir: IndexOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what the view finds of what an exact search finds, and set how hard it looks.

    Without --queries, texts and captions of the corpus are asked, or everyday things where it has few. What was
    measured and set, `mmrag info` tells.
    """
    corpus = open_corpus(index_dir)
    tuning = corpus.tune(_lines(queries) if queries else None, target=target)
    if as_json:
        print_json({"tuning": dataclasses.asdict(tuning), "view": dataclasses.asdict(corpus.manifest.view)})
    else:
        typer.echo(tuning_line(corpus.info()))


def _lines(path: Path) -> list[str]:
    from mmrag.errors import InputError

    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{str(path)!r} is no UTF-8 text; write a query a line") from error
