"""A run at a glance: its log as an HTML page and as a PNG, drawn without any library of charts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from mmrag.errors import InputError
from mmrag.report.page import page, text, write_page
from mmrag.train.log import Entry, flat_numbers, read_log

PAGE_NAME, PICTURE_NAME = "training.html", "training.png"
WIDTH, HEIGHT = 460, 260  # of a panel, in pixels
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 34, 28  # of which margins
COLOURS = ("#0a6c74", "#c8553d", "#5b5ea6", "#b8860b", "#3a7d44", "#8c4a6b")
INK, FAINT, LINE, GROUND = "#1c1c1a", "#6b6b66", "#dfdfd9", "#ffffff"
MOST_POINTS = 500
NO_PANEL = {"step", "epoch", "seconds"}

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One chart.

    Attributes
    ----------
    title : str
    series : dict of str to list of (float, float)
        Steps and values, by name.
    """

    title: str
    series: dict[str, Points]

    def limits(self) -> tuple[float, float, float, float]:
        """Give the first and last step, and the lowest and highest value with some room."""
        steps = [step for points in self.series.values() for step, _ in points]
        values = [value for points in self.series.values() for _, value in points]
        low, high = min(values), max(values)
        room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
        return min(steps), max(max(steps), min(steps) + 1), low - room, high + room

    def place(self, points: Iterable[tuple[float, float]]) -> Points:
        """Turn steps and values into pixels of the panel."""
        first, last, low, high = self.limits()
        across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return [
            (LEFT + across * (step - first) / (last - first), TOP + down * (high - value) / (high - low))
            for step, value in points
        ]


def write_plots(out: Path) -> tuple[Path, Path]:
    """Draw the log of a run into its folder, as ``training.html`` and ``training.png``.

    Raises
    ------
    InputError
        If there is no log, or it has no step yet.
    """
    entries = read_log(out)
    charts = panels(entries)
    if not charts:
        raise InputError(f"the run in {str(out)!r} has not done a step yet; there is nothing to draw")
    write_page(out / PAGE_NAME, page(f"Training of {out.resolve().name}", body(out.resolve().name, charts, entries)))
    draw(charts).save(out / PICTURE_NAME)
    return out / PAGE_NAME, out / PICTURE_NAME


def panels(entries: Sequence[Entry]) -> list[Panel]:
    """Sort what a log tells into charts: what was measured, the losses, and one for everything else of each step."""
    measured = series(entry for entry in entries if entry["kind"] == "epoch")
    steps = series(entry for entry in entries if entry["kind"] == "step")
    groups: dict[str, dict[str, Points]] = {}
    for name, points in measured.items():
        if name.startswith("figures/"):
            title, _, last = name.removeprefix("figures/").rpartition("/")
            groups.setdefault(f"validation {title}".replace("_", " ").strip(), {})[last] = points
    for name, points in steps.items():
        groups.setdefault("loss" if "loss" in name else name.replace("_", " "), {})[name] = points
    return [Panel(title, dict(list(lines.items())[: len(COLOURS)])) for title, lines in groups.items()]


def series(entries: Iterable[Entry]) -> dict[str, Points]:
    """Collect the numbers of entries by name; of long runs, the means of stretches."""
    collected: dict[str, Points] = {}
    for entry in entries:
        for name, value in flat_numbers(entry).items():
            if name not in NO_PANEL:
                collected.setdefault(name, []).append((entry["step"], value))
    return {name: thinned(points) for name, points in collected.items()}


