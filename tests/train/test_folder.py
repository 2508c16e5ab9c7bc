"""The command, from pairs to a model that an index takes."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch", reason="needs the train extra")

import mmrag
from mmrag.models.cards import read_card

QUICK = ("--set", "settings.frozen_stages=9", "--set", "settings.views=1")


@pytest.mark.slow  # two graphs of real size are exported
def test_train_eval_index_and_search(colours, command):
    pairs = colours.parent / "pairs.jsonl"
    names = sorted(path.stem for path in colours.iterdir())
    pairs.write_text("".join(f'{{"image": "images/{name}.png", "caption": "plain {name}"}}\n' for name in names))

    def run(*arguments, code=0):
        ended, stdout, stderr = command(*arguments)
        assert ended == code, stderr
        return stdout if not code else stderr

    given = ("train", "pairs.jsonl", "--val", "pairs.jsonl", "--out", "my-model", "--epochs", "6")
    report = json.loads(run(*given, *QUICK, "--json"))
    log = [json.loads(line) for line in (colours.parent / "my-model" / "log.jsonl").read_text().splitlines()]
    steps = [entry for entry in log if entry["kind"] == "step"]
    assert len(steps) == 6
    assert steps[-1]["loss"] < steps[0]["loss"] / 2
    measured = json.loads(run("eval", "pairs.jsonl", "--model", "./my-model", "--json"))
    for found in (report["figures"], measured):  # in torch, and as exported
        assert found["text_to_image"]["R@1"] > report["start"]["text_to_image"]["R@1"]
    card = read_card(colours.parent / "my-model")
    assert (card.name, card.languages, card.roles) == ("my-model", ("en",), ("encoder",))
    assert any(abs(1 / card.logit_scale - entry["temperature"]) < 2e-4 for entry in steps)
    run("index", "images", "--model", "./my-model")
    assert mmrag.open(".").manifest.model == "./my-model"
    assert "red.png" in run("search", "plain red", "-k", "1")
    assert "written by the model" in run("index", "images", "--model", "builtin", code=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["one.jsonl"], "too few to train on"),
        (["none.tar"], "there is no file"),
        (["one.jsonl", "--epochs", "0"], "epochs must be at least 1"),
        (["one.jsonl", "--start", "./nowhere"], "nowhere is not a model folder"),
    ],
)
def test_bad_choices_are_told(arguments, message, colours, command):
    (colours.parent / "one.jsonl").write_text('{"image": "images/red.png", "text": "red"}\n')
    code, _, stderr = command("train", *arguments, *QUICK, "--out", "m")
    assert code == 1
    assert message in stderr
