"""Models that only see pictures, and models that only read texts."""

from __future__ import annotations

import dataclasses

import pytest
from typer.testing import CliRunner

import mmrag
from mmrag.cli.main import app
from mmrag.errors import ModelError
from mmrag.models import registry
from mmrag.types import Item
from tests.toy import ToyEncoder


def open_one_sided(modality):
    encoder = ToyEncoder()
    encoder.card = dataclasses.replace(encoder.card, modalities=(modality,))
    return encoder


registry.register("onesided", open_one_sided)
RED = Item(uri="red", id="red", text="a red thing", modality="text")


def test_texts_alone(colours):
    index = mmrag.create(model="onesided:text")
    with pytest.raises(ModelError, match="toy reads texts only; a model that sees pictures is needed: mmrag models"):
        index.add(colours / "red.png")
    assert index.info()["folders"] == []
    (colours / "notes.md").write_text("a blue thing")
    assert index.add(colours).added == 1  # of a folder, what the model embeds
    assert index.update().unchanged == 1
    assert index.add([RED]).added == 1
    assert index.search("something red")[0].item.id == "red"
    with pytest.raises(ModelError, match="reads texts only"):
        index.add([RED, Item(uri=str(colours / "red.png"))])


def test_pictures_alone(colours):
    index = mmrag.create(model="onesided:image")
    with pytest.raises(ModelError, match="toy sees pictures only; search by a picture"):
        index.add([RED])
    (colours / "notes.md").write_text("a blue thing")
    with pytest.raises(ModelError, match="toy sees pictures only"):
        index.add(colours / "notes.md")
    assert index.add(colours).added == 6
    assert index.search(colours / "red.png")[0].item.uri == "images/red.png"


def test_no_index_is_made_that_could_take_no_file(colours):
    done = CliRunner().invoke(app, ["index", str(colours / "red.png"), "--model", "onesided:text"])
    assert isinstance(done.exception, ModelError)
    assert not (colours.parent / ".mmrag").exists()


NEW = ["index", "images", "--model", "toy:1", "--index", "new"]
CLASSIFY = ["classify", "--labels", "red,blue"]


@pytest.mark.parametrize(
    "command",
    [
        NEW,
        ["search", "red"],
        ["eval", "no.jsonl", "--model", "toy:1"],
        CLASSIFY,
        [*CLASSIFY, "images", "--model", "toy:1"],
    ],
)
def test_a_device_is_passed_on(colours, command, monkeypatch):
    assert CliRunner().invoke(app, ["index", str(colours), "--model", "toy:1"]).exit_code == 0
    asked = []
    monkeypatch.setattr(ToyEncoder, "on_device", lambda self, device: asked.append(device) or self)
    CliRunner().invoke(app, [*command, "--device", "cuda"])
    assert asked[-1:] == ["cuda"]


def test_a_device_that_a_model_cannot_use(colours):
    done = CliRunner().invoke(app, ["index", str(colours), "--model", "toy:1", "--device", "cuda"])
    assert isinstance(done.exception, ModelError)
    assert str(done.exception) == "toy runs on cpu only, not on cuda"