def thinned(points: Points) -> Points:
    """Average stretches so that no more than `MOST_POINTS` are left."""
    stretch = math.ceil(len(points) / MOST_POINTS)
    if stretch == 1:
        return points
    parts = [points[first : first + stretch] for first in range(0, len(points), stretch)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


def number(value: float) -> str:
    """Write a number in as few characters as it needs."""
    return f"{value:.3g}" if abs(value) < 10_000 else f"{value:,.0f}"


def body(name: str, charts: Sequence[Panel], entries: Sequence[Entry]) -> str:
    """Write the page's body: the charts, and a table of the epochs."""
    drawn = "".join(svg(panel) for panel in charts)
    return f"<header><h1>{text(name)}</h1></header>\n<section>{drawn}</section>\n{table(entries)}"


def svg(panel: Panel) -> str:
    """Draw a panel as SVG."""
    marks = [
        f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="{colour}" font-size="11">{text(words)}</text>'
        for x, y, anchor, colour, words in labels(panel)
    ]
    lines = [f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="{LINE}"/>' for y in grid()]
    curves = []
    for colour, points in zip(COLOURS, panel.series.values(), strict=False):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in panel.place(points))
        curves.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        if len(points) == 1:
            (x, y) = panel.place(points)[0]
            curves.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label="{text(panel.title)}"><rect width="{WIDTH}" height="{HEIGHT}" fill="{GROUND}"/>'
        f"{''.join(lines + marks + curves)}</svg>"
    )


def draw(charts: Sequence[Panel]) -> Image.Image:
    """Draw panels as one picture, two in a row."""
    rows = math.ceil(len(charts) / 2)
    picture = Image.new("RGB", (2 * WIDTH * 2, rows * HEIGHT * 2), GROUND)
    for index, panel in enumerate(charts):
        picture.paste(_drawn(panel), (index % 2 * WIDTH * 2, index // 2 * HEIGHT * 2))
    return picture


def _drawn(panel: Panel) -> Image.Image:
    """Draw one at twice its size, so that its lines are smooth."""
    image = Image.new("RGB", (WIDTH * 2, HEIGHT * 2), GROUND)
    canvas = ImageDraw.Draw(image)
    font = ImageFont.load_default(22)
    for y in grid():
        canvas.line([(LEFT * 2, y * 2), ((WIDTH - RIGHT) * 2, y * 2)], fill=LINE, width=2)
    for x, y, anchor, colour, words in labels(panel):
        side = {"start": "l", "end": "r", "middle": "m"}[anchor]
        canvas.text((x * 2, y * 2), words, fill=colour, font=font, anchor=f"{side}s")
    for colour, points in zip(COLOURS, panel.series.values(), strict=False):
        placed = [(x * 2, y * 2) for x, y in panel.place(points)]
        if len(placed) > 1:
            canvas.line(placed, fill=colour, width=3, joint="curve")
        else:
            canvas.circle(placed[0], 5, fill=colour)
    return image


def grid() -> list[float]:
    """Give the heights of the lines behind the curves."""
    return [TOP + (HEIGHT - TOP - BOTTOM) * part / 4 for part in range(5)]


def labels(panel: Panel) -> list[tuple[float, float, str, str, str]]:
    """Give the words of a panel: x, baseline, anchor, colour, text."""
    first, last, low, high = panel.limits()
    words: list[tuple[float, float, str, str, str]] = [(LEFT, 20.0, "start", INK, panel.title)]
    words += [(LEFT - 6, y + 4, "end", FAINT, number(high - (high - low) * part / 4)) for part, y in enumerate(grid())]
    words += [
        (LEFT, HEIGHT - 10, "start", FAINT, number(first)),
        (WIDTH - RIGHT, HEIGHT - 10, "end", FAINT, number(last)),
    ]
    if len(panel.series) > 1:
        x = float(WIDTH - RIGHT)
        for colour, name in reversed(list(zip(COLOURS, panel.series, strict=False))):
            words.append((x, 20.0, "end", colour, name))
            x -= 7 * len(name) + 12
    return words


def table(entries: Sequence[Entry]) -> str:
    """Write the epochs and what was measured of them."""
    epochs = [(entry, flat_numbers(entry.get("figures", {}))) for entry in entries if entry["kind"] == "epoch"]
    columns = list(dict.fromkeys(name for _, figures in epochs for name in figures))
    head = "".join(f"<th>{text(name.replace('_', ' ').replace('/', ' '))}</th>" for name in ("epoch", *columns))
    rows = "".join(_row(entry, figures, columns) for entry, figures in epochs)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>" if columns else ""


def _row(entry: Mapping[str, Any], figures: Mapping[str, float], columns: Sequence[str]) -> str:
    cells = [f"{entry['epoch']}", *(number(figures[name]) if name in figures else "" for name in columns)]
    return "<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in cells) + "</tr>"
