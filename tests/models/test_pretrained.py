"""What transformers reads for us: it must never run what a model's author has written."""

from __future__ import annotations

import builtins
import json

import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
transformers = pytest.importorskip("transformers", reason="needs the torch extra")
pytest.importorskip("open_clip", reason="needs the torch extra")

from mmrag.errors import ModelError  # noqa: E402
from mmrag.models.blip2_generate import _read_tokenizer  # noqa: E402
from mmrag.models.registry import open_model  # noqa: E402
from tests.models import tiny, tiny_cross  # noqa: E402

CODE = """
import pathlib
pathlib.Path({ran!r}).touch()
from transformers import PreTrainedConfig, PreTrainedTokenizer
class EvilConfig(PreTrainedConfig):
    model_type = "evil"
class EvilTokenizer(PreTrainedTokenizer):
    pass
"""
NAMES = {"AutoConfig": "evil.EvilConfig", "AutoTokenizer": ["evil.EvilTokenizer", None]}


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """The file that the author's code would write; whoever is asked whether to run it says yes."""
    monkeypatch.setattr(builtins, "input", lambda *_: "y")
    return tmp_path / "ran"


def poison(folder, ran):
    """Let every configuration of a folder name code that lies beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evil.py").write_text(CODE.format(ran=str(ran)))
    for name, kind in (("config.json", {"model_type": "evil"}), ("tokenizer_config.json", {"tokenizer_class": "Evil"})):
        path = folder / name
        settings = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps({**settings, **kind, "auto_map": NAMES}))


def clip(folder):
    tiny.write("clip", folder)
    return f"hf:{folder}"


def cross(folder):
    tiny_cross.write("bert", folder)
    return f"cross:{folder}"


def sentence(folder):
    tiny_cross.write("bert", folder)
    kinds = (("Transformer", ""), ("Pooling", "1_Pooling"))
    (folder / "modules.json").write_text(
        json.dumps([{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds])
    )
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32}))
    change = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**change, "architectures": ["BertModel"]}))
    return f"hf:{folder}"


@pytest.mark.parametrize("write", [clip, cross, sentence])
def test_no_code_of_the_author_is_run(write, tmp_path, ran):
    name = write(tmp_path / "model")
    assert open_model(name).card.name
    poison(tmp_path / "model", ran)
    (tmp_path / "model" / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"transformers .* cannot read the configuration of|tokenizer|plays no role"):
        open_model(name).encode_text(["a dog"])
    assert not ran.exists()


def test_nor_that_of_a_tokenizer_within_a_folder(tmp_path, ran):
    poison(tmp_path / "qformer_tokenizer", ran)
    with pytest.raises(ModelError, match="has no tokenizer that can be read"):
        _read_tokenizer(tmp_path / "qformer_tokenizer")
    assert not ran.exists()
