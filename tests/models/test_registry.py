from __future__ import annotations

from importlib import metadata

import pytest

from mmrag.errors import ModelError
from mmrag.models import registry
from mmrag.models.onnx import OnnxEncoder
from tests.toy import open_toy


def test_an_unknown_name_lists_the_known_families():
    with pytest.raises(ModelError, match=r"no model 'clipp'.*builtin, hf, onnx"):
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
