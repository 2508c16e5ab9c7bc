"""search: words, pictures or both → hits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmrag.cli.filters import AfterOption, BeforeOption, NearOption, OnlyOption, WhereOption, filter_of
from mmrag.cli.options import (
    Device,
    DeviceOption,
    IndexOption,
    MovedModelOption,
    PanelledCommand,
    Precision,
    QuietOption,
    open_corpus,
    print_json,
    printable,
    progress_bar,
    shown_path,
    shown_place,
)
from mmrag.cli.upgrade import offer_upgrade

if TYPE_CHECKING:
    from mmrag.index import Index
    from mmrag.roles import Matcher
    from mmrag.search.pipeline import Pipeline
    from mmrag.types import Hit, Query

_ASKED, _HOW, _SHOWN = "What to look for", "How to search", "What to print"
_UNLIKELY = "nothing here is likely to match; the best guesses: --all"


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(
        cls=PanelledCommand,
        epilog='Example:  mmrag search "a dog" + "on a beach" --without "a leash" -k 20    '
        "mmrag search --image query.jpg --json",
    )(search)


def search(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[WORDS [+ WORDS]...]",
            rich_help_panel=_ASKED,
            help="What to look for: words, several with + between them. Words^0.5 count half.",
            show_default=False,
        ),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option("--image", metavar="FILE", rich_help_panel=_ASKED, help="Look for pictures like this one."),
    ] = None,
    like: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE[:WEIGHT]",
            rich_help_panel=_ASKED,
            help="And like this one, beside words: sunset.jpg:0.5 counts half.",
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORDS",
            rich_help_panel=_ASKED,
            help="What is not wanted; may be given several times, as --like may.",
        ),
    ] = None,
    without_like: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE[:WEIGHT]", rich_help_panel=_ASKED, help="A picture of what is not wanted."),
    ] = None,
    where: WhereOption = None,
    near: NearOption = None,
    after: AfterOption = None,
    before: BeforeOption = None,
    only: OnlyOption = None,
    min_score: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=_HOW,
            help="Leave out hits with a lower score: cosine, with --hybrid rrf, with --rerank match.",
        ),
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE", rich_help_panel=_HOW, help="How to search: a name in pipelines/, or a .toml file."
        ),
    ] = "default",
    rerank: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=_HOW,
            help="Judge the best again with a model that sees words and picture together.",
        ),
    ] = None,
    hybrid: Annotated[
        bool,
        typer.Option(
            "--hybrid",
            rich_help_panel=_HOW,
            help="Look at captions, tags, texts, what was read in pictures, and names, too.",
        ),
    ] = False,
    top: Annotated[
        int | None, typer.Option(rich_help_panel=_HOW, help="How many --rerank judges; 128 unless the recipe says.")
    ] = None,
    precision: Annotated[
        Precision | None, typer.Option(rich_help_panel=_HOW, help="What --rerank computes in.")
    ] = None,
    k: Annotated[
        int | None, typer.Option("-k", "--k", rich_help_panel=_SHOWN, help="How many hits; 10 unless the recipe says.")
    ] = None,
    dups: Annotated[
        bool,
        typer.Option(
            "--dups", rich_help_panel=_SHOWN, help="Show what is the same or nearly the same as hits of their own."
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", rich_help_panel=_SHOWN, help="Print one JSON object per hit.")
    ] = False,
    paths: Annotated[
        bool, typer.Option("--paths", rich_help_panel=_SHOWN, help="Print paths only, for pipes.")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="FILE", rich_help_panel=_SHOWN, help="Also write a page with the pictures in it."
        ),
    ] = None,
    show_all: Annotated[
        bool,
        typer.Option(
            "--all", rich_help_panel=_SHOWN, help="Show the best guesses where nothing is likely to match, too."
        ),
    ] = False,
    explain: Annotated[
        Path | None,
        typer.Option(
            "--explain",
            metavar="DIR",
            rich_help_panel=_SHOWN,
            help="Write a heat map per hit: what in it has to do with the words.",
        ),
    ] = None,
    explain_tokens: Annotated[
        bool, typer.Option("--explain-tokens", rich_help_panel=_SHOWN, help="And one per token; needs --rerank.")
    ] = False,
    model: MovedModelOption = None,
    device: DeviceOption = Device.auto,
    index_dir: IndexOption = None,
    quiet: QuietOption = False,
) -> None:
    """Find pictures and texts by words, by pictures, or both.

    Words in double quotes must stand in what is found: mmrag search 'harbour "Fujifilm X100V"'.

    Prints rank, score (higher is better) and path; p says how likely a match is, and where none is likely, only --all
    shows the best guesses.

    A FILTER compares facts, which mmrag info --facts lists: = != < <= > >= in (…), between … and …, like '%…%', ilike,
    contains, is null, and, or, not, near(48.85, 2.35, '5km').
    """
    from mmrag.errors import QueryError
    from mmrag.search.likelihood import nothing_likely
    from mmrag.search.parse import parse_query
    from mmrag.search.pipeline import load_pipeline

    if explain_tokens and explain is None:
        raise QueryError("--explain-tokens says what --explain writes; name a folder: --explain DIR")
    if not (words or image or like or without or without_like):
        raise QueryError('say what to look for: mmrag search "a dog on a beach", or --image FILE')
    query = parse_query(
        " ".join(words or ()),
        image=image,
        like=like or (),
        without=without or (),
        without_like=without_like or (),
        where=filter_of(where, near, after, before, only),
    )
    corpus = open_corpus(index_dir, model, device=device)
    pipeline = load_pipeline(recipe).changed(k=k, min_score=min_score, rerank=rerank, top=top, hybrid=hybrid, dups=dups)
    matcher = _load_matcher(pipeline, device, precision)
    with progress_bar("judging", quiet=quiet or matcher is None) as progress:
        hits = corpus.search(query, pipeline=pipeline, rerank=matcher, progress=progress)
    unlikely = not show_all and nothing_likely(hits, corpus.encoder.card.calibration)
    hits = [] if unlikely else hits
    overlays = _write_heat_maps(explain, query, hits, corpus, matcher, tokens=explain_tokens) if explain else {}
    if html:
        _write_page(html, query, hits, corpus, overlays)
    for hit in hits:
        path = corpus.home / hit.item.uri
        on_disk = path if path.exists() else None
        if as_json:
            print_json({**_flat(hit), "path": str(path) if on_disk else None})
        elif paths:
            typer.echo(shown_path(path) if on_disk else hit.item.uri)
        else:
            typer.echo(_line(hit, corpus.home))
    if not hits:
        typer.echo(
            f"mmrag: {_UNLIKELY if unlikely else _why_nothing(corpus, pipeline.query.added_to(query))}", err=True
        )
    if not (as_json or paths):
        offer_upgrade(corpus)


def _write_heat_maps(
    folder: Path, query: Query, hits: list[Hit], corpus: Index, matcher: Matcher | None, *, tokens: bool
) -> dict[str, Path]:
    from mmrag.report.heat import write_overlays

    told = corpus.explain(query, hits, rerank=matcher, tokens=tokens)
    overlays = write_overlays(folder, told, query.words)
    typer.echo(f"{len(overlays):,} heat maps → {folder}", err=True)
    return overlays


def _write_page(html: Path, query: Query, hits: list[Hit], corpus: Index, overlays: dict[str, Path]) -> None:
    from mmrag.report import write_search_page

    size = write_search_page(html, query, hits, home=corpus.home, overlays=overlays)
    typer.echo(f"{len(hits):,} hits → {html}, {size / 1e6:.1f} MB", err=True)


def _load_matcher(pipeline: Pipeline, device: Device, precision: Precision | None) -> Matcher | None:
    from mmrag.errors import QueryError
    from mmrag.models.registry import load_matcher

    if pipeline.rerank:
        return load_matcher(pipeline.rerank.model, precision=precision, device=device)
    if precision:
        raise QueryError("--precision is that of the model that judges again; name one: --rerank NAME")
    return None


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
        "near_duplicates": list(hit.near_duplicates),
        "matched": list(hit.matched),
    }


def _line(hit: Hit, home: Path) -> str:
    from mmrag.sources.uri import is_remote

    is_place = (home / hit.item.uri).exists() or is_remote(hit.item.uri)
    name = shown_place(hit.item, home) if is_place else printable(hit.item.text or hit.item.uri)
    return f"{hit.rank:>3}  {_score(hit)}  {name}{_matched(hit)}{_folded(hit)}"


def _folded(hit: Hit) -> str:
    kinds = ((len(hit.duplicates), "with the same content"), (len(hit.near_duplicates), "nearly the same"))
    told = [f"{count:,} {what}" for count, what in kinds if count]
    return f"  (and {', '.join(told)})" if told else ""


def _matched(hit: Hit) -> str:
    """Which of its words have those that were asked for; of a text that is shown, its own go without saying."""
    caption = ("caption",) if hit.item.modality == "image" else ()
    kinds = [kind for name in hit.matched for kind in (caption if name == "text" else (name,))]
    return f"  ({', '.join(kinds)})" if kinds else ""


def _score(hit: Hit) -> str:
    if hit.kind != "match":
        likely = f" (p {_short(hit.parts['probability'])})" if "probability" in hit.parts else ""
        return f"{hit.kind} {hit.score:.3f}{likely}"
    own = "itc" if "itc" in hit.parts else "cosine"  # of the matcher's own encoder, which is in the score
    chance, cosine = (_short(hit.parts[part]) for part in ("probability", own))
    return f"{hit.kind} {hit.score:.2f} (p {chance}, cosine {cosine})"


def _short(share: float) -> str:
    return f"{share:.2f}".replace("0.", ".", 1)


def _why_nothing(corpus: Index, query: Query) -> str:
    if not len(corpus):
        return "the index is empty; add pictures: mmrag index FOLDER"
    passing = len(corpus) if query.where is None else corpus.count(query.where)
    if not passing:
        return f"no item passes {query.where}; what filters can ask for: mmrag info --facts"
    where = "the index" if query.where is None else f"the {passing:,} items that pass {query.where}"
    if query.phrases:
        quoted = " and ".join(f'"{printable(phrase)}"' for phrase in query.phrases)
        return f"nothing in {where} has {quoted} in its text, caption, tags, names or what was read in it"
    if query.where is not None:
        return f"of {where}, none scores that high; lower --min-score"
    return "nothing in the index scores that high; lower --min-score"
