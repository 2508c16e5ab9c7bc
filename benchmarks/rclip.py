"""The peer: rclip 4.0.8 in an environment of its own, running the same ONNX files as mmrag."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx_ir

VERSION = "4.0.8"
PYTHON = "3.12"
HOME = Path(__file__).resolve().parents[1] / ".venv-rclip"

_FOLDER = "ViT-B-32-256-datacomp_s34b_b86k"
_LEGAL = ("LICENSE", "OPENAI-CLIP-MIT.txt", "README.md", "THIRD_PARTY_NOTICES.md")


def install() -> Path:
    """Install rclip into its own environment, with uv, and give its command. It needs Python 3.12 or newer."""
    command = HOME / "bin" / "rclip"
    if not command.is_file():
        uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") or "uv"
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", _python(), HOME], check=True)
        packages = [
            "uv",
            "pip",
            "install",
            "--quiet",
            "--compile-bytecode",
            "--python",
            HOME / "bin" / "python",
            f"rclip=={VERSION}",
        ]
        subprocess.run([uv, *packages[1:]], check=True)
    return command


def _python() -> str:
    """Find a Python that is new enough: on the path, or among pyenv's."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    found = sorted(versions.glob("3.1[2-9]*/bin/python"))
    return str(found[0]) if found else PYTHON


def prepare(model: Path, data: Path) -> dict[str, str]:
    """Lay out rclip's data folder with the model's own graphs; only their inputs and outputs are renamed.

    Returns
    -------
    dict
        What to add to the environment that rclip runs in.
    """
    folder = data / _FOLDER
    folder.mkdir(parents=True)
    for tower, name in (("vision", "visual"), ("text", "textual")):
        graph = onnx_ir.load(model / "onnx" / f"{tower}_model.onnx")
        graph.graph.inputs[0].name = "input"
        graph.graph.outputs[0].name = "output"
        onnx_ir.save(graph, folder / f"{name}.onnx", external_data=f"{name}.onnx.data")
    (data / "tokenizer").mkdir()
    spec = importlib.util.find_spec("open_clip")
    assert spec
    assert spec.submodule_search_locations
    merges = Path(spec.submodule_search_locations[0], "bpe_simple_vocab_16e6.txt.gz")
    shutil.copyfile(merges, data / "tokenizer" / merges.name)
    for name in _LEGAL:
        (data / name).touch()
    return {"RCLIP_DATADIR": str(data), "PYTHONPATH": ""}
