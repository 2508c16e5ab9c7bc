from __future__ import annotations

from importlib import metadata

import pytest

from mmrag.errors import ModelError
from mmrag.models import registry
from mmrag.models.onnx import OnnxEncoder
from tests.toy import open_toy


def test_an_unknown_name_lists_the_known_families():
    with pytest.raises(ModelError, match=r"no model 'clipp'.*builtin, .*onnx, openai, openclip, .*timm"):
        registry.load_encoder("clipp")


def test_names_of_families_cannot_be_taken_twice():
    for family in ("builtin", "no spaces", ""):
        with pytest.raises(ModelError, match="cannot be registered"):
            registry.register(family, open_toy)


def test_third_parties_join_by_entry_point(monkeypatch):
    point = metadata.EntryPoint("thirdparty", "tests.toy:open_toy", registry.ENTRY_POINTS)
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point] if group == "mmrag.models" else [])
    assert registry.load_encoder("thirdparty:7").card.revision == "7"


def test_the_builtin_model_has_no_variants():
    with pytest.raises(ModelError, match="no variants"):
        registry.load_encoder("builtin:large")


def test_a_folder_is_a_model_by_its_path(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(ModelError, match=r"not a model folder.*card\.toml"):
        registry.load_encoder(str(folder))
    builtin = registry.load_encoder("builtin")
    assert isinstance(builtin, OnnxEncoder)
    for name in ("card.toml", "preprocessor_config.json"):
        (folder / name).write_bytes((builtin.folder / name).read_bytes())
    with pytest.raises(ModelError, match=r"vision_model\.onnx is missing"):
        registry.load_encoder(str(folder))
    (folder / "onnx").mkdir()
    for name in ("vision_model.onnx", "text_model.onnx"):
        (folder / "onnx" / name).touch()
    monkeypatch.chdir(tmp_path)
    encoder = registry.load_encoder("./model")
    assert encoder.card == builtin.card
    assert registry.absolute_name("model") == str(folder)
    assert registry.absolute_name("toy:1") == "toy:1"
    with pytest.raises(ModelError, match="have changed since its card was written"):
        encoder.verify()
    with pytest.raises(ModelError, match="no tokenizer"):
        encoder.encode_text(["a dog"])


def test_paths_move_with_their_home_and_keep_their_family(tmp_path, monkeypatch):
    home, elsewhere = tmp_path / "home", tmp_path / "moved"
    (home / "net").mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (home / "net" / name).touch()
    monkeypatch.chdir(home)
    for name, absolute, written in (
        ("timm:./net", f"timm:{home}/net", "timm:./net"),
        ("timm:net", f"timm:{home}/net", "timm:./net"),
        ("hf:./net", f"{home}/net", "./net"),
    ):
        assert registry.absolute_name(name) == absolute
        assert registry.to_home(absolute, home) == written
        assert registry.from_home(written, elsewhere) == absolute.replace(str(home), str(elsewhere))
        assert registry.to_home(absolute, elsewhere) == absolute
    for name in ("timm:resnet18", "hf:openai/clip", "thirdparty:./net"):  # what others are given is theirs
        assert registry.from_home(registry.to_home(registry.absolute_name(name), home), home) == name


def test_a_family_that_cannot_be_imported_is_named(monkeypatch):
    from importlib import metadata

    point = metadata.EntryPoint(name="broken", value="no_such_module:open_it", group=registry.ENTRY_POINTS)
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point])
    with pytest.raises(ModelError, match="family 'broken', which is in no_such_module:open_it, cannot be loaded"):
        registry.load_encoder("broken:1")
