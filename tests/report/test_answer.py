from __future__ import annotations

import re
import subprocess
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from mmrag.compose.answer import Answer, Evidence, Placement, Source, Step, Support
from mmrag.errors import InputError
from mmrag.report import write_answer_page
from mmrag.report.parts import marked
from mmrag.types import Hit, Item
from tests.report.test_search import BROWSER, NASTY, Page

FIRST, SECOND, THIRD = "A red thing lies on the beach [1][2].", "It flies.", "So it was [7]."
TEXT = f"{FIRST} {SECOND}\n\n{THIRD}"
NOTE = "We went to the sea. A red thing lay on the beach. It rained."


@pytest.fixture
def answer(tmp_path):
    Image.new("RGB", (600, 300), "red").save(tmp_path / "red.png")
    Image.new("RGB", (300, 300), "blue").save(tmp_path / "blue.png")
    red, blue = Item("red.png", id="r"), Item("blue.png", id="b")
    note = Item("notes/trip.md", id="n", modality="text", text=NOTE, metadata={"lines": [3, 5]})
    third = TEXT.index(THIRD)
    return Answer(
        "what lies on the beach?",
        TEXT,
        sources=(
            Source(1, red, "a red thing", Hit(1, 0.5, "cosine", red, {"probability": 0.75})),
            Source(2, note, NOTE),
            Source(3, Item("gone.png", id="g"), ""),
        ),
        evidence=(
            Evidence(
                "A red thing lies on the beach.",
                (0, len(FIRST)),
                (1, 2),
                (Support(2, "words", 0.91, (20, 49), (("overlap", 0.8),)), Support(1, "match", 0.62)),
                supported=True,
            ),
            Evidence("It flies.", (len(FIRST) + 1, len(FIRST) + 1 + len(SECOND)), supported=False),
            Evidence("So it was.", (third, third + len(THIRD))),
        ),
        placements=(Placement(blue, 0, (0, len(FIRST)), 1.2, 0.83, "a blue caption", (("cosine", 0.31),)),),
        steps=(Step("rewrite", "what lies on the beach?"), Step("search", "beach", 3)),
        generator="toy",
    )


def written(answer, home) -> tuple[str, Page]:
    size = write_answer_page(home / "out.html", answer, home=home)
    html = (home / "out.html").read_text(encoding="utf-8")
    assert size == len(html.encode())
    return html, Page(html)


def test_all_of_an_answer_is_in_the_page(answer, tmp_path):
    _, page = written(answer, tmp_path)
    assert page.words["h1"] == "what lies on the beach?"
    told = page.words["header"]
    assert "written by toy, 2 of 3 sources cited, 1 of 3 sentences not supported, in" in told
    assert page.words["section"].count("not supported") == 1
    assert f"{SECOND} not supported" in page.words["section"]
    assert [one.get("title") for one in page.all("span") if "title" in one] == [
        "supported: [2] words 0.91; [1] match 0.62",
        "cites nothing",
    ]
    assert page.words["q"] == page.words["mark"] == "A red thing lay on the beach."
    for words in ("with probability 0.91, by its words", "with probability 0.62, by its picture", "overlap0.800"):
        assert words in page.words["ul"]
    for words in ("notes/trip.md:3-5", "not cited", "cosine 0.500", "probability0.750", "not on this disk", NOTE):
        assert words in page.words["ol"]
    assert "rewrite: what lies on the beach? (0 new)search: beach (3 new)" in page.words["details"]


def test_citations_lead_to_sources_that_are_there(answer, tmp_path):
    _, page = written(answer, tmp_path)
    links = [unquote(link["href"]) for link in page.all("a")]
    targets = {f"#{one['id']}" for one in page.all("li") if "id" in one}
    assert targets == {"#source-1", "#source-2", "#source-3"}
    inside = [link for link in links if link.startswith("#")]
    assert inside == ["#source-1", "#source-2", "#source-2", "#source-1"]
    assert {link for link in links if link not in inside} == {
        f"file://{tmp_path}/blue.png",
        f"file://{tmp_path}/red.png",
    }
    assert "[7]" in page.words["section"]


def test_a_picture_stands_behind_the_paragraph_of_its_sentence(answer, tmp_path):
    html, page = written(answer, tmp_path)
    assert [tag for tag, _ in page.tags if tag in ("p", "figure", "h2")][:6] == ["p", "p", "figure", "p", "p", "h2"]
    assert html.index(SECOND) < html.index("<figure>") < html.index("So it was")
    assert "a blue caption" in page.words["figcaption"]
    assert "probability0.830cosine0.310" in page.words["figcaption"]
    assert [(one["width"], one["height"]) for one in page.all("img")] == [("300", "300"), ("480", "240")]


