"""The log of a run, and what is drawn from it."""

from __future__ import annotations

import json
import re
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="needs the train extra")

from mmrag.errors import InputError, MissingExtraError
from mmrag.train.log import Log, flat_numbers, read_log, tensorboard
from mmrag.train.plot import MOST_POINTS, panels, svg, thinned, write_plots


def entries(steps=40):
    yield {"kind": "begin", "step": 0, "steps": steps, "epochs": 2, "device": "cpu", "seconds": 0.0}
    for step in range(1, steps + 1):
        yield {"kind": "step", "step": step, "epoch": 1, "loss": 4 / step, "temperature": 0.07, "seconds": step / 2}
        if step % (steps // 2) == 0:
            figures = {"text_to_image": {"R@1": 10.0 + step, "R@5": 50.0}}
            yield {"kind": "epoch", "step": step, "epoch": 2 * step // steps, "figures": figures, "kept": True}


@pytest.fixture
def run(tmp_path):
    log = Log(tmp_path, from_step=0, reporter=None)
    for entry in entries():
        log(entry)
    return tmp_path


def test_what_is_logged_is_read(run):
    assert [(entry["kind"], entry["step"]) for entry in read_log(run)] == [(e["kind"], e["step"]) for e in entries()]


def test_going_on_takes_later_steps_back(run):
    Log(run, from_step=20, reporter=None)({"kind": "begin", "step": 20})
    assert [entry["step"] for entry in read_log(run)][-3:] == [20, 20, 20]
    assert read_log(run)[-2]["kind"] == "epoch"


def test_a_line_that_was_cut_off_is_left_out(run):
    before = read_log(run)
    with (run / "log.jsonl").open("a") as file:
        file.write('{"kind": "st')
    assert read_log(run) == before


def test_a_reason_may_hold_any_character(tmp_path):
    log = Log(tmp_path, from_step=0, reporter=None)
    for step in (1, 2):
        log({"kind": "epoch", "step": step, "skipped": {"a\u2028b\x85c": 1}})
    assert [entry["step"] for entry in read_log(tmp_path)] == [1, 2]


def test_no_number_is_null(tmp_path):
    Log(tmp_path, from_step=0, reporter=None)({"kind": "step", "step": 1, "loss": float("nan")})
    assert json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=pytest.fail)["loss"] is None


def test_numbers_inside_tables_have_paths():
    entry = {"kind": "epoch", "kept": True, "figures": {"loss": 1, "both": {"R@1": 2.5}}}
    assert flat_numbers(entry) == {"figures/loss": 1, "figures/both/R@1": 2.5}


def test_a_curve_goes_through_what_was_logged():
    (loss,) = (panel for panel in panels(list(entries())) if panel.title == "loss")
    assert loss.series["loss"][:2] == [(1, 4.0), (2, 2.0)]
    line = ET.fromstring(svg(loss)).find("{http://www.w3.org/2000/svg}polyline")  # noqa: S314
    placed = np.array([point.split(",") for point in line.get("points").split()], float)
    heights = placed[0, 1] + (4 - 4 / np.arange(1, 41)) * (placed[1, 1] - placed[0, 1]) / 2
    np.testing.assert_allclose(placed[:, 1], heights, atol=0.2)
    np.testing.assert_allclose(np.diff(placed[:, 0]), np.diff(placed[:2, 0])[0], atol=0.2)


def test_long_runs_are_drawn_as_means():
    points = [(float(step), float(step % 2)) for step in range(10 * MOST_POINTS)]
    drawn = thinned(points)
    assert len(drawn) == MOST_POINTS
    assert {value for _, value in drawn} == {0.5}


def test_the_page_needs_nothing_but_itself(run):
    html, picture = write_plots(run)
    page = html.read_text()
    assert page.count("<svg") == 3  # validation, loss, temperature
    assert "validation text to image" in page
    assert not re.findall(r"(?:src|href)=", page)
    assert "<td>50</td>" in page
    colours = Image.open(picture).convert("RGB").getcolors(1 << 20)
    assert (10, 108, 116) in {colour for _, colour in colours}


def test_names_in_a_log_cannot_write_html(tmp_path):
    log = Log(tmp_path, from_step=0, reporter=None)
    log({"kind": "step", "step": 1, "<script>": 1.0})
    assert "<script" not in write_plots(tmp_path)[0].read_text()


def test_where_there_is_no_run_nothing_is_drawn(tmp_path):
    with pytest.raises(InputError, match="there is no training in"):
        write_plots(tmp_path)
    Log(tmp_path, from_step=0, reporter=None)({"kind": "begin", "step": 0})
    with pytest.raises(InputError, match="has not done a step yet"):
        write_plots(tmp_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard's own imports
def test_tensorboard_reads_what_is_reported(tmp_path):
    pytest.importorskip("tensorboard", reason="needs the train extra")
    report = tensorboard(tmp_path / "tensorboard")
    assert not (tmp_path / "tensorboard").exists()
    for entry in entries(4):
        report(entry)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(one.step, one.value) for one in events.Scalars("step/loss")] == [
        (step, pytest.approx(4 / step)) for step in (1, 2, 3, 4)
    ]
    assert [one.value for one in events.Scalars("epoch/figures/text_to_image/R@1")] == [12, 14]


def test_without_tensorboard_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"mmrag\[train\]"):
        tensorboard(tmp_path)
