"""index, remove, info: what is in the corpus."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmrag.cli.options import (
    Device,
    DeviceOption,
    IndexOption,
    JsonOption,
    Precision,
    QuietOption,
    RemoteOption,
    failure_line,
    open_corpus,
    print_json,
    printable,
    progress_bar,
    tell_failures,
)

if TYPE_CHECKING:
    from mmrag.index import Index
    from mmrag.ingest.profile import Profile
    from mmrag.types import Changes


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(epilog="Example:  mmrag index ./images --exclude '*.png'    mmrag index --watch ./images")(index)
    app.command(epilog="Example:  mmrag remove ./images/2019")(remove)
    app.command(epilog="Example:  mmrag info --failed    mmrag info --versions")(info)


def index(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folders, pictures, documents, or tables, tars and datasets, whose rows are indexed; without any, all "
            "that were indexed before."
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Leave out, by name or by path below the folder. Repeatable."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A name that `mmrag models` lists, a model folder, or FAMILY:NAME."),
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(help="What pictures are encoded in; by default the fastest that gives the same vectors."),
    ] = None,
    device: DeviceOption = Device.auto,
    recipe: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="How to store: a name in indexes/, or a .toml file.")
    ] = "default",
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Then keep up with what changes, until Ctrl-C. Where the system tells of no changes, as on "
            "network drives, set WATCHFILES_FORCE_POLLING=1.",
        ),
    ] = False,
    allow_remote: RemoteOption = False,
    index_dir: IndexOption = None,
    profiled: Annotated[bool, typer.Option("--profile", help="Tell where the time went.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Index pictures and texts, or update the index.

    New and changed files are embedded, moved ones keep their vectors, vanished ones leave. Of folders, pictures
    and documents (.txt, .md, .rst, .html) are taken; .jsonl, .csv, .tsv, .parquet, .tar, Lance datasets, and what
    `datasets` has saved, where they are named themselves.

    The index (.mmrag) is made or updated in the current folder, or in the one that --index names; without PATHS, the
    nearest one upwards is updated. Run it again after an interruption: it goes on where it was.
    """
    from mmrag.errors import InputError
    from mmrag.ingest.profile import Profile
    from mmrag.sources.remote import check_urls
    from mmrag.sources.uri import is_remote

    if exclude and not paths:
        raise InputError("--exclude needs the folder that it belongs to: mmrag index FOLDER --exclude GLOB")
    profile = Profile() if profiled else None
    start = time.perf_counter()
    if any(map(is_remote, paths or [])):
        check_urls(paths or [], allowed=allow_remote)  # before an index is made
    corpus = _open_or_create(paths or [], index_dir, model, precision, device, recipe)
    with progress_bar("indexing", quiet=quiet or as_json) as progress:
        if watch:
            batches = corpus.watch(
                paths or None,
                exclude=exclude or (),
                recipe=recipe,
                progress=progress,
                profile=profile,
                allow_remote=allow_remote,
            )
            changes = next(batches)
        elif paths:
            changes = corpus.add(
                paths,
                exclude=exclude or (),
                recipe=recipe,
                progress=progress,
                profile=profile,
                allow_remote=allow_remote,
            )
        else:
            changes = corpus.update(recipe=recipe, progress=progress, profile=profile, allow_remote=allow_remote)
    if profile:
        for line in _profile_lines(profile, time.perf_counter() - start):
            typer.echo(line, err=True)
    _tell(changes, as_json=as_json)
    if watch:
        _keep_up(batches, changes, as_json=as_json)


def _keep_up(batches: Iterator[Changes], total: Changes, *, as_json: bool) -> None:
    typer.echo("watching; Ctrl-C ends it", err=True)
    try:
        for changes in batches:
            total += changes
            _tell(changes, as_json=as_json)
    except KeyboardInterrupt:
        counts = (f"{getattr(total, name):,} {name}" for name in ("added", "updated", "moved", "removed"))
        typer.echo(f"stopped watching; in all {' · '.join(counts)}", err=True)


def _tell(changes: Changes, *, as_json: bool) -> None:
    if as_json:
        print_json(dataclasses.asdict(changes))
        return
    typer.echo(str(changes))
    tell_failures(changes.failed)
    if changes.left:
        many = (
            f"{changes.left:,} files of rows (tables, tars, datasets) were"
            if changes.left > 1
            else "1 file of rows was"
        )
        typer.echo(f"{many} left as they are; name one to index what is in it: mmrag index FILE", err=True)
    if changes.still_failing:
        typer.echo(f"{changes.still_failing:,} failed before and have not changed: mmrag info --failed", err=True)