def test_nothing_foreign_runs_or_is_loaded_or_becomes_a_link(tmp_path):
    said = f"{NASTY} ![x](https://evil.example/?q=1) [y](https://evil.example) <a href=https://evil.example>z</a> [1]"
    item = Item(f"{NASTY}/{'x' * 300}.png", id=NASTY, text=NASTY)
    evidence = Evidence(
        said, (0, len(said)), (1,), (Support(1, "words", 0.5, (3, 40), ((NASTY, 0.1),)),), supported=False
    )
    answer = Answer(
        NASTY,
        said,
        sources=(Source(1, item, said, Hit(1, 0.5, NASTY, item, {NASTY: 0.1})),),
        evidence=(evidence,),
        placements=(Placement(item, 0, (0, 5), 1.0, 0.5, said, ((NASTY, 1.0),)),),
        steps=(Step("search", said),),
        generator=NASTY,
    )
    _, page = written(answer, tmp_path)
    assert {link["href"] for link in page.all("a")} == {"#source-1"}
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "img", "iframe", "link", "object", "embed", "form", "base"}
    names = {name for _, attributes in page.tags for name in attributes}
    assert not [name for name in names if name.startswith("on") or name in ("style", "src", "srcset", "background")]
    shown = said.replace("\x1b", r"\x1b").replace("\u202e", r"\u202e")
    assert shown in page.words["section"]


def test_a_refusal(tmp_path):
    _, page = written(Answer("what?", "Nothing here is likely to answer this.", refused=True), tmp_path)
    assert "nothing likely was found, and nothing was written" in page.words["header"]
    assert "Nothing here is likely" in page.words["p"]
    assert not page.all("ol")


def test_spans_that_cross_overlap_and_repeat_lose_no_word(answer, tmp_path):
    crossing = Answer(
        "?",
        TEXT,
        evidence=tuple(Evidence("x", span, supported=False) for span in ((0, 60), (10, 20), (5, len(TEXT)), (0, 9999))),
    )
    _, page = written(crossing, tmp_path)
    said = page.words["section"].replace("not supported", "")
    assert "".join(said.split()) == "".join(TEXT.split())


def test_a_picture_whose_place_is_nowhere_comes_last_and_a_long_question_is_cut_in_the_title(answer, tmp_path):
    placed = (Placement(Item("red.png"), 9, (999, 1005), 1.0, 0.9, "red"),)
    _, page = written(Answer("what " * 99, "A line\nand another.\n\n* a list", placements=placed), tmp_path)
    assert [tag for tag, _ in page.tags if tag in ("p", "figure")][1:4] == ["p", "p", "figure"]
    assert len(page.words["title"]) < 120
    with pytest.raises(InputError, match="cannot write"):
        write_answer_page(tmp_path / "none" / "out.html", answer, home=tmp_path)


def test_marks_are_cut_behind_the_last_of_them():
    assert marked("ab cd", [(3, 5), (0, 2), (1, 2)]) == "<mark>ab</mark> <mark>cd</mark>"
    assert marked("<b>", [(0, 2)]) == "<mark>&lt;b</mark>&gt;"
    long = "word " * 400
    assert len(marked(long)) < 610
    assert marked(long, [(1500, 1504)]).endswith("<mark>word</mark> …")
    assert re.sub("<.*?>", "", marked(long, [(0, 4), (2, 2000)])) == long


@pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome in the path")
@pytest.mark.parametrize(("scheme", "bright", "width"), [("1", True, 900), ("0", False, 500)], ids=["light", "dark"])
def test_a_browser_shows_it(answer, tmp_path, scheme, bright, width):
    write_answer_page(tmp_path / "out.html", answer, home=tmp_path)
    shot = tmp_path / "shot.png"
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
    options += [f"--user-data-dir={tmp_path}/profile", f"--blink-settings=preferredColorScheme={scheme}"]
    done = subprocess.run(
        [BROWSER, *options, f"--window-size={width},1800", f"--screenshot={shot}", (tmp_path / "out.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert shot.exists(), done.stderr
    assert "Content Security Policy" not in done.stderr
    assert "CONSOLE" not in done.stderr
    with Image.open(shot) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert (pixels[2, 2] > 200).all() == bright  # the ground
    for colour in ((254, 0, 0), (0, 0, 254)):
        assert (np.abs(pixels - colour).max(axis=-1) < 8).sum() > 5000
