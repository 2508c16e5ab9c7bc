"""demo: the whole way on real photographs, in one command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmrag.cli.answers import print_sources

if TYPE_CHECKING:
    from mmrag.index import Index


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(epilog="Example:  mmrag demo --out ./mmrag-demo")(demo)


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to put the pictures and the index.")] = Path(
        "mmrag-demo"
    ),
) -> None:
    """Index and search real photographs, and answer questions from a note.

    They come with scikit-image and scikit-learn: pip install 'mmrag[demo]'. Fails if the right picture is not first,
    or an answer is wrong.
    """
    from mmrag.demo import prepare
    from mmrag.errors import MmragError

    index = prepare(out)
    typer.echo(f"$ mmrag index {out / 'pictures'}\n{index.add(out / 'pictures')}")
    missed = list(_search(index))
    if missed:
        raise MmragError(f"the right picture was not first for: {', '.join(missed)}")
    wrong = list(_answer(index, out))
    if wrong:
        raise MmragError(f"not answered as the note says: {', '.join(wrong)}")
    typer.echo(f'\nAll found. Now yours:  mmrag search "a rocket launch" --index {out}')


def _search(index: Index) -> Iterator[str]:
    """Show searches; gives those that found something else."""
    from mmrag.demo import search

    for searched in search(index):
        typer.echo(f"\n$ mmrag search {searched.asked}")
        for hit in searched.hits:
            typer.echo(f"{hit.rank:>3}  {hit.kind} {hit.score:.3f}  {hit.item.uri}")
        if not searched.found:
            yield searched.asked


def _answer(index: Index, out: Path) -> Iterator[str]:
    """Show questions to a note, and the note with a picture; gives what went wrong."""
    from mmrag.compose.illustrate import illustrate
    from mmrag.demo import ask, is_illustrated, write_note

    note = write_note(out)
    typer.echo(f"\n$ mmrag index {note.parent}\n{index.add(note.parent)}")
    for answer, right in ask(index):
        typer.echo(f'\n$ mmrag ask "{answer.question}" --generator extractive --only text\n{answer.text}')
        print_sources(answer, home=index.home, show_all=False)
        if not right:
            yield answer.question
    illustrated = illustrate(index, note.read_text("utf-8"))
    typer.echo(f"\n$ mmrag illustrate {note}\n{illustrated.markdown(home=index.home, folder=index.home)}".rstrip())
    if not is_illustrated(illustrated):
        yield "the picture that belongs into it"
