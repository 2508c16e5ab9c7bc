from __future__ import annotations

import json
import logging
from threading import Event as Flag

import pytest
from PIL import Image

import mmrag
from mmrag.compose import saved
from mmrag.compose.answer import Answer, Done, Evidence, Found, Source, Step, Wrote
from mmrag.compose.chat import MOST_REMEMBERED, Chat, remembered
from mmrag.compose.prompt import Exchange
from mmrag.errors import GenerationError, InputError
from mmrag.roles import Piece


@pytest.fixture
def index(colours):
    made = mmrag.create(".", model="toy:1")
    made.add("images")
    return made


class Asked:
    """Takes the place of `ask`: remembers what it is asked, and answers with the items it was made with."""

    def __init__(self, index, names=("red", "blue"), **answer):
        self.items = [index.get(hit.item.id) for name in names for hit in index.search(name, k=1)]
        self.answer = {"text": "It is a thing [1] or that [2].", "generator": "gguf:/home/me/model.gguf", **answer}
        self.calls = []

    def __call__(self, index, question, *, history=(), image=None, cancel=None, stream=False, **options):
        assert stream
        self.calls.append({"question": question, "history": history, "image": image, "cancel": cancel, **options})
        sources = tuple(Source(n, item, f"colour {n}") for n, item in enumerate(self.items, 1))
        evidence = (Evidence("It is a thing or that.", (0, 30), (1, 2), supported=True),)
        yield Step("search", question, 2)
        yield Found(sources)
        yield Wrote(self.answer["text"])
        yield Done(Answer(question, sources=sources, evidence=evidence, **self.answer))


@pytest.fixture
def asked(index, monkeypatch):
    fake = Asked(index)
    monkeypatch.setattr("mmrag.compose.chat.ask", fake)
    return fake


def test_a_follow_up_is_asked_as_a_question_of_its_own(index, asked):
    chat = Chat(index, k=3, where="width > 1", generator="extractive")
    first = chat.ask("What is on the beach?")
    assert (first.question, first.steps) == ("What is on the beach?", ())
    cancel = Flag()
    events = list(chat.ask("and what colour is it?", stream=True, cancel=cancel))
    assert events[0] == Step("rewrite", "and what colour is it? (beach)")
    assert isinstance(events[-1], Done)
    assert events[-1].answer.question == "and what colour is it?"
    assert events[-1].answer.steps[0] == events[0]
    one, two = asked.calls
    assert (one["question"], one["history"], one["image"]) == ("What is on the beach?", (), None)
    assert two["question"] == "and what colour is it? (beach)"
    assert two["history"] == (Exchange("What is on the beach?", "It is a thing or that."),)
    assert two["cancel"] is cancel
    assert (two["k"], two["where"], two["generator"]) == (3, "width > 1", "extractive")
    assert [one.question for one in chat.exchanges] == ["What is on the beach?", "and what colour is it?"]
    chat.forget()
    chat.ask("and what colour is it?")
    assert asked.calls[-1]["question"] == "and what colour is it?"


def test_a_picture_that_is_named_is_asked_with(index, asked, colours):
    chat = Chat(index)
    chat.ask("What is there to see?")
    chat.ask("What colour is the second one?")
    assert asked.calls[-1]["image"] == (colours / "blue.png").read_bytes()
    assert asked.calls[-1]["question"] == "What colour is the second one? (2)"
    own = Image.new("RGB", (4, 4))
    chat.ask("Is it like [1]?", image=own)
    assert asked.calls[-1]["image"] is own


def test_a_picture_that_is_gone_is_asked_with_by_its_words(index, asked, colours, caplog):
    chat = Chat(index)
    chat.ask("What is there to see?")
    (colours / "blue.png").unlink()
    with caplog.at_level(logging.WARNING):
        chat.ask("[2]")
    assert asked.calls[-1]["image"] is None
    assert "images/blue.png is asked with by its words alone" in caplog.text


class Rewriter:
    def __init__(self, says):
        self.says = says

    def generate(self, turns, sampling=None, *, cancel=None):
        if not self.says:
            raise GenerationError("the server is gone")
        yield Piece(self.says, None, "stop")


@pytest.mark.parametrize(
    ("says", "asked_for"),
    [
        ("what colour is the thing on the beach?", "what colour is the thing on the beach?"),
        ("what colour is the zebra?", "and what colour is it? (beach)"),
        ("", "and what colour is it? (beach)"),
    ],
)
def test_a_model_rewrites_where_it_can_be_trusted(index, asked, says, asked_for):
    chat = Chat(index, rewriter=Rewriter(says))
    chat.ask("What is the thing on the beach?")
    asked.calls.clear()
    chat.ask("and what colour is it?")
    assert asked.calls[0]["question"] == asked_for


