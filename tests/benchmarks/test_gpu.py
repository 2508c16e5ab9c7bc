"""The benchmark for machines with a GPU: on the CPU, with tiny networks, and without what a bare machine lacks."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("transformers", reason="needs the torch extra")

ROOT = Path(__file__).resolve().parents[2]
ABSENT = ["open_clip", "faiss", "lancedb", "lance", "onnxruntime", "openvino", "pillow_heif", "pyarrow", "typer"]

pytestmark = pytest.mark.skipif(importlib.util.find_spec("benchmarks") is None, reason="needs the source tree")


def run(*arguments):
    code = (
        f"import sys; sys.modules |= dict.fromkeys({ABSENT})\n"
        f"sys.argv = ['gpu', *{list(arguments)}]\n"
        "import runpy; runpy.run_module('benchmarks.gpu', run_name='__main__')"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=300)


@pytest.mark.slow
def test_it_runs_on_a_bare_machine():
    done = run("--device", "cpu", "--tiny", "--count", "6")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    for name in ("ViT-B/32", "ViT-L/14", "ViT-g/14 and Q-Former"):
        for way in ("eager", "eager, decoding included"):
            assert told[name][way]["pictures/s"] > 0
            assert 0 < told[name][way]["fraction of peak"] < 1
    for precision in ("bf16", "fp32"):
        assert told["ViT-B/32, training"][precision]["pairs/s"] > 0
        assert 0 < told["ViT-B/32, training"][precision]["fraction of peak"] < 1
    assert told["device"] == "cpu"


def test_flops_are_those_of_the_papers():
    """ViT-B/32: 4.4 G multiplications and additions (CLIP's B/32 as published); ViT-L/14: 81 G."""
    from benchmarks.gpu import SHAPES, RandomEncoder, flops_per_picture

    small, large, giant = (flops_per_picture(RandomEncoder(shape, tiny=False)) / 2e9 for shape in SHAPES)
    assert small == pytest.approx(4.4, rel=0.02)
    assert large == pytest.approx(81, rel=0.02)
    assert 260 < giant < 290


def test_flops_of_training_are_three_times_those_of_looking():
    """ViT-B/32 and a text tower of 12 layers, 512 wide, over 77 tokens: 4.4 and 2.9 G multiplications and additions."""
    from benchmarks.gpu import clip_config, flops_per_pair

    assert flops_per_pair(clip_config(tiny=False)) / 2e9 == pytest.approx(3 * (4.4 + 2.9), rel=0.03)


@pytest.mark.slow
def test_the_whole_is_not_measured_on_a_cpu():
    done = run("--device", "cpu")
    assert done.returncode == 2
    assert "give --tiny" in done.stderr
