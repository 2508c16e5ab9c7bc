"""What a recipe may say of answers: a stranger's may not choose whom questions, sources and keys are sent to."""

from __future__ import annotations

import pytest

import mmrag
from mmrag.errors import RecipeError
from mmrag.ingest.recipe import load_recipe
from mmrag.search.answering import AnswerOptions
from mmrag.search.pipeline import load_pipeline
from tests.models.chat_server import serve

SERVERS = ["openai:qwen@http://127.0.0.1:9/v1", "openai:gpt-5", "card.toml", "./lab/card.toml", "/tmp/card.toml"]  # noqa: S108


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize(("option", "instead"), [("generator", "--generator"), ("caption", "mmrag index --caption")])
def test_a_pipeline_chooses_no_server(tmp_path, name, option, instead):
    path = tmp_path / "foreign.toml"
    path.write_text(f'[answer]\n{option} = "{name}"\n')
    with pytest.raises(RecipeError, match="a recipe may not choose a server") as caught:
        load_pipeline(str(path))
    assert str(caught.value).endswith(f"{instead} {name}")


@pytest.mark.parametrize("name", SERVERS)
def test_an_index_recipe_chooses_no_server(tmp_path, name):
    path = tmp_path / "foreign.toml"
    path.write_text(f'[enrich]\ncaption = "{name}"\n')
    with pytest.raises(RecipeError, match=f"a recipe may not choose a server.* --caption {name}"):
        load_recipe(str(path))


def test_other_models_may_be_chosen(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text('[answer]\ngenerator = "hf:openai/some-model"\ncaption = "blip2-opt-2.7b"\n')
    assert load_pipeline(str(path)).answer == AnswerOptions(generator="hf:openai/some-model", caption="blip2-opt-2.7b")


def test_nothing_of_a_foreign_recipe_reaches_a_server(tmp_path, monkeypatch, photographs):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    index = mmrag.create(tmp_path, model="toy:1")
    index.add(photographs)
    with serve("A dog.") as server:
        path = tmp_path / "foreign.toml"
        path.write_text(f'[answer]\ngenerator = "openai:qwen@{server.url}"\n')
        with pytest.raises(RecipeError):
            mmrag.ask(index, "What is red?", pipeline=str(path))
        assert server.heard == []
        named = mmrag.ask(index, "What is red?", generator=f"openai:qwen@{server.url}")
        assert named.refused or server.heard
