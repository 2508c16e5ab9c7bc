"""info: what the corpus holds."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmrag.cli.options import (
    IndexOption,
    JsonOption,
    failure_line,
    open_corpus,
    print_json,
    printable,
    tuning_line,
)

if TYPE_CHECKING:
    from mmrag.index import Index

_FACT_SHOWN = 32


def register(app: typer.Typer) -> None:
    """Add this file's command."""
    app.command(epilog="Example:  mmrag info --failed    mmrag info --versions    mmrag info --facts")(info)


def info(
    failed: Annotated[bool, typer.Option("--failed", help="List what could not be read, and why.")] = False,
    versions: Annotated[
        bool, typer.Option("--versions", help="List the versions that `mmrag restore` goes back to, newest first.")
    ] = False,
    facts: Annotated[
        bool, typer.Option("--facts", help="List what filters (search --where) can ask for, and what there is of it.")
    ] = False,
    index_dir: IndexOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what the index holds.

    How many items, from which folders, which model wrote it; with --failed what could not be read; with --versions
    the state after each of the last runs that changed something (10, unless the index's recipe says otherwise); with
    --facts the name and kind of each fact, how many items have it, and its lowest and highest value.
    """
    corpus = open_corpus(index_dir)
    if failed:
        _print_failures(corpus, as_json=as_json)
        return
    if versions:
        _print_versions(corpus, as_json=as_json)
        return
    if facts:
        _print_facts(corpus, as_json=as_json)
        return
    about = corpus.info()
    if as_json:
        print_json(about)
        return
    for line in _info_lines(about):
        typer.echo(line)


def _print_failures(corpus: Index, *, as_json: bool) -> None:
    for failure in corpus.failures():
        if as_json:
            print_json(dataclasses.asdict(failure))
        else:
            typer.echo(failure_line(failure))


def _print_facts(corpus: Index, *, as_json: bool) -> None:
    listed = corpus.facts()
    width = max((len(fact.name) for fact in listed), default=0)
    for fact in listed:
        if as_json:
            print_json(dataclasses.asdict(fact))
        else:
            ends = dict.fromkeys((_fact_value(fact.lowest), _fact_value(fact.highest)))
            typer.echo(f"{printable(fact.name):<{width}}  {fact.kind:<15} {fact.items:>9,}  {' … '.join(ends)}")
    if not listed:
        typer.echo("The index is empty; add pictures: mmrag index FOLDER", err=True)


def _fact_value(value: bool | float | str) -> str:
    if not isinstance(value, str):
        return str(value).lower()
    return f"'{printable(value) if len(value) <= _FACT_SHOWN else printable(value[:_FACT_SHOWN]) + '…'}'"


def _print_versions(corpus: Index, *, as_json: bool) -> None:
    newest_first = corpus.versions()[::-1]
    for version in newest_first:
        newest = version == newest_first[0]
        if as_json:
            created = version.created.isoformat(timespec="seconds")
            print_json({**dataclasses.asdict(version), "created": created, "newest": newest})
        else:
            failed = f", {version.failed:,} failed" if version.failed else ""
            line = f"{version.number:>6}  {version.created:%Y-%m-%d %H:%M:%S}  {version.items:,} items{failed}"
            typer.echo(f"{line}  (newest)" if newest else line)
    if not newest_first:
        typer.echo("No version is kept yet: the next run that changes something keeps its own.", err=True)


def _folder(folder: dict[str, Any]) -> str:
    without = f" (without {', '.join(folder['exclude'])})" if folder["exclude"] else ""
    return printable(folder["uri"] + without)


def _words(counts: dict[str, int]) -> str:
    names = {"text": "captions", "tags": "tags", "generated": "generated captions", "ocr": "text in them"}
    told = [f"{names[kind]} {count:,}" for kind, count in counts.items() if count]
    return f"pictures with {', '.join(told)}" if told else "none with the pictures"


def _view_lines(about: dict[str, Any]) -> list[str]:
    view, choice = about["view"], about["choice"]
    name = " ".join(filter(None, (view["kind"], view["factory"])))
    chosen = "chosen by mmrag: " if choice["auto"] else ""
    why = f" ({chosen}{choice['why']})" if choice["why"] else ""
    lines = [f"view     {name}, of table version {about['table_version']}{why}"]
    return lines if view["kind"] == "exact" else [*lines, f"tuned    {tuning_line(about)}"]


def _info_lines(about: dict[str, Any]) -> list[str]:
    identity = about["identity"]
    folders = ", ".join(_folder(folder) for folder in about["folders"]) or "none"
    failed = f", {about['failed']:,} failed (mmrag info --failed)" if about["failed"] else ""
    full_text = f" ({about['full_text_bytes'] / 1e6:,.1f} of them words)" if about["full_text_bytes"] else ""
    return [
        f"index    {printable(about['home'])}",
        f"items    {about['images']:,} pictures, {about['texts']:,} texts{failed}",
        f"words    {_words(about['words'])}",
        f"model    {about['model']}, revision {identity['revision']}, {identity['dimension']} dimensions",
        f"engine   {about['writer']['engine']} in {about['writer']['precision']}",
        f"folders  {folders}",
        *_view_lines(about),
        f"versions the last {about['keep_versions']} are kept (mmrag info --versions, mmrag restore)",
        f"on disk  {about['bytes'] / 1e6:,.1f} MB{full_text}, made {about['created']}",
    ]
