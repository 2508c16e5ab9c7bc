"""mmrag train, with a task that learns in seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the train extra")

from mmrag.cli.live import Course, left
from mmrag.train.tasks import TASKS
from tests.train.toy_task import PAIRS

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """
task = "toy"
start = "nowhere"
[data]
batch_size = 12
[optimizer]
learning_rate = 3e-3
warmup = 0.0
[loop]
epochs = 2
"""
PROGRAM = (
    "import sys; from mmrag.train import tasks; tasks.TASKS['toy'] = 'tests.train.toy_task:open_toy'\n"
    "from mmrag.cli.main import main; main()"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    with (folder / "pairs.jsonl").open("w") as file:
        for pair in PAIRS:
            (folder / f"{pair.id}.png").write_bytes(pair.image)
            file.write(json.dumps({"image": f"{pair.id}.png", "texts": pair.texts}) + "\n")
    (folder / "toy.toml").write_text(RECIPE)
    return folder


def begin(*arguments, cwd):
    command = [sys.executable, "-c", PROGRAM, "train", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture
def run(home, command, monkeypatch):
    """Run the command in this process: gives its exit code and what it printed."""
    monkeypatch.chdir(home)
    monkeypatch.setitem(TASKS, "toy", "tests.train.toy_task:open_toy")
    return lambda *arguments: command("train", *arguments)


def test_a_recipe_trains_and_tells(home, run):
    given = ("pairs.jsonl", "--recipe", "toy.toml", "--val", "pairs.jsonl", "--out", "model")
    code, stdout, stderr = run(*given, "--epochs", "3", "--set", "optimizer.schedule=constant", "--json")
    assert (code, stderr) == (0, "")
    report = json.loads(stdout)
    assert (report["model"], report["epochs"], report["steps"], report["skipped"]) == ("model", 3, 12, {})
    assert report["figures"]["text_to_image"]["R@1"] > report["start"]["text_to_image"]["R@1"]
    steps = [json.loads(line) for line in (home / "model" / "log.jsonl").read_text().splitlines()]
    assert steps[-2]["kind"] == "epoch"
    assert {entry["learning_rate"] for entry in steps if entry["kind"] == "step"} == {0.003}
    (home / "model" / "training.html").unlink()
    assert run("--out", "model", "--plot")[1].splitlines() == ["model/training.html", "model/training.png"]
    assert (home / "model" / "training.html").is_file()


def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(home, run):
    given = ("pairs.jsonl", "--recipe", "toy.toml", "--out", "stopped", "--epochs", "2000")
    with begin(*given, cwd=home) as process:
        for _ in range(4800):
            log = home / "stopped" / "log.jsonl"
            if process.poll() is not None or (log.is_file() and log.read_text().count("step") > 3):
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "the same command with --resume goes on from there" in stderr.splitlines()[-1]
    assert not stdout
    code, _, stderr = run(*given)
    assert code == 1
    assert "holds a run that is not finished: --resume goes on with it" in stderr
    code, _, stderr = run(*given[:-1], "1000", "--resume")
    assert code == 1
    assert "was made with loop.epochs = 2000, not 1000" in stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--out", "x"), "there is nothing to train on"),
        (("pairs.jsonl", "--recipe", "clib", "--out", "x"), "there is no recipe 'clib' in trainers/"),
        (("pairs.jsonl", "--recipe", "toy.toml", "--set", "loop.epoch=3", "--out", "x"), "did you mean 'epochs'?"),
    ],
)
def test_mistakes_are_one_line(run, arguments, said):
    code, stdout, stderr = run(*arguments)
    assert (code, stdout) == (1, "")
    assert said in stderr
    assert len(stderr.splitlines()) == 1


def test_the_table_shows_epochs_and_where_the_present_one_stands():
    course = Course()
    course({"kind": "begin", "step": 10, "steps": 40, "epochs": 4, "seconds": 100.0})
    assert course.status() == "measuring the start …"
    for step, loss in ((11, 4.0), (12, 2.0)):
        entry = {"loss": loss, "temperature": 0.07, "samples_per_second": 50.0, "seconds": 100.0 + 5 * (step - 10)}
        course({"kind": "step", "step": step, "epoch": 2, **entry})
    assert course.status() == (
        "epoch 2 of 4  step 12 of 40  loss 2.0000  temperature 0.0700  samples/s 50.0  left 140 s".replace(
            "140 s", "2 min"
        )
    )
    figures = {"text_to_image": {"R@1": 31.25}, "n_images": 12}
    course({"kind": "epoch", "step": 20, "epoch": 2, "figures": figures, "kept": True})
    assert course.epochs == [
        {
            "epoch": "2",
            "loss": "3.0000",
            "temperature": "0.0700",
            "samples/s": "50.0",
            "text to image R@1": "31.25",
            "kept": "✓",
        }
    ]


@pytest.mark.parametrize(("steps", "said"), [(5, "10 s"), (100, "3 min"), (10_000, "5.6 h")])
def test_time_left_has_a_fitting_unit(steps, said):
    assert left(20.0, 10, steps) == said
