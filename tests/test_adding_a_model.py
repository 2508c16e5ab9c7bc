"""The page on adding a model, followed to the letter: its files are installed, its commands and programs are run."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "tests" / "thirdparty"


class Block(NamedTuple):
    kind: str
    file: str
    text: str


BLOCKS = [Block(*found) for found in re.findall(r"^```(\w+) ?(\S*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)]
FILES = {block.file: block.text for block in BLOCKS if block.file}
PROGRAMS = [
    (block.text, after.text)
    for block, after in pairwise(BLOCKS)
    if (block.kind, block.file, after.kind) == ("python", "", "text")
]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the page's package in it, as pip puts it there: with nothing but what is on this machine."""
    if importlib.util.find_spec("setuptools") is None:  # importing it fails where distutils of Python's own was
        pytest.skip("the example is built with setuptools")
    home = tmp_path_factory.mktemp("stranger")
    (home / "mmrag-colours").mkdir()
    for name, text in FILES.items():
        (home / "mmrag-colours" / name).write_text(text, encoding="utf-8")
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--no-cache-dir"]
    command = [sys.executable, "-m", "pip", "install", *offline, "--target", home / "site", home / "mmrag-colours"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return home / "site"


def run(installed: Path, *command: str, cwd: Path, environment: dict[str, str] | None = None) -> str:
    paths = os.pathsep.join([str(installed), str(ROOT)])
    done = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": paths, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_every_block_of_the_page_is_tried():
    assert PAGE.count("\n```") == 2 * len(BLOCKS)
    kinds = [(block.kind, block.file) for block in BLOCKS]
    assert kinds == [
        ("toml", "pyproject.toml"),
        ("python", "mmrag_colours.py"),
        *[("console", ""), *[("python", ""), ("text", "")] * 3, ("console", "")],
    ]
    assert len(PROGRAMS) == 3


def test_the_page_shows_the_example_as_it_is():
    assert {path.name: path.read_text(encoding="utf-8") for path in EXAMPLE.iterdir() if path.is_file()} == FILES


def test_its_commands_print_what_it_says(installed, colours):
    first, *commands = re.findall(r"^\$ (.+)\n((?:[^$].*\n)*)", BLOCKS[2].text, re.MULTILINE)
    assert first == ("pip install ./mmrag-colours", "")
    assert len(commands) == 3
    for command, printed in commands:
        mmrag, *arguments = shlex.split(command)
        assert mmrag == "mmrag"
        assert run(installed, "-m", "mmrag", *arguments, cwd=colours.parent) == printed


@pytest.mark.parametrize(("program", "printed"), PROGRAMS, ids=["match", "register", "torch"])
def test_its_programs_print_what_it_says(installed, tmp_path, program, printed):
    if "import torch" in program:
        pytest.importorskip("torch", reason="needs the torch extra")
    assert run(installed, "-c", program, cwd=tmp_path) == printed


def test_the_example_keeps_the_contracts(installed):
    found = re.fullmatch(r"\$ (MMRAG_CONTRACTS)=(\S+) python (.+)\n", BLOCKS[-1].text)
    assert found
    environment = {found[1]: found[2], "PYTEST_ADDOPTS": "-p no:cacheprovider"}
    report = run(installed, *shlex.split(found[3]), cwd=ROOT, environment=environment)
    assert re.search(r"^[23]\d passed", report, re.MULTILINE), report


def test_what_is_not_known_is_told(installed, colours):
    done = subprocess.run(
        [sys.executable, "-m", "mmrag", "index", "images", "--model", "colours:5"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), str(ROOT)])},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "mmrag: colours:5 is not known; give colours:BINS with 2, 3, 4, 6 or 8 bins\n"
