"""What counts as here, of folders in the layout of a hub's cache; and what is chosen of a repository."""

from __future__ import annotations

import json

import pytest

from mmrag.errors import ModelError
from mmrag.models import cache, catalogue
from mmrag.models.needs import needs, torch_files

COMMIT = "1" * 40
FIRST, SECOND = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))


@pytest.fixture
def fill(tmp_path, monkeypatch):
    """Put files into the cache, as the newest commit of a repository."""

    def fill(repository, *names):
        folder = tmp_path / f"models--{repository.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text(COMMIT)
        for name in names:
            path = folder / "snapshots" / COMMIT / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"weight_map": {"a": FIRST, "b": SECOND}}))
        return folder / "snapshots" / COMMIT

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    return fill


@pytest.mark.parametrize(
    ("names", "gap"),
    [
        (["model.safetensors"], None),
        (["pytorch_model.bin", "training_args.bin"], None),
        (["0_Transformer/model.safetensors"], None),
        ([FIRST, SECOND], None),
        ([FIRST, "model.safetensors"], None),
        ([FIRST, "pytorch_model.bin"], None),
        (["config.json"], "its weights"),
        (["training_args.bin", "optimizer.bin"], "its weights"),
        (["model.fp16.safetensors"], "its weights"),
        (["open_clip_pytorch_model.bin"], "its weights"),
        (["1_Dense/model.safetensors"], "its weights"),
        ([SECOND], FIRST),
        (["model.safetensors.index.json"], FIRST),
        (["pytorch_model-00002-of-00003.bin", "pytorch_model-00003-of-00003.bin"], "pytorch_model-00001-of-00003.bin"),
    ],
)
def test_weights_are_here_only_if_they_all_are(fill, names, gap):
    folder = fill("some/model", *names)
    assert cache.missing(folder) == gap
    if gap:
        with pytest.raises(ModelError, match=rf"only in part, without {gap}; fetch the rest: mmrag models pull hf:"):
            cache.locate("some/model")
    else:
        assert cache.locate("some/model") == folder


def test_one_file_is_fetched_rather_than_its_shards():
    index = "model.safetensors.index.json"
    assert torch_files(["model.safetensors", index, FIRST, SECOND, "pytorch_model.bin"]) == ["model.safetensors"]
    assert torch_files([index, FIRST, SECOND, "pytorch_model.bin"]) == [FIRST, SECOND, index]
    assert torch_files([index, "pytorch_model.bin", "x/model.safetensors"]) == ["pytorch_model.bin"]


@pytest.mark.parametrize("revision", ["../../../x", "/etc", "a/../b", "..", ".", "", "a b", "a//b", "a\\b"])
def test_revisions_are_no_paths(fill, revision):
    fill("some/model", "model.safetensors")
    assert cache.snapshot("some/model", revision) is None
    for ask in (cache.locate, lambda reference: needs(f"hf:{reference}")):
        with pytest.raises(ModelError, match=r"is no revision of some/model: after the @ stands a branch, a tag"):
            ask(f"some/model@{revision}")


def test_revisions_may_have_slashes(fill):
    folder = fill("some/model", "model.safetensors")
    reference = folder.parents[1] / "refs" / "refs" / "pr" / "1"
    reference.parent.mkdir(parents=True)
    reference.write_text(COMMIT)
    assert cache.locate("some/model@refs/pr/1") == cache.locate(f"some/model@{COMMIT}") == folder


def test_a_model_in_two_repositories_is_here_with_both(fill):
    entry = catalogue.entries()["openclip-multilingual"]
    fill(entry.repository, "open_clip_model.safetensors")
    assert not entry.is_here()
    fill(*entry.others, "tokenizer.json")
    assert entry.is_here()
