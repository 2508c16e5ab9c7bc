"""dups: what is in a corpus more than once."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mmrag.cli.options import IndexOption, JsonOption, counted, open_corpus, print_json, printable, shown_path

if TYPE_CHECKING:
    from pathlib import Path

    from mmrag.types import Copy, Duplicates


def register(app: typer.Typer) -> None:
    """Add this file's command."""
    app.command(epilog="Example:  mmrag dups --exact --json")(dups)


def dups(
    exact: Annotated[bool, typer.Option("--exact", help="Only files with the very same content.")] = False,
    near: Annotated[bool, typer.Option("--near", help="Only groups that are nearly, not exactly, the same.")] = False,
    index_dir: IndexOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what is in the index more than once: files with the same content, and what looks or reads nearly the same.

    A group is printed at a time, the largest picture of it first. No file is touched, and nothing is taken out of
    the index. Pictures are nearly the same if they were encoded again, scaled, marked, made a little brighter or
    cropped by a few percent; texts if a few words differ. With --json, one object per group.
    """
    from mmrag.errors import QueryError

    if exact and near:
        raise QueryError("--exact and --near leave nothing together; give one, or none for both")
    corpus = open_corpus(index_dir)
    kind: Literal["exact", "near"] | None = "exact" if exact else "near" if near else None
    found = corpus.duplicates(kind)
    for group in found.groups:
        if as_json:
            print_json({"kind": _kind(group), "keep": group[0].item.uri, "items": [_flat(one) for one in group]})
        else:
            typer.echo(_told(group, corpus.home))
    _tell_count(found)


def _kind(group: tuple[Copy, ...]) -> str:
    return "exact" if len({one.content for one in group}) == 1 else "near"


def _flat(copy: Copy) -> dict[str, Any]:
    item = dataclasses.asdict(copy.item)
    facts = {name: item["metadata"].get(name) for name in ("width", "height")}
    own = {name: item[name] for name in ("id", "uri", "part", "modality")}
    return {**own, "size": copy.size, **facts, "content": copy.content}


def _told(group: tuple[Copy, ...], home: Path) -> str:
    exact = _kind(group) == "exact"
    lines = [f"{len(group):,} {'with the same content' if exact else 'nearly the same'}"]
    for copy in group:
        path = home / copy.item.uri
        name = shown_path(path) if path.exists() else copy.item.uri
        part = f" › {copy.item.part}" if copy.item.part else ""
        same = copy is not group[0] and copy.content == group[0].content and not exact
        lines.append(f"  {_extent(copy):>24}  {printable(name + part)}{'  (the same as the first)' if same else ''}")
    return "\n".join(lines) + "\n"


def _extent(copy: Copy) -> str:
    facts = copy.item.metadata
    told = [f"{facts['width']} × {facts['height']}"] if copy.pixels else []
    if copy.size is not None:
        told.append(f"{copy.size / 1e3:,.1f} kB")
    return ", ".join(told)


def _tell_count(found: Duplicates) -> None:
    items, groups = sum(map(len, found.groups)), len(found.groups)
    grouped = counted(groups, "group", "groups")
    told = f"{items:,} items in {grouped}: {items - groups:,} more than there are different ones"
    typer.echo(f"mmrag: {told if items else 'nothing is in the index twice'}", err=True)
    if found.unknown:
        typer.echo(
            f"mmrag: {found.unknown:,} items that an older mmrag has written were not compared for being nearly the "
            "same; mmrag index reads pictures in files again once, and what has no file can be added again",
            err=True,
        )
