"""search: words or a picture → hits."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmrag.cli.options import Device, DeviceOption, IndexOption, open_corpus, print_json, printable, shown_path

if TYPE_CHECKING:
    from mmrag.index import Index
    from mmrag.types import Hit


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(epilog='Example:  mmrag search "a dog on a beach" -k 20    mmrag search --image query.jpg --json')(
        search
    )


def search(
    words: Annotated[str | None, typer.Argument(help="What to look for.", show_default=False)] = None,
    image: Annotated[
        Path | None, typer.Option("--image", metavar="FILE", help="Look for pictures like this one.")
    ] = None,
    k: Annotated[int | None, typer.Option("-k", "--k", help="How many hits; 10 unless the recipe says.")] = None,
    min_score: Annotated[float | None, typer.Option(help="Leave out hits with a lower cosine, from -1 to 1.")] = None,
    recipe: Annotated[
        str,
        typer.Option(metavar="NAME|FILE", help="How to search: a name in pipelines/, or a .toml file."),
    ] = "default",
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where the index's model is now, if it has moved.")
    ] = None,
    device: DeviceOption = Device.auto,
    index_dir: IndexOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per hit.")] = False,
    paths: Annotated[bool, typer.Option("--paths", help="Print paths only, for pipes.")] = False,
) -> None:
    """Find pictures by words, or by a picture.

    Prints rank, score (the cosine; higher is better) and path.
    """
    from mmrag.errors import QueryError
    from mmrag.types import Query

    if words is None and image is None:
        raise QueryError('say what to look for: mmrag search "a dog on a beach", or --image FILE')
    query = Query(text=words, image=image)
    corpus = open_corpus(index_dir, model, device=device)
    hits = corpus.search(query, k=k, min_score=min_score, pipeline=recipe)
    for hit in hits:
        path = corpus.home / hit.item.uri
        on_disk = path if path.exists() else None
        if as_json:
            print_json({**_flat(hit), "path": str(path) if on_disk else None})
        elif paths:
            typer.echo(shown_path(path) if on_disk else hit.item.uri)
        else:
            typer.echo(_line(hit, on_disk))
    if not hits:
        typer.echo(f"mmrag: {_why_nothing(corpus)}", err=True)


def _flat(hit: Hit) -> dict[str, object]:
    item = dataclasses.asdict(hit.item)
    item.pop("image")
    return {
        "rank": hit.rank,
        "score": hit.score,
        "kind": hit.kind,
        **item,
        "parts": dict(hit.parts),
        "duplicates": list(hit.duplicates),
    }


def _line(hit: Hit, path: Path | None) -> str:
    name = printable(shown_path(path) if path else hit.item.text or hit.item.uri)
    if path and sys.stdout.isatty():
        name = f"\x1b]8;;{path.as_uri()}\x1b\\{name}\x1b]8;;\x1b\\"
    same = f"  (and {len(hit.duplicates)} with the same content)" if hit.duplicates else ""
    return f"{hit.rank:>3}  {hit.kind} {hit.score:.3f}  {name}{same}"


def _why_nothing(corpus: Index) -> str:
    if not len(corpus):
        return "the index is empty; add pictures: mmrag index FOLDER"
    return "nothing scores that high; lower --min-score"
