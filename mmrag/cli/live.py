"""A training in the terminal: a row an epoch, and where the present one stands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

ROWS = 12


class Course:
    """What a table shows of a run: its last epochs, and the present one.

    Attributes
    ----------
    epochs : list of dict of str to str
        Cells by column, the last `ROWS` of them.
    """

    def __init__(self) -> None:
        self.epochs: list[dict[str, str]] = []
        self._losses: list[float] = []
        self._begin: dict[str, Any] = {}
        self._step: dict[str, Any] = {}
        self._rate = 0.0

    def __call__(self, entry: dict[str, Any]) -> None:
        """Take in an entry of the log."""
        if entry["kind"] == "begin":
            self._begin = entry
        elif entry["kind"] == "step":
            self._step = entry
            self._losses.append(entry["loss"])
            fresh = entry["samples_per_second"]
            self._rate = 0.9 * self._rate + 0.1 * fresh if self._rate else fresh
        elif entry["kind"] == "epoch":
            self.epochs = [*self.epochs[1 - ROWS :], self._epoch(entry)]
            self._losses = []

    def _epoch(self, entry: dict[str, Any]) -> dict[str, str]:
        from mmrag.train.log import flat_numbers

        cells = {"epoch": str(entry["epoch"])}
        if self._losses:
            cells |= {"loss": f"{sum(self._losses) / len(self._losses):.4f}", **self._rates()}
        figures = flat_numbers(entry.get("figures", {}))
        shown = {name: value for name, value in figures.items() if not name.startswith("n_")}
        cells |= {name.replace("_", " ").replace("/", " "): f"{value:.4g}" for name, value in shown.items()}
        return cells | ({"kept": "✓"} if entry.get("kept") else {})

    def _rates(self) -> dict[str, str]:
        warm = {"temperature": f"{self._step['temperature']:.4f}"} if "temperature" in self._step else {}
        return {**warm, "samples/s": f"{self._rate:,.1f}"}

    def status(self) -> str:
        """Say where the present epoch stands, on one line."""
        if not self._step:
            return "measuring the start …"
        step, steps = self._step["step"], self._begin["steps"]
        done = step - self._begin["step"]
        cells = {
            "loss": f"{self._step['loss']:.4f}",
            **self._rates(),
            "left": left(self._seconds(), done, steps - step),
        }
        said = "  ".join(f"{name} {value}" for name, value in cells.items())
        return f"epoch {self._step['epoch']} of {self._begin['epochs']}  step {step:,} of {steps:,}  {said}"

    def _seconds(self) -> float:
        return float(self._step["seconds"] - self._begin.get("seconds", 0.0))


def left(seconds: float, done: int, steps: int) -> str:
    """Guess how long the rest takes, from how long what is done took.

    Examples
    --------
    >>> left(60.0, 10, 90), left(5.0, 10, 10)
    ('9 min', '5 s')
    """
    rest = seconds / max(1, done) * steps
    if rest < 120:
        return f"{rest:.0f} s"
    return f"{rest / 60:.0f} min" if rest < 7200 else f"{rest / 3600:.1f} h"


@contextmanager
def live_table() -> Iterator[Callable[[dict[str, Any]], None]]:
    """Show a run on stderr while the block runs, if that is a terminal; gives what takes the entries of its log."""
    if not sys.stderr.isatty():
        yield lambda entry: None  # noqa: ARG005
        return
    from rich.console import Console
    from rich.live import Live

    course = Course()
    with Live(console=Console(stderr=True), auto_refresh=False) as live:

        def show(entry: dict[str, Any]) -> None:
            course(entry)
            live.update(drawn(course), refresh=True)

        yield show


def drawn(course: Course) -> RenderableType:
    """Lay a course out."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table

    columns = list(dict.fromkeys(name for cells in course.epochs for name in cells))
    table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False)
    for cells in course.epochs:
        table.add_row(*(cells.get(name, "") for name in columns))
    return Group(table, course.status()) if course.epochs else course.status()
