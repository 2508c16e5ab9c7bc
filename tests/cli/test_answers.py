from __future__ import annotations

import json
import os
import signal

import pytest
from PIL import Image

from mmrag.cli.answers import print_events, print_sources, stopping
from mmrag.cli.options import printable, printable_lines
from mmrag.compose.answer import Answer, Checked, Done, Evidence, Found, Placement, Source, Step, Wrote
from mmrag.errors import GenerationError
from mmrag.types import Item

SOURCES = (
    Source(1, Item("dog.png", id="a"), "a dog\n\x1b[31mruns"),
    Source(2, Item("notes.md", id="b", modality="text", text="x", metadata={"lines": [3, 4]}), "word " * 50),
)
FIRST, SECOND = "A dog runs [1].", "It flies."
EVIDENCE = (
    Evidence("A dog runs.", (0, 15), (1,), supported=True),
    Evidence("It flies.", (16, 25), supported=False),
)
ANSWER = Answer("what?", f"{FIRST} {SECOND}", SOURCES, EVIDENCE, generator="toy")


def events():
    yield Step("search", "what?", 2)
    yield Step("retrieve", "where\x07?", 1)
    yield Found(SOURCES)
    yield from [Wrote("A dog"), Wrote(" runs [1]."), Checked(EVIDENCE[0]), Wrote(" It flies."), Checked(EVIDENCE[1])]
    yield Done(ANSWER)


def shown(*, capsys, made=None, home, as_json=False, show_all=False, quiet=False):
    answer = print_events(made or events(), home=home, as_json=as_json, show_all=show_all, quiet=quiet)
    assert answer == ANSWER
    return capsys.readouterr()


def test_text_sources_steps_and_doubts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "dog.png")
    out, err = shown(capsys=capsys, home=tmp_path)
    assert out == "A dog runs [1]. It flies. (?)\n\n[1] dog.png — a dog \\x1b[31mruns\n"
    assert err == "retrieve: where\\x07?\nmmrag: 1 sentence rests on nothing that was found: (?)\n"
    out, err = shown(capsys=capsys, home=tmp_path, show_all=True, quiet=True)
    assert out.splitlines()[-1].startswith("[2] notes.md:3-4 — word word")
    assert out.splitlines()[-1].endswith("…")
    assert "retrieve" not in err


def test_a_doubt_that_comes_late_is_quoted(tmp_path, capsys):
    def late():
        yield Wrote(ANSWER.text)
        yield Wrote(" More.")
        yield Checked(EVIDENCE[1])
        yield Done(ANSWER)

    out, err = shown(capsys=capsys, home=tmp_path, made=late())
    assert "(?)" not in out
    assert err == 'mmrag: 1 sentence rests on nothing that was found: "It flies."\n'


def test_json_is_one_object_and_nothing_else(tmp_path, capsys):
    out, err = shown(capsys=capsys, home=tmp_path, as_json=True)
    assert json.loads(out)["text"] == ANSWER.text
    assert (out.count("\n"), err) == (1, "")


def test_an_answer_without_citations_and_pictures_set_into_it(tmp_path, capsys):
    print_sources(Answer("?", "Yes.", SOURCES), home=tmp_path, show_all=False)
    out, err = capsys.readouterr()
    assert (out, err) == ("", "mmrag: the answer cites none of the 2 sources that it was given\n")
    placed = Placement(Item("a.png"), 0, (0, 4), 1.0, 0.834, "a caption")
    print_sources(Answer("?", "Yes.", placements=(placed,)), home=tmp_path, show_all=False)
    assert capsys.readouterr().out == "\npicture a.png (p .83) — a caption\n"


def test_the_first_ctrl_c_ends_the_writing_and_the_second_the_command():
    before = signal.getsignal(signal.SIGINT)
    with stopping() as stop:
        with pytest.raises(KeyboardInterrupt):  # nothing was found, and there is nothing to keep
            signal.raise_signal(signal.SIGINT)
        stop.listen()
        assert not stop.is_set()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.wait(5)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_events_without_an_end_are_an_error(tmp_path):
    with pytest.raises(GenerationError, match="without an answer"):
        print_events([Wrote("A dog")], home=tmp_path, as_json=True, show_all=False, quiet=True)


def test_scripts_and_emoji_that_join_are_printed_as_they_are_written():
    joined = "\U0001f469\u200d\U0001f680 \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    assert printable(joined) == joined
    assert printable_lines("a\u202e\nb\x1b") == "a\\u202e\nb\\x1b"
