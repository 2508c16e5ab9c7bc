"""chat: several questions, one after the other, each understood by what was said before."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmrag.cli.answers import print_events, print_sources, stopping
from mmrag.cli.ask import (
    ActiveOption,
    CaptionOption,
    GeneratorOption,
    IllustrateOption,
    MatcherOption,
    MaxTokensOption,
    RecipeOption,
    SeedOption,
    SourcesOption,
    TemperatureOption,
    TimeoutOption,
    pipeline_of,
    sampling_of,
    writer_of,
)
from mmrag.cli.filters import AfterOption, BeforeOption, NearOption, OnlyOption, WhereOption, filter_of
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
    printable,
    tell_error,
)
from mmrag.errors import InputError, MmragError

if TYPE_CHECKING:
    from mmrag.compose.chat import Chat

_HELP = """/sources      all sources of the last answer
/save FILE    write the conversation, and go on writing it there
/new          begin a new conversation
/quit         end, as Ctrl-D does; Ctrl-C stops an answer
"the second one" and [2] are sources of the last answer"""


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(
        cls=PanelledCommand,
        epilog="Example:  mmrag chat --save trip.json    mmrag chat --resume trip.json < questions.txt",
    )(chat)


def chat(
    save: Annotated[
        Path | None,
        typer.Option("--save", metavar="FILE", help="Write the conversation into a new file, after each answer."),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="FILE", help="Go on with a conversation that was saved.")
    ] = None,
    where: WhereOption = None,
    near: NearOption = None,
    after: AfterOption = None,
    before: BeforeOption = None,
    only: OnlyOption = None,
    generator: GeneratorOption = None,
    matcher: MatcherOption = None,
    rewriter: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A language model that puts follow-ups as questions of their own; by default rules do, which are "
            "better at it than a small model.",
        ),
    ] = None,
    k: SourcesOption = None,
    recipe: RecipeOption = "default",
    max_tokens: MaxTokensOption = None,
    temperature: TemperatureOption = None,
    seed: SeedOption = 0,
    timeout: TimeoutOption = 120.0,
    caption: CaptionOption = True,
    illustrate: IllustrateOption = False,
    active: ActiveOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per answer.")] = False,
    model: MovedModelOption = None,
    device: DeviceOption = Device.auto,
    index_dir: IndexOption = None,
    quiet: QuietOption = False,
) -> None:
    """Answer several questions, each understood by what was said before.

    A follow-up, such as "and what colour is it?", is put as a question of its own, which is told, and searched for.
    Ctrl-C stops an answer, Ctrl-D or /quit ends; /help lists more. Questions may come from a pipe, one a line.
    """
    from mmrag.compose.chat import Chat

    if save and save.exists() and save != resume:
        raise InputError(f"{save} is there already; go on with it: --resume {save} --save {save}, or name another file")
    pipeline = pipeline_of(recipe, caption=caption)
    corpus = open_corpus(index_dir, model, device=device)
    talk = Chat(
        corpus,
        generator=writer_of(corpus, generator or pipeline.answer.generator, quiet=quiet),
        matcher=matcher,
        rewriter=rewriter,
        k=k,
        pipeline=pipeline,
        where=filter_of(where, near, after, before, only),
        sampling=sampling_of(pipeline, max_tokens, temperature, seed, timeout),
        illustrate=illustrate,
        active=active,
    )
    if resume:
        talk.resume(resume)
        _tell_resumed(talk)
    conversation = _Conversation(talk, corpus.home, save, as_json=as_json, quiet=quiet)
    conversation.run(_typed(show_prompt=not as_json) if sys.stdin.isatty() else _piped())
    if conversation.failed and not sys.stdin.isatty():
        raise typer.Exit(1)


class _Conversation:
    """Answers line after line, and obeys those that begin with "/".

    Attributes
    ----------
    failed : int
        How many questions had no answer.
    """

    def __init__(self, talk: Chat, home: Path, save: Path | None, *, as_json: bool, quiet: bool) -> None:
        self.failed = 0
        self._talk, self._home, self._save = talk, home, save
        self._as_json, self._quiet = as_json, quiet
        self._commands: dict[str, Callable[[str], None]] = {
            "/sources": self._list_sources,
            "/save": self._save_as,
            "/new": self._begin_anew,
            "/help": lambda _: typer.echo(_HELP, err=True),
        }
        if save:
            talk.save(save)

    def run(self, lines: Iterator[str]) -> None:
        """Answer until the lines end, or one is "/quit"; an error is told, and ends nothing."""
        for line in map(str.strip, lines):
            if line == "/quit":
                break
            try:
                self._take(line)
            except MmragError as error:
                self._tell_failure(line, error)
            except KeyboardInterrupt:  # the second one, while an answer does not stop
                if not sys.stdin.isatty():
                    raise
                typer.echo("\nmmrag: stopped", err=True)

    def _take(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        if name in self._commands:
            self._commands[name](rest.strip())
        elif line.startswith("/"):
            raise InputError(f"there is no command {printable(name)}; /help lists them")
        elif line:
            self._answer(line)

    def _answer(self, question: str) -> None:
        with stopping() as stop:
            events = self._talk.ask(question, stream=True, cancel=stop)
            answer = print_events(
                events, stop, home=self._home, as_json=self._as_json, show_all=False, quiet=self._quiet
            )
        if self._save:
            self._talk.save(self._save)
        if answer.end == "cancelled" and not sys.stdin.isatty():
            raise typer.Exit(130)
        if not self._as_json:
            typer.echo()

    def _tell_failure(self, line: str, error: MmragError) -> None:
        self.failed += 1
        tell_error(error)
        if self._as_json and not line.startswith("/"):
            print_json({"question": line, "error": str(error)})

    def _list_sources(self, _: str) -> None:
        if not self._talk.answers:
            raise InputError("nothing was answered yet, so there are no sources")
        last = self._talk.answers[-1]
        if self._as_json:
            from mmrag.compose.record import record

            print_json({"sources": record(last)["sources"]})
        else:
            print_sources(last, home=self._home, show_all=True)

    def _save_as(self, name: str) -> None:
        if not name:
            raise InputError("name the file: /save FILE")
        self._talk.save(name)
        self._save = Path(name)
        questions = counted(len(self._talk.answers), "question", "questions")
        typer.echo(f"{questions} → {printable(name)}", err=True)

    def _begin_anew(self, _: str) -> None:
        """Forget what was said; its file stays as it is, so that it is not replaced by what comes now."""
        self._talk.forget()
        told = f"; {self._save} keeps the old one, and /save FILE writes the new one" if self._save else ""
        self._save = None
        typer.echo(f"a new conversation{told}", err=True)


def _tell_resumed(talk: Chat) -> None:
    typer.echo(f"{counted(len(talk.answers), 'question', 'questions')} before", err=True)
    if talk.missing:
        gone = counted(len(talk.missing), "source is", "sources are")
        typer.echo(f"mmrag: {gone} in the index no more, and left out", err=True)


def _typed(*, show_prompt: bool) -> Iterator[str]:
    """Give what is typed, line by line; it can be edited, and is kept nowhere."""
    with suppress(ImportError):  # where there is none, lines cannot be edited
        import readline  # noqa: F401

    while True:
        try:
            yield input("> " if show_prompt and sys.stdout.isatty() else "")
        except EOFError:
            typer.echo(err=True)
            return
        except KeyboardInterrupt:
            typer.echo("\nmmrag: stopped; Ctrl-D ends the chat", err=True)


def _piped() -> Iterator[str]:
    yield from sys.stdin
