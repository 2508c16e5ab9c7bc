"""restore, check: going back, and looking whether all is well."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from mmrag.cli.options import IndexOption, JsonOption, QuietOption, open_corpus, print_json, progress_bar


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(epilog="Example:  mmrag restore 12")(restore)
    app.command(epilog="Example:  mmrag check")(check)


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
