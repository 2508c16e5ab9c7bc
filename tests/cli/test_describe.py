from __future__ import annotations

import json

import pytest
from PIL import Image

from mmrag.models import catalogue, registry
from tests.toy import ToyTeller


class Answerer(ToyTeller):
    """Answers with the question's first word and the picture's colour."""

    def answer(self, images, questions, *, beams=3, max_tokens=10):
        words = zip(questions, self.caption(images), strict=True)
        return [f"{question.split()[0]} {colour} {max_tokens}" for question, colour in words]


@pytest.fixture
def answerer(monkeypatch):
    monkeypatch.setitem(registry._FAMILIES, "answerer", lambda _: Answerer())
    return "answerer:1"


def test_a_line_for_each_picture(colours, command):
    code, out, err = command("caption", "images/red.png", "images", "--model", "teller:1")
    assert (code, err) == (0, "")
    first, *rest = out.splitlines()
    assert first == "images/red.png  red"
    assert set(rest) == {f"images/{name}.png  {name}" for name in ("red", "green", "blue", "yellow", "white", "black")}


def test_the_built_in_model_describes_by_default(photographs, command, monkeypatch):
    monkeypatch.chdir(photographs)
    with Image.open("coffee.png") as image:
        (said,) = registry.load_generator("builtin").caption([image.convert("RGB")])
    assert len(said.split()) > 3
    assert command("caption", "coffee.png") == (0, f"coffee.png  {said}\n", "")


def test_what_cannot_be_read_is_told_and_the_others_go_on(colours, command):
    (colours / "bad.jpg").write_bytes(b"?")
    Image.new("1", (20_000, 20_000)).save(colours / "huge.png")
    code, out, err = command("caption", "none.jpg", "images", "--model", "teller:1")
    assert code == 1
    assert len(out.splitlines()) == 6
    assert sorted(err.splitlines()) == [
        "3 could not be described",
        "failed  images/bad.jpg: not a picture in a format that can be read",
        "failed  images/huge.png: more pixels than the limit of 178,000,000",
        "failed  none.jpg: cannot be read: No such file or directory",
    ]


def test_captions_as_json(colours, command):
    (colours / "bad.jpg").write_bytes(b"?")
    code, out, err = command("caption", "images/red.png", "images/bad.jpg", "--model", "teller:1", "--json")
    assert (code, err) == (1, "1 could not be described\n")
    assert [json.loads(line) for line in out.splitlines()] == [
        {"path": "images/red.png", "caption": "red", "failure": None},
        {"path": "images/bad.jpg", "caption": "", "failure": "not a picture in a format that can be read"},
    ]


def test_how_captions_are_written(colours, command):
    def say(*options):
        return command("caption", "images/red.png", "--model", "teller:1", *options)

    assert say("--prompt", "all")[1] == "images/red.png  all red\n"
    assert say("--nucleus", "0.9", "--seed", "2")[1] == "images/red.png  red\n"
    assert say("--nucleus", "0.9", "--seed", "3")[1] == "images/red.png  green\n"
    code, out, err = say("--nucleus", "2")
    assert (code, out) == (1, "")
    assert err == "mmrag: nucleus is a probability, above 0 and at most 1, not 2.0\n"
    assert "beams and max_tokens are at least 1" in say("--max-tokens", "0")[2]


def test_nothing_to_describe(tmp_path, command):
    code, out, err = command("caption", tmp_path, "--model", "teller:1")
    assert (code, out) == (1, "")
    assert err == f"mmrag: there is no picture to describe in {tmp_path}\n"


def test_an_answer(colours, command, answerer):
    asked = ("vqa", "images/blue.png", "how many dogs?", "--model", answerer)
    assert command(*asked) == (0, "how blue 10\n", "")
    code, out, _ = command(*asked, "--max-tokens", "3", "--json")
    assert (code, json.loads(out)) == (
        0,
        {"path": "images/blue.png", "question": "how many dogs?", "answer": "how blue 3", "model": "teller"},
    )


@pytest.mark.parametrize(
    ("file", "question", "told"),
    [
        ("none.png", "what?", "none.png: cannot be read: No such file or directory"),
        ("images", "what?", "images: not a regular file"),
        ("bad.jpg", "what?", "bad.jpg: not a picture in a format that can be read"),
        ("images/red.png", " ", 'the question is empty; ask something, such as "how many dogs?"'),
    ],
)
def test_what_cannot_be_asked_about(colours, command, answerer, file, question, told):
    (colours.parent / "bad.jpg").write_bytes(b"?")
    assert command("vqa", file, question, "--model", answerer) == (1, "", f"mmrag: {told}\n")


def test_without_a_model_that_answers_one_line_tells_how_to_get_one(colours, command, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    assert command("vqa", "images/red.png", "how many dogs?") == (
        1,
        "",
        "mmrag: no model that answers questions about pictures is here; fetch one: mmrag models pull blip-vqa-base\n",
    )


def test_a_model_that_is_here_answers(colours, command, answerer, monkeypatch):
    monkeypatch.setattr(catalogue.Entry, "is_here", lambda entry: entry.name == "smolvlm-256m")
    monkeypatch.setitem(registry._FAMILIES, "hf", lambda _: Answerer())
    assert command("vqa", "images/red.png", "is it?") == (0, "is red 10\n", "")


def test_models_that_answer_are_generators_of_the_catalogue():
    from mmrag.compose.describe import _ANSWERING

    assert all("generator" in catalogue.entries()[name].roles for name in _ANSWERING)


def test_a_model_that_does_not_answer_says_which_does(colours, command):
    code, out, err = command("vqa", "images/red.png", "what?", "--model", "builtin")
    assert (code, out) == (1, "")
    assert err.endswith("blip:Salesforce/blip-vqa-base does\n")
