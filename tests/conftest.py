from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from mmrag.cli.main import main
from mmrag.models import registry
from tests.toy import COLOURS, open_judge, open_reader, open_teller, open_toy, open_writer

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

registry.register("toy", open_toy)
registry.register("judge", open_judge)
registry.register("reader", open_reader)
registry.register("teller", open_teller)
registry.register("writer", open_writer)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory) -> Path:
    """A cache folder of the tests' own."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def flickr8k() -> Path:
    """Flickr8k, where it lies beside the checkout."""
    folder = SHARED / "flickr8k"
    if not folder.is_dir():
        pytest.skip("Flickr8k is not beside the checkout (../shared/data/flickr8k)")
    return folder


@pytest.fixture
def colours(tmp_path, monkeypatch) -> Path:
    """A home folder, made the current one, with `images/red.png` and so on."""
    home = tmp_path / "home"
    folder = home / "images"
    folder.mkdir(parents=True)
    for name, rgb in COLOURS.items():
        Image.new("RGB", (32, 24), rgb).save(folder / f"{name}.png")
    monkeypatch.chdir(home)
    return folder


@pytest.fixture(scope="session")
def photographs(tmp_path_factory) -> Path:
    """Real photographs, from the wheel of scikit-image."""
    spec = importlib.util.find_spec("skimage")
    assert spec
    assert spec.submodule_search_locations
    data = Path(spec.submodule_search_locations[0], "data")
    folder = tmp_path_factory.mktemp("photographs")
    for name in ("chelsea.png", "coffee.png", "astronaut.png", "rocket.jpg", "motorcycle_left.png", "moon.png"):
        shutil.copyfile(data / name, folder / name)
    return folder


@pytest.fixture
def command(monkeypatch, capsys):
    """Run the command in this process, which saves its imports: gives its exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mmrag", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        return code, *capsys.readouterr()

    return run
