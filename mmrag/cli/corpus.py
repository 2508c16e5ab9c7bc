"""index, remove: what goes into the corpus, and out of it."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmrag.cli.options import (
    Device,
    DeviceOption,
    IndexOption,
    JsonOption,
    Precision,
    PrecisionOption,
    QuietOption,
    RemoteOption,
    open_corpus,
    print_json,
    progress_bar,
    tell_failures,
)

if TYPE_CHECKING:
    from mmrag.index import Index
    from mmrag.ingest.profile import Profile
    from mmrag.ingest.recipe import IndexRecipe
    from mmrag.types import Changes


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(epilog="Example:  mmrag index ./images --exclude '*.png'    mmrag index --watch ./images")(index)
    app.command(epilog="Example:  mmrag remove ./images/2019    mmrag remove --where 'year < 2000'")(remove)


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
    precision: PrecisionOption = None,
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
