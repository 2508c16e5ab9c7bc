"""The `mmrag` command: its options, its groups of commands, and how errors are told."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from mmrag.cli import (
    ask,
    bootstrap,
    chat,
    classify,
    corpus,
    demo,
    describe,
    dups,
    illustrate,
    info,
    maintenance,
    model,
    models,
    search,
    train,
)
from mmrag.cli.options import printable_lines, switch_network_off, tell_error
from mmrag.errors import Interrupted, MmragError
from mmrag.version import __version__

app = typer.Typer(
    name="mmrag",
    help="Find pictures and texts, and answer questions from them, on this machine, offline.",
    epilog='Example:  mmrag index ./images  &&  mmrag search "a dog on a beach"  &&  mmrag ask "Who runs there?"',
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
groups = (
    corpus,
    info,
    search,
    ask,
    chat,
    illustrate,
    dups,
    classify,
    describe,
    maintenance,
    model,
    train,
    bootstrap,
    models,
    demo,
)
for group in groups:
    group.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mmrag {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[  # noqa: ARG001
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Open no network connection, as HF_HUB_OFFLINE=1.")
    ] = False,
) -> None:
    """Find pictures and texts, and answer questions from them, on this machine, offline."""
    if offline:
        switch_network_off()


class _Formatter(logging.Formatter):
    """Writes warnings in which a terminal finds nothing to obey: they name files of strangers."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))


def main() -> None:
    """Run the command line; an error becomes one line on stderr and a non-zero exit code."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("mmrag: %(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.addLevelName(logging.WARNING, "warning")
    try:
        app()
    except Interrupted as error:
        tell_error(error)
        sys.exit(130)
    except KeyboardInterrupt:  # while the commands are put together, which is before any of them runs
        typer.echo("mmrag: stopped", err=True)
        sys.exit(130)
    except MmragError as error:
        tell_error(error)
        sys.exit(1)
    except OSError as error:  # a full disk behind stdout, a name that is too long, …
        tell_error(error)
        sys.exit(1)
