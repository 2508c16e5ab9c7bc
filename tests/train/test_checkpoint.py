"""A run that is killed or stopped goes on as if it had not been."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from safetensors.torch import load_file  # noqa: E402

from mmrag.errors import InputError, Interrupted  # noqa: E402
from mmrag.train.loop import fit  # noqa: E402
from tests.train.driver import RECIPE, run  # noqa: E402
from tests.train.toy_task import HELD_OUT, PAIRS, ToyTask  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted") / "out"
    return out, run(out)


def assert_as(uninterrupted, out, report):
    whole, expected = uninterrupted
    for name, tensor in load_file(whole / "model.safetensors").items():
        assert torch.equal(tensor, load_file(out / "model.safetensors")[name]), name
    assert (report.epoch, report.figures, report.start_figures) == (
        expected.epoch,
        expected.figures,
        expected.start_figures,
    )
    assert told(out) == told(whole)


def told(out):
    """What the log says of steps and epochs, without what a clock says."""
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    clocks = ("seconds", "samples_per_second")
    return [
        {name: value for name, value in entry.items() if name not in clocks}
        for entry in entries
        if entry["kind"] in ("step", "epoch")
    ]


def stop_at(step):
    """Ctrl-C, as the terminal sends it."""

    def report(entry):
        if entry["kind"] == "step" and entry["step"] == step:
            os.kill(os.getpid(), signal.SIGINT)

    return report


def wait_for_step(process, out, step):
    for _ in range(4800):  # on a busy machine it takes long to start
        assert process.poll() is None, "it ended before it could be killed"
        if (out / "log.jsonl").is_file() and any(entry["step"] >= step for entry in told(out)):
            return
        time.sleep(0.05)
    pytest.fail("no step in four minutes")


def test_a_killed_run_goes_on_bit_for_bit(uninterrupted, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "tests.train.driver", "slow", str(out)]
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        try:
            wait_for_step(process, out, 7)  # of four an epoch; there are checkpoints after the third, fourth and sixth
        finally:
            process.kill()
    assert not (out / "model.safetensors").exists()
    assert 4 <= int(max((out / "checkpoint").glob("step-*")).stem[5:]) < 16
    assert_as(uninterrupted, out, run(out, resume=True))
    assert not (out / "checkpoint").exists()


@pytest.mark.parametrize("step", [2, 8])
def test_ctrl_c_saves_and_says_how_to_go_on(uninterrupted, tmp_path, step):
    out = tmp_path / "out"
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match=rf"after step {step} of 16; the same command with --resume goes on") as told:
        run(out, reporter=stop_at(step))
    assert signal.getsignal(signal.SIGINT) is before
    assert (out / "model.safetensors").exists() == ("is a model already" in str(told.value))
    assert [path.name for path in (out / "checkpoint").glob("step-*")] == [f"step-{step:08d}.safetensors"]
    assert_as(uninterrupted, out, run(out, resume=True))


def test_a_run_may_be_stopped_again_and_again(uninterrupted, tmp_path):
    out = tmp_path / "out"
    for step in (1, 5, 6):
        with pytest.raises(Interrupted):
            run(out, resume=True, reporter=stop_at(step))
    assert_as(uninterrupted, out, run(out, resume=True))


@pytest.fixture
def stopped(tmp_path):
    with pytest.raises(Interrupted):
        run(tmp_path, reporter=stop_at(5))
    return tmp_path


def test_a_run_that_is_not_finished_is_not_written_over(stopped):
    with pytest.raises(InputError, match="holds a run that is not finished: --resume goes on with it"):
        run(stopped)


def test_another_recipe_cannot_go_on(stopped):
    other = dataclasses.replace(RECIPE, optimizer=dataclasses.replace(RECIPE.optimizer, learning_rate=1e-3))
    with pytest.raises(InputError, match=r"was made with optimizer\.learning_rate = 0\.003, not 0\.001; go on with"):
        fit(ToyTask(dropout=0.2, normed=True), PAIRS, val=HELD_OUT, out=stopped, recipe=other, resume=True)


def test_other_pairs_cannot_go_on(stopped):
    task = ToyTask(dropout=0.2, normed=True)
    with pytest.raises(InputError, match=r"made with pairs = '48 pairs \(\w+\)', not '48 pairs .*validation"):
        fit(task, PAIRS[::-1], val=None, out=stopped, recipe=RECIPE, resume=True)


def test_more_threads_can(stopped, uninterrupted):
    quicker = dataclasses.replace(RECIPE, data=dataclasses.replace(RECIPE.data, threads=1))
    task = ToyTask(dropout=0.2, normed=True)
    report = fit(task, PAIRS, val=HELD_OUT, out=stopped, recipe=quicker, resume=True)
    assert_as(uninterrupted, stopped, report)


def test_a_damaged_checkpoint_says_what_to_do(stopped):
    (step,) = (stopped / "checkpoint").glob("step-*")
    step.write_bytes(step.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"cannot be read: .*; delete it to begin anew"):
        run(stopped, resume=True)


def test_a_half_written_checkpoint_is_none(stopped, uninterrupted):
    (stopped / "checkpoint" / "partial").write_bytes(b"half")
    assert_as(uninterrupted, stopped, run(stopped, resume=True))


def test_nothing_in_a_checkpoint_is_pickled(stopped):
    assert {path.suffix for path in (stopped / "checkpoint").iterdir()} == {".safetensors"}
