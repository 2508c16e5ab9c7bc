"""A training on a machine that has torch and little else: pack here, run there, join here.

    python -m mmrag.train pack pairs-*.tar --val val.tar --recipe clip --side 256 --out bundle
    # carry bundle/piece-* over; there, without mmrag, in an empty folder:
    cat piece-* | tar -x && python -m mmrag.train run --device cuda --out model --pieces back
    # bring back/* home
    python -m mmrag.train join back --out my-model

Ctrl-C, or `timeout --signal INT 540 python -m …`, ends a run early with all that it takes to go on: join the pieces
into the folder of --out there, and run with --resume.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
from pathlib import Path

from mmrag.errors import Interrupted, MmragError
from mmrag.sources.pairs import open_pairs
from mmrag.train import bundle, pieces
from mmrag.train.log import Entry
from mmrag.train.recipe import load_recipe, read_change

MEGABYTE = 1_000_000
THERE_MEGABYTES = 60
BACK_MEGABYTES = 15


def main(arguments: list[str] | None = None) -> None:
    """Run a command; an error becomes one line on stderr and a non-zero exit code."""
    logging.basicConfig(format="mmrag: %(message)s", level=logging.WARNING)
    given = _parser().parse_args(arguments)
    try:
        given.command(given)
    except (MmragError, OSError) as error:
        print(f"mmrag: {error}", file=sys.stderr)
        sys.exit(130 if isinstance(error, Interrupted) else 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mmrag.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="pack|run|join")

    pack = commands.add_parser("pack", help="write all that a training needs, in pieces")
    pack.set_defaults(command=_pack)
    pack.add_argument("pairs", nargs="+", type=Path, help="files of pairs, as `mmrag train` takes them")
    pack.add_argument("--out", required=True, type=Path, metavar="DIR", help="a folder for the pieces")
    pack.add_argument("--recipe", required=True, metavar="NAME", help="as `mmrag train` takes it")
    pack.add_argument("--val", nargs="+", type=Path, metavar="FILE", help="pairs that decide which epoch is kept")
    pack.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes")
    pack.add_argument("--side", type=int, metavar="PIXELS", help="shrink pictures whose shorter side is longer")
    pack.add_argument("--limit", type=int, default=THERE_MEGABYTES, metavar="MB", help="of a piece (%(default)s)")

    run = commands.add_parser("run", help="train what was packed")
    run.set_defaults(command=_run)
    run.add_argument("--bundle", type=Path, default=Path(), metavar="DIR", help="where it was unpacked (.)")
    run.add_argument("--out", required=True, type=Path, metavar="DIR", help="the model folder to write")
    run.add_argument("--pieces", type=Path, metavar="DIR", help="a folder for the model in pieces")
    run.add_argument("--device", default="cpu", help="as torch names it (%(default)s)")
    run.add_argument("--resume", action="store_true", help="go on with the run in --out")
    run.add_argument("--limit", type=int, default=BACK_MEGABYTES, metavar="MB", help="of a piece (%(default)s)")

    join = commands.add_parser("join", help="make a folder of pieces again")
    join.set_defaults(command=_join)
    join.add_argument("pieces", nargs="+", type=Path, help="folders with the pieces and their list")
    join.add_argument("--out", required=True, type=Path, metavar="DIR", help="the folder to write")
    return parser


def _pack(given: argparse.Namespace) -> None:
    recipe = load_recipe(given.recipe, changes=dict(map(read_change, given.changes)))
    key = recipe.data.text_key
    pairs = open_pairs(given.pairs, text_key=key)
    val = open_pairs(given.val, text_key=key) if given.val else None
    with tempfile.TemporaryDirectory() as folder:
        skipped = bundle.pack(recipe, pairs, Path(folder), val=val, side=given.side)
        written = pieces.cut(Path(folder), given.out, limit=given.limit * MEGABYTE)
    for reason, count in skipped.items():
        print(f"{count:,} skipped: {reason}", file=sys.stderr)
    print(f"{len(written)} pieces → {given.out}")


def _run(given: argparse.Namespace) -> None:
    try:
        report = bundle.run(given.bundle, given.out, device=given.device, resume=given.resume, reporter=_tell)
    except Interrupted:
        _cut(given)
        raise
    _cut(given)
    if _is_first():
        print(f"epoch {report.epoch} of {report.epochs}, {report.seconds:,.0f} s → {given.out}")


def _cut(given: argparse.Namespace) -> None:
    if given.pieces and _is_first():
        pieces.cut(given.out, given.pieces, limit=given.limit * MEGABYTE)


def _is_first() -> bool:
    """Whether this is the first of the processes that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def _tell(entry: Entry) -> None:
    if entry["kind"] != "step":
        print(json.dumps(entry), file=sys.stderr, flush=True)


def _join(given: argparse.Namespace) -> None:
    pieces.join(given.pieces, given.out)
    print(f"→ {given.out}")


if __name__ == "__main__":
    main()
