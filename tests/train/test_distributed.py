"""Two processes on this machine's processor train as one does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from safetensors.torch import load_file  # noqa: E402

from mmrag.train import distributed  # noqa: E402
from tests.train.driver import gradients  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


def start(what, out):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *launcher, "-m", "tests.train.driver", what, str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    out = tmp_path_factory.mktemp("two")
    done = start("two", out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("objective", ["info_nce", "sigmoid"])
def test_two_processes_have_the_gradients_of_one_with_the_joined_batch(two, objective, cached):
    expected = gradients(objective)
    for rank in (0, 1):
        for name, gradient in load_file(two / f"{objective}-{cached}-{rank}.safetensors").items():
            torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-5, msg=name)
            assert gradient.abs().max() > 1e-6, name


def test_the_first_process_writes_and_all_hold_what_was_kept(two):
    assert {path.name for path in (two / "model").iterdir()} == {
        "model.safetensors",
        "log.jsonl",
        "training.html",
        "training.png",
    }
    first, second = (load_file(two / f"kept-{rank}.safetensors") for rank in (0, 1))
    for name, tensor in load_file(two / "model" / "model.safetensors").items():
        assert torch.equal(tensor, first[name]), name
        assert torch.equal(tensor, second[name]), name


def test_a_process_that_fails_ends_the_run(tmp_path):
    done = start("failing", tmp_path)
    assert done.returncode != 0
    assert "the disk is full" in done.stderr


def test_alone_nothing_is_gathered():
    tensor = torch.ones(2, requires_grad=True)
    assert (distributed.rank(), distributed.world()) == (0, 1)
    assert distributed.gather(tensor) is tensor
