from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="needs the train extra")


def test_training_needs_little():
    """On a bare GPU machine there is torch, numpy, pillow, tokenizers and safetensors, and nothing else of ours."""
    absent = ["onnxruntime", "lancedb", "pyarrow", "typer", "rich", "pillow_heif", "onnx", "onnx_ir", "onnxscript"]
    absent += ["peft", "tensorboard"]
    code = (
        "import sys\n"
        f"for name in {absent}: sys.modules[name] = None\n"
        "import mmrag.train, mmrag.train.tasks, mmrag.sources.pairs\n"
        "start = mmrag.train.load_start('builtin')\n"
        "assert start.network and start.tokenizer"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
