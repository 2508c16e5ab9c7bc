"""demo: the whole way on real photographs, in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(epilog="Example:  mmrag demo --out ./mmrag-demo")(demo)


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to put the pictures and the index.")] = Path(
        "mmrag-demo"
    ),
) -> None:
    """Index and search real photographs.

    They come with scikit-image and scikit-learn: pip install 'mmrag[demo]'. Fails if the right picture is not first.
    """
    from mmrag.demo import ask, prepare
    from mmrag.errors import MmragError

    index = prepare(out)
    typer.echo(f"$ mmrag index {out / 'pictures'}\n{index.add(out / 'pictures')}")
    wrong = []
    for answer in ask(index):
        typer.echo(f"\n$ mmrag search {answer.asked}")
        for hit in answer.hits:
            typer.echo(f"{hit.rank:>3}  {hit.kind} {hit.score:.3f}  {hit.item.uri}")
        if not answer.found:
            wrong.append(answer.asked)
    if wrong:
        raise MmragError(f"the right picture was not first for: {', '.join(wrong)}")
    typer.echo(f'\nAll found. Now yours:  mmrag search "a rocket launch" --index {out}')
