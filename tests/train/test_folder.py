"""The command, from pairs to a model that an index takes."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch", reason="needs the train extra")

import mmrag
from mmrag.models.cards import read_card
from tests.cli.test_cli import run


def test_train_eval_index_and_search(colours):
    pairs = colours.parent / "pairs.jsonl"
    names = sorted(path.stem for path in colours.iterdir())
    pairs.write_text("".join(f'{{"image": "images/{name}.png", "caption": "plain {name}"}}\n' for name in names))
    options = ["--epochs", "12", "--set", "settings.frozen_stages=9", "--set", "settings.views=1"]
    done = run("train", "pairs.jsonl", "--val", "pairs.jsonl", "--out", "my-model", *options, "--json")
    report = json.loads(done.stdout)
    log = [json.loads(line) for line in (colours.parent / "my-model" / "log.jsonl").read_text().splitlines()]
    steps = [entry for entry in log if entry["kind"] == "step"]
    assert len(steps) == 12
    assert steps[-1]["loss"] < steps[0]["loss"] / 2
    measured = json.loads(run("eval", "pairs.jsonl", "--model", "./my-model", "--json").stdout)
    for found in (report["figures"], measured):  # in torch, and as exported
        assert found["text_to_image"]["R@1"] >= 83
    card = read_card(colours.parent / "my-model")
    assert (card.name, card.languages, card.roles) == ("my-model", ("en",), ("encoder",))
    assert any(abs(1 / card.logit_scale - entry["temperature"]) < 2e-4 for entry in steps)
    run("index", "images", "--model", "./my-model")
    assert mmrag.open(".").manifest.model == "./my-model"
    assert "red.png" in run("search", "plain red", "-k", "1").stdout
    assert "written by the model" in run("index", "images", "--model", "builtin", code=1).stderr


def test_bad_choices_are_told(colours):
    (colours.parent / "one.jsonl").write_text('{"image": "images/red.png", "text": "red"}\n')
    for arguments, message in (
        (["one.jsonl"], "too few to train on"),
        (["none.tar"], "there is no file"),
        (["one.jsonl", "--epochs", "0"], "epochs must be at least 1"),
        (["one.jsonl", "--start", "./nowhere"], "cannot read the weights"),
    ):
        assert message in run("train", *arguments, "--out", "m", code=1).stderr