def test_an_answer_that_nobody_waited_for_is_not_remembered(index, asked):
    chat = Chat(index)
    events = chat.ask("What is there?", stream=True)
    next(events)
    events.close()
    assert chat.answers == ()


def test_events_without_an_answer_are_an_error(index, monkeypatch):
    monkeypatch.setattr("mmrag.compose.chat.ask", lambda *_, **__: iter([Wrote("x")]))
    with pytest.raises(GenerationError, match="without an answer"):
        Chat(index).ask("What is there?")


def test_a_writer_is_told_the_latest_and_no_refusals():
    answers = [Answer(f"question {n}", "word " * 100) for n in range(9)]
    answers.insert(8, Answer("zebra?", "Nothing.", refused=True))
    told = remembered(answers)
    assert [one.question for one in told] == ["question 6", "question 7", "question 8"]
    assert sum(len(one.question + one.answer) for one in told) <= MOST_REMEMBERED
    assert remembered([Answer("漢" * 600, "漢")]) == ()


def test_a_conversation_goes_on_where_it_was(index, asked, tmp_path):
    chat = Chat(index)
    chat.ask("What is on the beach?")
    chat.ask("and what colour is it?")
    chat.save(tmp_path / "chat.json")
    text = (tmp_path / "chat.json").read_text()
    assert str(index.home) not in text
    assert "/home/me" not in text
    assert "images/" not in text
    again = Chat(index)
    again.resume(tmp_path / "chat.json")
    assert again.missing == ()
    assert again.exchanges == chat.exchanges
    assert [one.sources for one in again.answers] == [one.sources for one in chat.answers]
    assert [one.evidence for one in again.answers] == [one.evidence for one in chat.answers]
    again.ask("who else?")
    chat.ask("who else?")
    assert asked.calls[-1] == asked.calls[-2]
    again.save(tmp_path / "again.json")
    chat.save(tmp_path / "chat.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "chat.json").read_bytes()


def test_what_is_gone_from_the_index_is_told(index, asked, tmp_path):
    chat = Chat(index)
    chat.ask("What is there?")
    chat.save(tmp_path / "chat.json")
    gone = chat.answers[0].sources[1].item
    index.remove(gone.id)
    chat.resume(tmp_path / "chat.json")
    assert chat.missing == (gone.id,)
    assert [source.number for source in chat.answers[0].sources] == [1]
    assert chat.answers[0].evidence[0].citations == (1,)


def test_a_conversation_about_another_index_is_refused(index, asked, tmp_path):
    chat = Chat(index)
    chat.ask("What is there?")
    chat.save(tmp_path / "chat.json")
    other = mmrag.create(tmp_path / "other", model="toy:2")
    with pytest.raises(InputError, match=r"about an index made .* with toy 1, and this one was made .* with toy 2"):
        Chat(other).resume(tmp_path / "chat.json")


def changed(**keys):
    return lambda data: data.update(keys)


def span_of_three(data):
    data["turns"][0]["sentences"][0]["span"] = [1, 2, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(format=2), "format 2, and this mmrag reads 1"),
        (changed(turns=[{}]), "missing key"),
        (changed(turns="x"), "must be a list"),
        (changed(more=1), "unknown key 'more'"),
        (lambda data: data.pop("turns"), "no conversation that was saved; give the FILE of --save"),
        (span_of_three, r"a span is a beginning and an end, not \(1, 2, 3\)"),
    ],
)
def test_a_file_that_is_changed_is_refused_with_the_place(index, asked, tmp_path, change, message):
    chat = Chat(index)
    chat.ask("What is there?")
    path = tmp_path / "chat.json"
    chat.save(path)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match=message):
        chat.resume(path)
    assert len(chat.answers) == 1


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xfe", b"[" * 100_000, b"[]", b'{"format": NaN'])
def test_what_is_no_conversation_is_refused(index, tmp_path, content):
    path = tmp_path / "chat.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match="no conversation that was saved"):
        Chat(index).resume(path)


def test_a_file_that_cannot_be_read_or_is_too_large(index, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"cannot read '.*none\.json': No such file"):
        Chat(index).resume(tmp_path / "none.json")
    (tmp_path / "large.json").write_bytes(b" " * 2_000_000)
    monkeypatch.setattr(saved, "MOST_BYTES", 1 << 20)
    with pytest.raises(InputError, match="more than 1 MiB"):
        Chat(index).resume(tmp_path / "large.json")
