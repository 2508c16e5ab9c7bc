"""mmrag chat, as a user types it, and with questions from a pipe."""

from __future__ import annotations

import io
import json
import signal
import threading

import pytest

import mmrag
from mmrag.models import registry
from mmrag.types import Item
from tests.toy import ToyWriter

WRITERS = {}
registry.register("chatty", lambda reference: WRITERS[reference])
OPTIONS = ("--generator", "chatty:it", "--no-caption")


@pytest.fixture
def corpus(colours):
    index = mmrag.create(".", model="toy:1")
    index.add(
        [Item("notes.md", modality="text", text="The red door is old."), Item("b", modality="text", text="a blue sea")]
    )
    return index


@pytest.fixture
def says(monkeypatch):
    made = WRITERS["it"] = ToyWriter(["The red door is old [1].", "It is red [1]."])
    yield made
    WRITERS.clear()


@pytest.fixture
def piped(monkeypatch, command, says):
    """Run the command with lines from a pipe."""

    def run(*lines, options=()):
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return command("chat", *OPTIONS, *options)

    return run


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def typed(monkeypatch, command, says):
    """Run the command with lines from a terminal; an exception is raised in place of a line."""

    def run(*lines, options=()):
        left = list(lines)

        def read(prompt):
            line = left.pop(0) if left else EOFError()
            if isinstance(line, BaseException):
                raise line
            return line

        monkeypatch.setattr("sys.stdin", Terminal())
        monkeypatch.setattr("builtins.input", read)
        return command("chat", *OPTIONS, *options)

    return run


def test_follow_ups_are_told_and_searched_for(corpus, piped):
    code, out, err = piped("What red door is old?", "", "and what colour is it?", "/quit", "never asked")
    assert code == 0
    assert out == (
        "The red door is old [1].\n\n[1] notes.md — The red door is old.\n\n"
        "It is red [1].\n\n[1] notes.md — The red door is old.\n\n"
    )
    assert "rewrite: and what colour is it? (red door old)\n" in err
    first, second = (turns[-1].text for turns in WRITERS["it"].asked)
    assert "What red door is old?" in first
    assert second.rstrip().endswith("and what colour is it? (red door old)")
    assert "The red door is old." in "".join(turn.text for turn in WRITERS["it"].asked[1][:-1])


def test_json_is_one_object_a_question(corpus, piped):
    code, out, err = piped("What red door is old?", "/sources", "and it?", options=("--json", "--quiet"))
    first, listed, second = map(json.loads, out.splitlines())
    assert (code, err) == (0, "")
    assert (first["question"], first["text"]) == ("What red door is old?", "The red door is old [1].")
    assert listed == {"sources": first["sources"]}
    assert (second["question"], second["steps"][0]["kind"]) == ("and it?", "rewrite")


def test_an_error_is_told_and_ends_nothing(corpus, piped):
    code, out, err = piped("What red door is old?", "/nonsense\x1b", "/save", options=("--max-tokens", "9000"))
    assert code == 1
    assert err.count("mmrag: ") == 3
    assert "there is no command /nonsense\\x1b; /help lists them" in err
    assert "name the file: /save FILE" in err
    assert out == ""
    code, out, _ = piped("What red door is old?", options=("--max-tokens", "9000", "--json"))
    assert code == 1
    assert json.loads(out)["question"] == "What red door is old?"
    assert json.loads(out)["error"]


def test_a_conversation_is_saved_after_each_answer_and_resumed(corpus, piped, tmp_path):
    code, _, err = piped("What red door is old?", options=("--save", "trip.json"))
    assert code == 0
    code, _, err = piped("x", options=("--save", "trip.json"))
    assert code == 1
    assert "trip.json is there already; go on with it: --resume trip.json --save trip.json" in err
    code, out, err = piped(
        "/sources", "and what colour is it?", options=("--resume", "trip.json", "--save", "trip.json")
    )
    assert code == 0
    assert err.startswith("1 question before\n")
    assert out.startswith("\n[1] notes.md — The red door is old.\n")
    assert "(red door old)" in err
    saved = json.loads((corpus.home / "trip.json").read_text())
    assert [turn["question"] for turn in saved["turns"]] == ["What red door is old?", "and what colour is it?"]
    corpus.remove("notes.md")
    _, _, err = piped(options=("--resume", "trip.json"))
    assert "2 questions before\nmmrag: 1 source is in the index no more, and left out\n" in err


def test_a_new_conversation_leaves_the_saved_one_as_it_was(corpus, piped):
    _, _, err = piped(
        "What red door is old?", "/new", "and what colour is it?", "/save b.json", options=("--save", "a.json")
    )
    assert "a new conversation; a.json keeps the old one, and /save FILE writes the new one\n" in err
    assert "rewrite" not in err
    assert "1 question → b.json\n" in err
    old, new = (json.loads((corpus.home / name).read_text())["turns"] for name in ("a.json", "b.json"))
    assert [turn["question"] for turn in (*old, *new)] == ["What red door is old?", "and what colour is it?"]


def test_a_place_that_cannot_be_written_is_told_before_anything_is_asked(corpus, piped, says):
    code, out, err = piped("What red door is old?", options=("--save", "none/trip.json"))
    assert (code, out) == (1, "")
    assert "cannot write 'none/trip.json'" in err
    assert says.asked == []


def test_at_a_terminal_ctrl_c_stops_the_answer_and_not_the_chat(corpus, typed):
    def pressed(turns):
        threading.Timer(0.15, signal.raise_signal, [signal.SIGINT]).start()
        return "The red door is old [1]. " * 9

    WRITERS["it"] = slow = ToyWriter(pressed, pause=0.05)
    code, out, _ = typed("What red door is old?", "/sources")
    assert code == 0
    assert 0 < slow.written < 40
    assert "[1] notes.md" in out


def test_at_a_prompt_ctrl_c_only_tells_how_to_end(corpus, typed):
    code, out, err = typed(KeyboardInterrupt(), "/help", "/sources")
    assert (code, out) == (0, "")
    assert "mmrag: stopped; Ctrl-D ends the chat\n" in err
    assert "/save FILE    write the conversation" in err
    assert "mmrag: nothing was answered yet, so there are no sources\n" in err


def test_in_a_pipe_ctrl_c_ends_all(corpus, piped):
    def pressed(turns):
        threading.Timer(0.15, signal.raise_signal, [signal.SIGINT]).start()
        return "The red door is old [1]. " * 9

    WRITERS["it"] = ToyWriter(pressed, pause=0.05)
    code, out, _ = piped("What red door is old?", "What else is red?")
    assert code == 130
    assert out.count("[1] notes.md") <= 1
