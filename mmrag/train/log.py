"""What a run tells while it runs: a dict for every step and epoch, to a file and to whoever else wants to know.

Every entry has a ``kind`` and the ``step`` it was made after. Besides:

- ``begin``: ``steps``, ``epochs``, ``device``, ``seconds`` so far;
- ``step``: ``epoch``, ``loss`` and the task's other losses, ``learning_rate``, ``gradient_norm``,
  ``samples_per_second``, ``seconds``, and what the task logs;
- ``epoch``: ``epoch`` (0 is the start), ``figures``, ``kept``, ``skipped``, ``seconds``;
- ``end``: ``epoch`` (the one that was kept), ``figures``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmrag.errors import InputError, MissingExtraError
from mmrag.train import distributed

LOG_NAME = "log.jsonl"

Entry = dict[str, Any]
Reporter = Callable[[Entry], None]


class Log:
    """A JSONL file of entries, and a reporter that gets them too; only the first process has one.

    Parameters
    ----------
    out : path
        The folder of the run.
    from_step : int
        Where the run goes on: entries of later steps are taken back.
    reporter : callable or None
        Called with every entry.
    """

    def __init__(self, out: Path, *, from_step: int, reporter: Reporter | None) -> None:
        self._path = out / LOG_NAME
        self._reporter = reporter
        if distributed.rank() == 0:
            kept = [entry for entry in read_log(out) if entry["step"] <= from_step] if from_step else []
            aside = self._path.with_suffix(".partial")
            aside.write_text("".join(map(_line, kept)), encoding="utf-8")
            aside.replace(self._path)

    def __call__(self, entry: Entry) -> None:
        """Write one down."""
        if distributed.rank() != 0:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(entry))
        if self._reporter:
            self._reporter(entry)


def _line(entry: Entry) -> str:
    return json.dumps(_plain(entry), ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    """Shorten numbers, and write null for what is none: JSON knows no NaN."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return value


def read_log(out: Path) -> list[Entry]:
    """Read the entries of a run; a last line that a power cut left unfinished is none.

    Raises
    ------
    InputError
        If there is no log.
    """
    try:
        lines = (out / LOG_NAME).read_text(encoding="utf-8").split("\n")  # a reason may hold what else ends lines
    except OSError as error:
        raise InputError(f"there is no training in {str(out)!r}: cannot read {LOG_NAME}: {error.strerror}") from error
    return list(_entries(lines))


def _entries(lines: list[str]) -> Iterator[Entry]:
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            return


def flat_numbers(entry: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Give the numbers of an entry, those of tables inside under ``TABLE/NAME``."""
    numbers: dict[str, float] = {}
    for name, value in entry.items():
        if isinstance(value, Mapping):
            numbers |= flat_numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers[prefix + name] = value
    return numbers


def tensorboard(folder: Path) -> Reporter:
    """Make a reporter that writes for TensorBoard.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("tensorboard", "train") from error
    made: list[SummaryWriter] = []

    def report(entry: Entry) -> None:
        if not made:  # at the first entry: before that, the folder of the run has to be empty
            made.append(SummaryWriter(str(folder)))
        for name, value in flat_numbers(entry).items():
            if name not in ("step", "steps"):
                made[0].add_scalar(f"{entry['kind']}/{name}", value, entry["step"])
        if entry["kind"] in ("epoch", "end"):
            made[0].flush()

    return report
