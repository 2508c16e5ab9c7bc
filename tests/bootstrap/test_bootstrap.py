"""CapFilt with toys whose truth is known: a picture is one colour, and a caption names one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from mmrag.bootstrap import Writing, bootstrap
from mmrag.bootstrap import describe as describing
from mmrag.errors import InputError, Interrupted, ModelError
from mmrag.sources.pairs import open_pairs
from tests.cli.test_judging import CODE, run
from tests.report.test_search import NASTY, Page
from tests.sources.test_pairs import make_tar
from tests.toy import COLOURS, ToyJudge, ToyReader, ToyTeller

TWICE = Writing(captions=2)


def make(out="pairs", folders=("images",), **options):
    options = {"caption": ToyTeller(), "judge": ToyJudge(), **options}
    return bootstrap(folders, out=Path(out), **options)


def lines(name, out="pairs"):
    return [json.loads(line) for line in Path(out, name).read_text("utf-8").splitlines()]


def kept(out="pairs"):
    return {Path(line["image"]).stem: line["texts"] for line in lines("pairs.jsonl", out)}


def test_what_is_true_is_kept_and_what_is_not_is_dropped_with_the_reason(colours):
    report = make(writing=TWICE)
    assert kept() == {name: [name] for name in COLOURS}
    assert (report.pictures, report.pairs) == (6, 6)
    assert (report.kept, report.dropped) == ({"model": 6}, {"model": 5})  # "green" of the green one is said once
    dropped = {Path(line["image"]).stem: line for line in lines("dropped.jsonl")}
    assert dropped.keys() == COLOURS.keys() - {"green"}
    assert dropped["red"] == {
        "image": "../images/red.png",
        "text": "green",
        "origin": "model",
        "probability": 0.018,
        "reason": "probability 0.0180 is below 0.5",
    }


def test_the_pairs_are_read_where_they_are_moved(colours, tmp_path):
    make()
    (tmp_path / "home").rename(tmp_path / "moved")
    pairs = open_pairs([tmp_path / "moved" / "pairs"])
    assert {pair.texts: pair.image for pair in pairs} == {
        (name,): (tmp_path / "moved" / "images" / f"{name}.png").read_bytes() for name in COLOURS
    }


def test_what_was_described_is_known_where_it_is_moved(colours, tmp_path, monkeypatch):
    make()
    (tmp_path / "home").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    teller = ToyTeller()
    assert make(caption=teller).pairs == 6
    assert teller.told == 0


def test_what_people_say_is_judged_too_or_kept(colours):
    Path("said.csv").write_text("image,text\nimages/red.png,red it is\nimages/red.png,blue\nimages/blue.png,blue\n")
    report = make(pairs=["said.csv"])
    assert kept()["red"] == ["red it is", "red"]
    assert [line["origins"] for line in lines("pairs.jsonl") if "blue.png" in line["image"]] == [["human"]]
    assert (report.kept, report.dropped) == ({"human": 2, "model": 5}, {"human": 1})
    make(pairs=["said.csv"], keep_human=True)
    assert kept()["red"] == ["red it is", "blue", "red"]


def test_pictures_out_of_a_tar_become_files(colours):
    red = (colours / "red.png").read_bytes()
    tar = make_tar(
        Path("t.tar"), [("1.png", red), ("1.txt", b"a red one\na blue one"), ("2.png", b"x"), ("2.txt", b"y")]
    )
    report = make(folders=(), pairs=[tar])
    (pair,) = open_pairs(["pairs"])
    assert (pair.image, pair.texts) == (red, ("a red one", "red"))
    assert list(report.failed.values()) == ["not a picture in a format that can be read"]
    assert [one.name for one in Path("pairs/pictures").iterdir()] == [Path(lines("pairs.jsonl")[0]["image"]).name]


def test_other_pictures_of_the_same_names_in_a_tar_are_described_again(colours):
    for name in ("red", "blue"):
        tar = make_tar(Path("t.tar"), [("1.png", (colours / f"{name}.png").read_bytes()), ("1.txt", b"one")])
        os.utime(tar, (len(name), len(name)))
        make(folders=(), pairs=[tar])
        assert [pair.texts for pair in open_pairs(["pairs"])] == [(name,)]
        assert open_pairs(["pairs"])[0].image == (colours / f"{name}.png").read_bytes()


class Watchful(ToyTeller):
    """Remembers how many pixels it was given at once."""

    decode_at_least = None
    seen = ()

    def caption(self, images, **options):
        self.seen += (sum(image.width * image.height for image in images),)
        return super().caption(images, **options)


def test_large_pictures_are_described_a_few_at_a_time(colours, monkeypatch):
    monkeypatch.setattr(describing, "PIXELS_AT_ONCE", 1500)
    for name in COLOURS:
        Image.new("RGB", (30, 30), name).save(colours / f"{name}.png")
    teller = Watchful()
    assert make(caption=teller).pairs == 6
    assert teller.seen == (1800, 1800, 1800)


def test_pictures_that_cannot_be_read_are_named_and_tried_again(colours):
    (colours / "bad.png").write_bytes(b"hello")
    report = make()
    assert report.failed == {"../images/bad.png": "not a picture in a format that can be read"}
    assert report.pictures == 6
    Image.new("RGB", (8, 8), "yellow").save(colours / "bad.png")
    teller = ToyTeller()
    assert make(caption=teller).failed == {}
    assert teller.told == 1
    assert kept()["bad"] == ["yellow"]


def test_only_what_is_new_or_changed_is_described_again(colours):
    make()
    teller = ToyTeller()
    assert make(caption=teller).pairs == 6
    assert teller.told == 0
    Image.new("RGB", (20, 20), "white").save(colours / "red.png")
    (colours / "blue.png").unlink()
    assert make(caption=teller).pairs == 5
    assert teller.told == 1
    assert kept()["red"] == ["white"]
    assert "blue" not in kept()


def test_another_threshold_costs_nothing(colours):
    make(writing=TWICE)
    teller = ToyTeller()
    make(writing=TWICE, caption=teller, threshold=0.01)
    assert teller.told == 0
    assert kept()["red"] == ["red", "green"]
    report = make(writing=TWICE, threshold=0.99)
    assert (report.pairs, report.dropped) == (0, {"model": 11})


def test_a_run_that_was_killed_goes_on_even_from_half_a_line(colours):
    make()
    journal = Path("pairs/journal.jsonl")
    whole = journal.read_bytes()
    for cut in (len(whole) - 30, whole.index(b"\n") + 1, 10, 0):
        journal.write_bytes(whole[:cut])
        described = max(0, whole[:cut].count(b"\n") - 1)
        teller = ToyTeller()
        make(caption=teller)
        assert teller.told == 6 - described
        assert journal.read_bytes() == whole
        assert len(kept()) == 6


class Failing(ToyTeller):
    """Refuses what it is given."""

    def caption(self, images, **options):
        raise InputError("told nothing")


class Silent(ToyTeller):
    """Has nothing to say."""

    def caption(self, images, **options):
        return [" "] * len(images)


def test_pictures_of_which_nothing_is_said_are_no_pairs(colours):
    report = make(caption=Silent())
    assert (report.pictures, report.pairs, report.kept.total()) == (6, 0, 0)
    assert lines("pairs.jsonl") == lines("dropped.jsonl") == []


class Stopping(ToyTeller):
    """Ctrl-C in the second batch of two."""

    batch = 2

    def caption(self, images, **options):
        if self.told >= 2:
            raise KeyboardInterrupt
        return super().caption(images, **options)


def test_ctrl_c_keeps_what_was_done(colours):
    with pytest.raises(Interrupted, match=r"stopped; 2 of 6 pictures are done, and pairs/pairs.jsonl has their pairs"):
        make(caption=Stopping())
    assert len(kept()) == 2
    teller = ToyTeller()
    make(caption=teller)
    assert (teller.told, len(kept())) == (4, 6)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"threshold": 1.5}, InputError, "threshold is a probability, from 0 to 1, not 1.5"),
        ({"judge": ToyReader()}, InputError, "toy-reader judges texts only; what keeps captions must see pictures"),
        ({"caption": "toy:1"}, ModelError, "toy:1 is no generator: it plays the role of encoder"),
        ({"folders": ["none"]}, InputError, "there is no folder 'none' to take pictures from"),
        ({"folders": ["."], "exclude": ["*.png"]}, InputError, r"there is no picture in \."),
        ({"out": "images/red.png/x"}, InputError, "cannot make the folder 'images/red.png/x': Not a directory"),
    ],
)
def test_mistakes_say_what_is_allowed(colours, options, error, message):
    with pytest.raises(error, match=message):
        make(**options)


def test_several_captions_of_beam_search_would_be_the_same():
    with pytest.raises(InputError, match="beam search finds one caption; for several, sample them"):
        Writing(captions=2, nucleus=None)
    with pytest.raises(InputError, match="captions is at least 1"):
        Writing(captions=0)
    with pytest.raises(InputError, match="nucleus is a probability, above 0 and at most 1, not 5"):
        Writing(nucleus=5)
    with pytest.raises(InputError, match="beams and max_tokens are at least 1, not 0"):
        Writing(beams=0, nucleus=None)


def test_where_nothing_was_described_another_way_may_be_chosen(colours):
    with pytest.raises(InputError, match="told nothing"):
        make(caption=Failing())
    assert make(caption=ToyTeller("2")).pairs == 6


def test_a_folder_that_was_begun_otherwise_is_left_alone(colours):
    make()
    for options, message in (
        ({"writing": Writing(prompt="a")}, "pairs was begun with prompt '', and not 'a'; give the same, or another"),
        ({"caption": ToyTeller("2")}, "pairs was begun with caption 'toy 1 none', and not 'toy 2 none'"),
    ):
        with pytest.raises(InputError, match=message):
            make(**options)
    Path("mine").mkdir()
    Path("mine/pairs.jsonl").write_text("precious")
    with pytest.raises(InputError, match=r"mine has a pairs\.jsonl that bootstrap did not write"):
        make("mine")
    assert Path("mine/pairs.jsonl").read_text() == "precious"
    Path("mine/pairs.jsonl").rename("mine/report.html")
    with pytest.raises(InputError, match=r"mine has a report\.html that bootstrap did not write"):
        make("mine")
    assert Path("mine/report.html").read_text() == "precious"


@pytest.mark.parametrize(
    "content", ['{"x": 1}\n', "no\n", "[1]\n", '{"captions": 1}\n{"key": "a"}\n', "\n\0\n", "mine"]
)
def test_a_journal_that_is_none_is_told_and_left_alone(colours, content):
    Path("pairs").mkdir()
    Path("pairs/journal.jsonl").write_text(content)
    with pytest.raises(InputError, match=r"journal\.jsonl is damaged, or no journal of bootstrap's: .*; give another"):
        make()
    assert Path("pairs/journal.jsonl").read_text() == content


def test_pictures_it_has_written_itself_are_not_taken_in_again(colours):
    tar = make_tar(Path("t.tar"), [("1.png", (colours / "red.png").read_bytes()), ("1.txt", b"red")])
    for _ in range(2):
        assert make("images/pairs", pairs=[tar]).pictures == 7


def test_the_page_shows_what_was_kept_and_dropped(colours):
    (colours / "bad.png").write_bytes(b"hello")
    Path("said.jsonl").write_text(json.dumps({"image": "images/red.png", "text": NASTY}) + "\n")
    make(pairs=["said.jsonl"], writing=TWICE)
    html = Path("pairs/report.html").read_text("utf-8")
    page = Page(html)
    assert page.words["h1"] == "6 pairs of 6 pictures"
    assert "6 texts kept, 6 dropped below 0.5" in page.words["header"]
    assert "5 of 5 pictures" in page.words["main"]
    assert "1 of 1 pictures" in page.words["main"]
    assert "bad.png: not a picture" in page.words["main"]
    assert len(page.all("img")) == 6
    assert len([one for one in page.all("p") if one.get("class") == "words dropped"]) == 6
    assert "<script" not in html


def test_a_page_of_many_shows_some_from_the_whole_range(colours, monkeypatch):
    monkeypatch.setattr("mmrag.report.bootstrap.MOST_EXAMPLES", 2)
    make(writing=TWICE)
    page = Page(Path("pairs/report.html").read_text("utf-8"))
    assert "2 of 5 pictures" in page.words["main"]
    assert len(page.all("img")) == 3


def test_blips_of_tiny_size_make_pairs(colours, tmp_path, photographs):
    pytest.importorskip("transformers", reason="needs the torch extra")
    from tests.models.tiny_blip import make_retrieval, write_blip

    write_blip(tmp_path / "teller", "BlipForConditionalGeneration")
    judge = make_retrieval(tmp_path / "judge")
    report = make(folders=[photographs], caption=f"blip:{tmp_path / 'teller'}", judge=judge, threshold=0)
    assert report.pairs == report.pictures == 6
    probabilities = [one["probability"] for one in _told()]
    assert all(0 <= one <= 1 for one in probabilities)
    assert len(set(probabilities)) > 1


def _told():
    return [one for line in lines("journal.jsonl")[1:] for one in line["told"]]


def test_the_command(colours):
    Path("said.csv").write_text("image,text\nimages/red.png,blue\n")
    (colours / "bad.png").write_bytes(b"hello")
    models = ("--caption", "teller:1", "--judge", "judge:1")
    done = run("bootstrap", "images", "--out", "pairs", *models, "--pairs", "said.csv", "--captions", "2")
    assert done.stdout.splitlines() == [
        "6 pairs of 6 pictures · human: 0 kept, 1 dropped · model: 6 kept, 5 dropped · 1 failed",
        "pairs/pairs.jsonl  (examples: pairs/report.html)",
    ]
    assert done.stderr == "failed  ../images/bad.png: not a picture in a format that can be read\n"
    done = run("bootstrap", "images", "--out", "two", *models, "--beams", "3", "--prompt", "a", "--json")
    told = json.loads(done.stdout)
    assert (told["pairs"], told["kept"], told["dropped"]) == (6, {"model": 6}, {})
    assert told["written"] == ["two/pairs.jsonl", "two/dropped.jsonl", "two/report.html"]
    assert kept("two")["red"] == ["a red"]
    done = run("bootstrap", "images", "--out", "pairs", *models, code=1)
    assert done.stderr.endswith("pairs was begun with captions 2, and not 1; give the same, or another folder\n")


def test_ctrl_c_ends_the_command_with_130(colours):
    slow = CODE.replace(
        "from mmrag.cli.main",
        "import time, tests.toy as toy\n"
        "plain = toy.ToyTeller.caption\n"
        "toy.ToyTeller.batch = 1\n"
        "toy.ToyTeller.caption = lambda *a, **k: (time.sleep(1), plain(*a, **k))[1]\n"
        "from mmrag.cli.main",
    )
    command = [sys.executable, "-c", slow, "bootstrap", "images", "--out", "pairs"]
    with subprocess.Popen(
        [*command, "--caption", "teller:1", "--judge", "judge:1"], stderr=subprocess.PIPE, text=True
    ) as process:
        journal = Path("pairs/journal.jsonl")
        until = time.monotonic() + 60
        while not (journal.exists() and journal.read_bytes().count(b"\n") >= 2) and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "of 6 pictures are done, and pairs/pairs.jsonl has their pairs; the same command goes on" in told
    assert 1 <= len(kept()) < 6
