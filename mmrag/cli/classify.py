"""classify: pictures and labels → how probable each label is."""

from __future__ import annotations

import csv
import dataclasses
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from mmrag.cli.options import (
    Device,
    DeviceOption,
    IndexOption,
    JsonOption,
    Precision,
    QuietOption,
    open_corpus,
    print_json,
    printable,
    progress_bar,
    shown_path,
)

if TYPE_CHECKING:
    from mmrag.types import Classification
    from mmrag.zeroshot.accuracy import Accuracy

Tell = Callable[["Classification"], None]

_COLUMNS = ("path", "rank", "label", "probability", "truth", "failure")


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(
        epilog='Example:  mmrag classify ./images --labels cat,dog,"a red car"    mmrag classify --labels names.txt'
    )(classify)


def classify(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders or pictures; without any, those of the index, by its vectors."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,…|FILE.txt",
            help="What the pictures may show, or a file with a label a line; by default the folders' names.",
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", "--k", help="How many labels a picture gets.")] = 1,
    templates: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="What makes sentences of labels: imagenet, chinese, plain, or a file with a line such as 'a photo of "
            "a {}.' each; by default as the model's languages are.",
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Leave out, by name or by path below the folder. Repeatable."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A name that `mmrag models` lists, a model folder, or FAMILY:NAME; of an index, its own.",
        ),
    ] = None,
    precision: Annotated[Precision | None, typer.Option(help="What pictures are encoded in.")] = None,
    device: DeviceOption = Device.auto,
    logit_scale: Annotated[
        float | None, typer.Option(help="The higher, the surer; by default as the model was trained, or 100.")
    ] = None,
    csv_file: Annotated[
        Path | None,
        typer.Option(
            "--csv",
            metavar="FILE",
            help="Write a table, a row for each label; - is stdout. A file is replaced at the end, or by the rows so "
            "far at Ctrl-C.",
        ),
    ] = None,
    index_dir: IndexOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Sort pictures by labels of your own, without training.

    Prints a picture's path, and its most probable labels with their probabilities, which compare the labels given:
    over all of them they sum up to 1. Where folders are named as labels, the accuracy is told at the end.
    """
    from mmrag.errors import InputError

    if exclude and not paths:
        raise InputError("--exclude needs the folder that it belongs to: mmrag classify FOLDER --exclude GLOB")
    wanted = None if labels is None else _parse_labels(labels)
    options: dict[str, Any] = {"templates": templates, "k": k, "logit_scale": logit_scale}
    to_terminal = csv_file in (None, Path("-")) and sys.stdout.isatty()
    with (
        _output(csv_file, as_json=as_json) as tell,
        progress_bar("classifying", quiet=quiet or to_terminal) as progress,
    ):
        if paths:
            from mmrag.zeroshot.files import classify as classify_files  # imports the decoders

            where: dict[str, Any] = {"model": model or "builtin", "precision": precision, "device": device}
            where["exclude"] = exclude or ()
            results = classify_files(paths, wanted, progress=progress, **where, **options)
        else:
            corpus = open_corpus(index_dir, model, precision, device)
            results = _as_seen(corpus.classify(wanted, progress=progress, **options), corpus.home)
        accuracy, done, failed = _tell_all(results, tell)
    _tell_accuracy(accuracy, as_json=as_json, aside=csv_file == Path("-"))
    if failed or not done:
        typer.echo(f"{failed:,} could not be read" if done else "mmrag: there is no picture to classify", err=True)


def _tell_all(results: Iterator[Classification], tell: Tell) -> tuple[Accuracy, int, int]:
    """Tell of each picture as it comes; gives the accuracy, and how many there were and failed."""
    from mmrag.errors import Interrupted
    from mmrag.zeroshot.accuracy import Accuracy

    accuracy, done, failed = Accuracy(), 0, 0
    try:
        for one in results:
            tell(one)
            accuracy.add(one)
            done, failed = done + 1, failed + (one.failure is not None)
    except KeyboardInterrupt as error:
        raise Interrupted(f"stopped; {done:,} pictures are classified, and what was told of them holds") from error
    return accuracy, done, failed


def _as_seen(results: Iterator[Classification], home: Path) -> Iterator[Classification]:
    """Name the pictures of an index as they are seen from the current folder."""
    for one in results:
        path = home / one.uri
        yield dataclasses.replace(one, uri=shown_path(path)) if path.exists() else one


def _parse_labels(given: str) -> tuple[str, ...]:
    from mmrag.zeroshot.prompts import clean_labels, read_labels

    if given.endswith(".txt"):
        return read_labels(given)
    return clean_labels(next(csv.reader([given], skipinitialspace=True), []))


@contextmanager
def _output(csv_file: Path | None, *, as_json: bool) -> Iterator[Tell]:
    """Give what tells of a picture: in lines, as JSON, or in a table."""
    if csv_file is None:
        yield (lambda one: print_json(dataclasses.asdict(one))) if as_json else _print_line
    elif csv_file == Path("-"):
        yield _table(sys.stdout)
    else:
        from mmrag.report.replace import replacing

        with replacing(csv_file) as file:
            yield _table(file)


def _table(file: TextIO) -> Tell:
    """Write a table's head; give what writes a picture's rows."""
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(_COLUMNS)

    def tell(one: Classification) -> None:
        if one.failure is not None:
            rows.writerow([one.uri, "", "", "", "", one.failure])
        for rank, (label, probability) in enumerate(zip(one.labels, one.probabilities, strict=True), start=1):
            rows.writerow([one.uri, rank, label, f"{probability:.6f}", one.truth or "", ""])

    return tell


def _print_line(one: Classification) -> None:
    if one.failure is not None:
        typer.echo(f"failed  {printable(one.uri)}: {one.failure}", err=True)
        return
    shown = zip(one.labels, one.probabilities, strict=True)
    typer.echo("  ".join([printable(one.uri), *(f"{printable(label)} {share:.3f}" for label, share in shown)]))


def _tell_accuracy(accuracy: Accuracy, *, as_json: bool, aside: bool) -> None:
    figures = accuracy.as_dict()
    if not figures:
        return
    if as_json and not aside:
        print_json({"accuracy": figures})
        return
    lines = {f"all {figures['pictures']:,}": figures, **figures["labels"]}
    for name, shares in lines.items():
        counted = "" if shares is figures else f"  of {shares['pictures']:,}"
        typer.echo(
            f"top-1 {shares['top-1']:5.1f} %  top-5 {shares['top-5']:5.1f} %  {printable(name)}{counted}", err=aside
        )