def remove(
    targets: Annotated[list[str], typer.Argument(help="Files, folders, uris or ids.")],
    index_dir: IndexOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take items out of the index. No file is deleted.

    A folder that is removed is not looked at again by `mmrag index`. What lies in another indexed folder comes
    back with it, unless that folder is indexed with --exclude.
    """
    removed = open_corpus(index_dir).remove(targets)
    if as_json:
        print_json({"removed": removed})
    else:
        typer.echo(f"{removed:,} removed")
        typer.echo("Indexing a folder that they lie in brings them back; --exclude leaves them out.", err=True)


def info(
    failed: Annotated[bool, typer.Option("--failed", help="List what could not be read, and why.")] = False,
    versions: Annotated[
        bool, typer.Option("--versions", help="List the versions that `mmrag restore` goes back to, newest first.")
    ] = False,
    index_dir: IndexOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what the index holds.

    How many items, from which folders, which model wrote it; with --failed what could not be read; with --versions
    the state after each of the last runs that changed something (10, unless the index's recipe says otherwise).
    """
    corpus = open_corpus(index_dir)
    if failed:
        _print_failures(corpus, as_json=as_json)
        return
    if versions:
        _print_versions(corpus, as_json=as_json)
        return
    facts = corpus.info()
    if as_json:
        print_json(facts)
        return
    for line in _info_lines(facts):
        typer.echo(line)


def _print_failures(corpus: Index, *, as_json: bool) -> None:
    for failure in corpus.failures():
        if as_json:
            print_json(dataclasses.asdict(failure))
        else:
            typer.echo(failure_line(failure))


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


def _open_or_create(
    paths: list[str],
    index_dir: Path | None,
    model: str | None,
    precision: Precision | None,
    device: Device,
    recipe: str,
) -> Index:
    from mmrag.errors import InputError
    from mmrag.index import FOLDER_NAME, create
    from mmrag.ingest.given import modalities_of
    from mmrag.models.registry import load_encoder
    from mmrag.sources.uri import is_remote
    from mmrag.stores.manifest import has_manifest

    local = (path for path in paths if not is_remote(path))
    missing = next((path for path in local if not os.path.lexists(os.path.expanduser(path))), None)
    if missing is not None:
        raise InputError(f"there is no file or folder {missing!r}; nothing was changed")
    home = index_dir or Path()
    home = home.parent if home.name == FOLDER_NAME else home
    if not paths or has_manifest(home / FOLDER_NAME):
        return open_corpus(index_dir if not paths else home, model, precision, device)
    if model is not None:
        for modality in sorted(modalities_of(paths)):  # before an index is made that could take none of the files
            load_encoder(model).check_modality(modality)
    if index_dir is None:
        _note_index_above()
    return create(home, model=model, precision=precision, device=device, recipe=recipe)


def _note_index_above() -> None:
    from mmrag.errors import IndexNotFoundError
    from mmrag.index import find_home

    with suppress(IndexNotFoundError):
        typer.echo(f"mmrag: note: making a new index here; there is one above, in {find_home()}", err=True)


def _profile_lines(profile: Profile, seconds: float) -> list[str]:
    times = profile.times()
    lines = [f"{'stage':<10} {'items':>9} {'seconds':>9} {'per second':>11}"]
    lines += [f"{one.stage:<10} {one.items:>9,} {one.seconds:>9.2f} {one.rate:>11,.0f}" for one in times]
    return [*lines, f"{seconds:.2f} seconds in all; those of stages are summed over threads"]


def _folder(folder: dict[str, Any]) -> str:
    without = f" (without {', '.join(folder['exclude'])})" if folder["exclude"] else ""
    return printable(folder["uri"] + without)


def _info_lines(facts: dict[str, Any]) -> list[str]:
    identity = facts["identity"]
    folders = ", ".join(_folder(folder) for folder in facts["folders"]) or "none"
    failed = f", {facts['failed']:,} failed (mmrag info --failed)" if facts["failed"] else ""
    return [
        f"index    {printable(facts['home'])}",
        f"items    {facts['images']:,} pictures, {facts['texts']:,} texts{failed}",
        f"model    {facts['model']}, revision {identity['revision']}, {identity['dimension']} dimensions",
        f"engine   {facts['writer']['engine']} in {facts['writer']['precision']}",
        f"folders  {folders}",
        f"view     {facts['view']}, of table version {facts['table_version']}",
        f"versions the last {facts['keep_versions']} are kept (mmrag info --versions, mmrag restore)",
        f"on disk  {facts['bytes'] / 1e6:,.1f} MB, made {facts['created']}",
    ]
