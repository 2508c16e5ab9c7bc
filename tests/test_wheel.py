"""The wheel, built and installed elsewhere, with nothing but what it asks for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
UV = Path(sys.executable).with_name("uv")

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not UV.exists(), reason="needs uv in the environment, as `make test` makes it"),
]


def run(*command, **options):
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=environment, timeout=900, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def photographs_of_our_own(photographs, tmp_path):
    return Path(shutil.copytree(photographs, tmp_path / "photographs"))


def interpreter(version: str) -> str:
    """Find a Python, pyenv's included."""
    pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    found = subprocess.run([UV, "python", "find", version], capture_output=True, text=True).stdout.strip()
    if not (found or pyenv):
        pytest.skip(f"there is no Python {version} on this machine")
    return found or str(pyenv[-1])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run(UV, "build", "--wheel", "--out-dir", folder, cwd=ROOT)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_is_small(wheel):
    assert wheel.stat().st_size < 45e6


@pytest.mark.parametrize(
    ("python", "resolution"), [("3.11", "lowest-direct"), ("3.11", "highest"), ("3.13", "highest")]
)
def test_the_wheel_works_elsewhere(wheel, python, resolution, tmp_path, photographs_of_our_own):
    photographs = photographs_of_our_own
    environment = tmp_path / "environment"
    run(UV, "venv", "--python", interpreter(python), environment)
    run(UV, "pip", "install", "--python", environment / "bin" / "python", "--resolution", resolution, wheel)
    mmrag = environment / "bin" / "mmrag"
    for shade in range(30):
        Image.new("RGB", (40, 30), (shade * 8, 99, 255 - shade)).save(photographs / f"shade{shade}.png")
    assert "36 added" in run(mmrag, "index", photographs, cwd=tmp_path)
    assert "36 unchanged" in run(mmrag, "index", cwd=tmp_path)
    assert len(run(mmrag, "search", "a colour", "--all", "-k", "100", cwd=tmp_path).splitlines()) == 36
    assert "coffee.png" in run(mmrag, "search", "a cup of coffee", "-k", "1", cwd=tmp_path)
    installed = run(UV, "pip", "list", "--python", environment / "bin" / "python")
    assert "torch" not in installed
