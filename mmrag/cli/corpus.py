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
    tuning_line,
)

if TYPE_CHECKING:
    from mmrag.index import Index
    from mmrag.ingest.profile import Profile
    from mmrag.ingest.recipe import IndexRecipe
    from mmrag.types import Changes

_FACT_SHOWN = 32


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(epilog="Example:  mmrag index ./images --exclude '*.png'    mmrag index --watch ./images")(index)
    app.command(epilog="Example:  mmrag remove ./images/2019    mmrag remove --where 'year < 2000'")(remove)
    app.command(epilog="Example:  mmrag info --failed    mmrag info --versions    mmrag info --facts")(info)


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
    captions: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Texts and facts of pictures: .jsonl, .csv, .tsv, .parquet, COCO's .json; remembered. Repeatable.",
        ),
    ] = None,
    no_captions: Annotated[
        bool, typer.Option("--no-captions", help="Forget the captions files, and what they told.")
    ] = False,
    caption: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Have a model describe each picture that it has not: builtin, or another."),
    ] = None,
    ocr: Annotated[
        bool, typer.Option("--ocr", help="Read what stands in each picture that was not read; needs the extra ocr.")
    ] = False,
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
    from mmrag.ingest.recipe import load_recipe
    from mmrag.sources.remote import check_urls
    from mmrag.sources.uri import is_remote

    if exclude and not paths:
        raise InputError("--exclude needs the folder that it belongs to: mmrag index FOLDER --exclude GLOB")
    if captions and no_captions:
        raise InputError("--captions names a file and --no-captions forgets all; give one of them")
    told = [] if no_captions else captions
    options = _enriched(load_recipe(recipe), caption, ocr=ocr)
    profile = Profile() if profiled else None
    start = time.perf_counter()
    if any(map(is_remote, paths or [])):
        check_urls(paths or [], allowed=allow_remote)  # before an index is made
    corpus = _open_or_create(paths or [], index_dir, model, precision, device, options)
    with progress_bar("indexing", quiet=quiet or as_json) as progress:
        if watch:
            batches = corpus.watch(
                paths or None,
                exclude=exclude or (),
                captions=told,
                recipe=options,
                progress=progress,
                profile=profile,
                allow_remote=allow_remote,
            )
            changes = next(batches)
        elif paths:
            changes = corpus.add(
                paths,
                exclude=exclude or (),
                captions=told,
                recipe=options,
                progress=progress,
                profile=profile,
                allow_remote=allow_remote,
            )
        else:
            changes = corpus.update(
                captions=told, recipe=options, progress=progress, profile=profile, allow_remote=allow_remote
            )
    if profile:
        for line in _profile_lines(profile, time.perf_counter() - start):
            typer.echo(line, err=True)
    _tell(changes, as_json=as_json)
    if watch:
        _keep_up(batches, changes, as_json=as_json)


def _enriched(recipe: IndexRecipe, caption: str | None, *, ocr: bool) -> IndexRecipe:
    """Have a recipe ask for what the command line asks for, too."""
    enrich = dataclasses.replace(recipe.enrich, caption=caption or recipe.enrich.caption, ocr=ocr or recipe.enrich.ocr)
    return dataclasses.replace(recipe, enrich=enrich)


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
        typer.echo(f"{many} left unread; name one to index what is in it: mmrag index FILE", err=True)
    if changes.still_failing:
        typer.echo(f"{changes.still_failing:,} failed before and have not changed: mmrag info --failed", err=True)


def remove(
    targets: Annotated[list[str] | None, typer.Argument(help="Files, folders, uris or ids.")] = None,
    where: Annotated[
        str | None, typer.Option(metavar="FILTER", help='Only what passes, such as "year < 2000"; see mmrag search.')
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many.")] = False,
    index_dir: IndexOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take items out of the index. No file is deleted.

    A folder that is removed is not looked at again by `mmrag index`. What lies in another indexed folder comes
    back with it, unless that folder is indexed with --exclude; and so does what --where removes from a folder.
    """
    removed = open_corpus(index_dir).remove(targets or None, where=where, dry_run=dry_run)
    if as_json:
        print_json({"would_remove" if dry_run else "removed": removed})
    elif dry_run:
        typer.echo(f"{removed:,} would be removed")
    else:
        typer.echo(f"{removed:,} removed")
        typer.echo("Indexing a folder that they lie in brings them back; --exclude leaves them out.", err=True)


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


def _open_or_create(
    paths: list[str],
    index_dir: Path | None,
    model: str | None,
    precision: Precision | None,
    device: Device,
    recipe: IndexRecipe,
) -> Index:
    from mmrag.errors import InputError
    from mmrag.home import create, home_of
    from mmrag.ingest.given import modalities_of
    from mmrag.models.registry import load_encoder
    from mmrag.sources.uri import is_remote
    from mmrag.stores.manifest import FOLDER_NAME, has_manifest

    local = (path for path in paths if not is_remote(path))
    missing = next((path for path in local if not os.path.lexists(os.path.expanduser(path))), None)
    if missing is not None:
        raise InputError(f"there is no file or folder {missing!r}; nothing was changed")
    home = home_of(index_dir or ".")
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
    from mmrag.home import find_home

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
