"""illustrate: a text → the same text with pictures of the index."""

from __future__ import annotations

import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmrag.cli.filters import AfterOption, BeforeOption, NearOption, WhereOption, filter_of
from mmrag.cli.options import (
    Device,
    DeviceOption,
    IndexOption,
    MovedModelOption,
    PanelledCommand,
    QuietOption,
    counted,
    open_corpus,
    print_json,
    progress_bar,
)

if TYPE_CHECKING:
    from mmrag.compose.illustrated import Illustrated
    from mmrag.search.illustration import IllustrateOptions

_MOST_BYTES = 4 << 20
_WHICH, _WRITTEN = "Which pictures", "What to write"


class Format(StrEnum):
    """What an illustrated text can be written as."""

    md = "md"
    html = "html"
    json = "json"


_SUFFIXES = {".html": Format.html, ".htm": Format.html, ".json": Format.json}


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(
        cls=PanelledCommand,
        epilog="Example:  mmrag illustrate article.md --out article.illustrated.md    "
        "mmrag illustrate - --format html --out page.html < notes.txt",
    )(illustrate)


def illustrate(
    article: Annotated[
        str, typer.Argument(metavar="ARTICLE", help="A text in Markdown, or plain; - reads it from stdin.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", rich_help_panel=_WRITTEN, help="Where to; by default to stdout."),
    ] = None,
    form: Annotated[
        Format | None,
        typer.Option("--format", rich_help_panel=_WRITTEN, help="By default as FILE is called, else md."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", rich_help_panel=_WRITTEN, help="As --format json.")] = False,
    copy: Annotated[
        Path | None,
        typer.Option("--copy", metavar="DIR", rich_help_panel=_WRITTEN, help="Copy the pictures there, for md."),
    ] = None,
    matcher: Annotated[
        str | None, typer.Option(metavar="NAME", rich_help_panel=_WHICH, help="What verifies them, such as builtin.")
    ] = None,
    min_probability: Annotated[
        float | None,
        typer.Option("--min-probability", rich_help_panel=_WHICH, help="How likely one must be to belong, 0 to 1."),
    ] = None,
    budget: Annotated[
        int | None,
        typer.Option(rich_help_panel=_WHICH, help="How many at most; by default one for each three sentences."),
    ] = None,
    distance: Annotated[
        int | None, typer.Option(rich_help_panel=_WHICH, help="How many sentences on the next one may stand.")
    ] = None,
    in_order: Annotated[
        bool, typer.Option("--in-order", rich_help_panel=_WHICH, help="In the order in which they were taken only.")
    ] = False,
    where: WhereOption = None,
    near: NearOption = None,
    after: AfterOption = None,
    before: BeforeOption = None,
    recipe: Annotated[
        str,
        typer.Option(metavar="NAME|FILE", rich_help_panel=_WHICH, help="A pipeline whose [illustrate] says all this."),
    ] = "default",
    model: MovedModelOption = None,
    device: DeviceOption = Device.auto,
    index_dir: IndexOption = None,
    quiet: QuietOption = False,
) -> None:
    """Set pictures of the index into a text, where they belong; what nothing fits stays without.

    Writes the text with a picture and a caption behind the paragraphs of the sentences that have one. Pictures are
    referred to where they lie; --copy takes them along, and a page (html) has them inside.
    """
    import mmrag
    from mmrag.errors import InputError

    chosen = _format(form, out, as_json=as_json)
    if copy and chosen is not Format.md:
        raise InputError(f"--copy is for md; {chosen} needs no copies")
    _check_out(article, out)
    text = _read(article)
    passing = filter_of(where, near, after, before, None)
    options = _options(recipe, matcher, min_probability, budget, distance, in_order=in_order)
    corpus = open_corpus(index_dir, model, device=device)
    with progress_bar("judging", quiet=quiet) as progress:
        done = mmrag.illustrate(corpus, text, options=options, where=passing, progress=progress)
    _write(done, chosen, out, copy, corpus.home)
    left = done.sentences - len(done.placements)
    typer.echo(
        f"{counted(len(done.placements), 'picture', 'pictures')} placed · {left:,} of "
        f"{counted(done.sentences, 'sentence', 'sentences')} left without one{f' → {out}' if out else ''}",
        err=True,
    )


def _format(form: Format | None, out: Path | None, *, as_json: bool) -> Format:
    if as_json:
        return Format.json
    return form or (_SUFFIXES.get(out.suffix.lower(), Format.md) if out else Format.md)


def _check_out(article: str, out: Path | None) -> None:
    """Refuse what cannot be written, and to lose what somebody wrote, before anything is searched."""
    from mmrag.errors import InputError
    from mmrag.report.replace import check_writable

    if out is None:
        return
    check_writable(out)
    if article != "-" and out.exists() and Path(article).exists() and out.samefile(article):
        raise InputError(f"{str(out)!r} is the article itself, and would be overwritten; name another file: --out FILE")


def _read(article: str) -> str:
    """Read the text, whole and as it is."""
    from mmrag.errors import InputError

    name = "stdin" if article == "-" else repr(article)
    try:
        if article == "-":
            data = sys.stdin.buffer.read(_MOST_BYTES + 1)
        else:
            with open(article, "rb") as file:
                data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror}") from error
    if len(data) > _MOST_BYTES:
        raise InputError(f"{name} has more than {_MOST_BYTES >> 20} MB; divide it: a text is illustrated as a whole")
    if b"\0" in data:
        raise InputError(f"{name} is no text; give one in Markdown, or plain, in UTF-8")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not in UTF-8 (at byte {error.start:,}); convert it, such as with iconv") from error


def _options(
    recipe: str,
    matcher: str | None,
    min_probability: float | None,
    budget: int | None,
    distance: int | None,
    *,
    in_order: bool,
) -> IllustrateOptions:
    from mmrag.search.pipeline import load_pipeline

    own = load_pipeline(recipe).illustrate
    return replace(
        own,
        matcher=matcher or own.matcher,
        min_probability=own.min_probability if min_probability is None else min_probability,
        budget=own.budget if budget is None else budget,
        distance=own.distance if distance is None else distance,
        order="taken" if in_order else own.order,
    )


def _write(done: Illustrated, form: Format, out: Path | None, copies: Path | None, home: Path) -> None:
    if form is Format.json and out is None:
        print_json(done.record())
        return
    words = _written(done, form, (out.parent if out else Path()).resolve(), copies, home)
    if out is None:
        typer.echo(words, nl=False)
        return
    from mmrag.report.replace import replacing

    with replacing(out) as file:
        file.write(words)


def _written(done: Illustrated, form: Format, folder: Path, copies: Path | None, home: Path) -> str:
    if form is Format.json:
        import json

        return json.dumps(done.record(), ensure_ascii=False, indent=1) + "\n"
    if form is Format.html:
        from mmrag.report.illustrated import illustrated_page

        return illustrated_page(done, home=home)
    return done.markdown(home=home, folder=folder, copies=copies.resolve() if copies else None)
