from __future__ import annotations

import json
import tarfile
import threading
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from markdown_it import MarkdownIt
from PIL import Image

import mmrag
from mmrag.compose.belonging import belonging_of
from mmrag.compose.illustrate import IllustrateOptions, Illustrator, illustrate
from mmrag.compose.odds import Odds
from mmrag.compose.prose import read_prose
from mmrag.errors import InputError, ModelError, QueryError, RecipeError
from mmrag.models.registry import load_matcher
from mmrag.search.pipeline import Pipeline
from mmrag.types import Item
from tests.toy import COLOURS, ToyJudge, ToyReader

TEXT = "The red door opens. I like it. The blue sea shines. A blue sky shines."
EACH = IllustrateOptions(budget=9, distance=1)


@pytest.fixture
def index(colours):
    """Pictures of one colour each, of which the toy judge is sure (.98) where a sentence names it."""
    made = mmrag.create(".", model="toy:1")
    made.add(colours)
    return made


@pytest.fixture
def judge():
    return ToyJudge()


def where(done):
    return [(one.sentence, Path(one.item.uri).stem) for one in done.placements]


def test_pictures_that_belong_are_placed_and_others_are_not(index, judge):
    done = illustrate(index, TEXT, matcher=judge, options=EACH)
    assert where(done) == [(0, "red"), (2, "blue")]
    assert done.sentences == 4
    assert all(index.get(one.item.id) == one.item for one in done.placements)
    assert [TEXT[slice(*one.span)] for one in done.placements] == ["The red door opens.", "The blue sea shines."]
    assert done.placements[0].probability == pytest.approx(1 / (1 + np.exp(-4)))
    assert done.placements[0].caption == "The red door opens."
    assert dict(done.placements[0].parts)["margin"] == pytest.approx(8)


def test_no_text_and_no_sentence(index, judge):
    with pytest.raises(QueryError, match="empty"):
        illustrate(index, " \n", matcher=judge)
    assert illustrate(index, "# Red", matcher=judge).placements == ()


def test_a_sentence_that_says_nothing_by_itself_has_no_picture(index, judge):
    text = "It is. The red door opens. And so it was."
    assert where(illustrate(index, text, matcher=judge, options=EACH)) == [(1, "red")]
    assert illustrate(index, "It is. And so it was.", matcher=judge).placements == ()


def test_an_empty_index_has_nothing_to_place(tmp_path, judge):
    assert illustrate(mmrag.create(tmp_path, model="toy:1"), TEXT, matcher=judge).placements == ()


def test_budget_distance_and_probability(index, judge):
    assert where(illustrate(index, TEXT, matcher=judge, options=replace(EACH, budget=1))) == [(0, "red")]
    assert where(illustrate(index, TEXT, matcher=judge, options=replace(EACH, distance=3))) == [(0, "red"), (3, "blue")]
    assert where(illustrate(index, TEXT, matcher=judge, options=replace(EACH, min_probability=0.99))) == []
    assert len(illustrate(index, TEXT, matcher=judge).placements) == 2  # one for each three of four sentences


def test_only_pictures_that_pass_the_filter(index, judge):
    done = illustrate(index, TEXT, matcher=judge, options=EACH, where="uri like '%blue%'")
    assert where(done) == [(2, "blue")]
    with pytest.raises(QueryError):
        illustrate(index, TEXT, matcher=judge, where="uri likes '%blue%'")


def test_nearly_the_same_picture_is_not_placed_twice(colours, judge):
    chance = np.random.default_rng(0)
    grain = chance.integers(0, 30, (64, 64, 3))
    for name, light in (("one", 0), ("other", 2)):
        pixels = np.array(COLOURS["blue"]) + grain * (1, 1, -1) + light * np.array([1, 1, -1])
        Image.fromarray(pixels.astype(np.uint8)).save(colours / f"{name}.png")
    (colours / "blue.png").unlink()
    index = mmrag.create(".", model="toy:1")
    index.add(colours)
    assert len(index.search("blue", k=9)) == 6  # both are one hit
    assert [number for number, _ in where(illustrate(index, TEXT, matcher=judge, options=EACH))] == [0, 2]


def test_in_the_order_in_which_they_were_taken(colours, judge):
    index = mmrag.create(".", model="toy:1")
    years = {"red": "2020-01-01T00:00:00", "blue": "2010-01-01T00:00:00", "green": "2021-01-01T00:00:00"}
    items = [Item(f"images/{name}.png", metadata={"taken_at": when}) for name, when in years.items()]
    index.add([*items, Item("images/white.png")])
    text = "A red one. A blue one. A green one. A white one."
    assert [name for _, name in where(illustrate(index, text, matcher=judge, options=EACH))] == [*years, "white"]
    options = replace(EACH, order="taken")
    assert [name for _, name in where(illustrate(index, text, matcher=judge, options=options))] in (
        ["red", "green"],
        ["blue", "green"],
    )


def test_fed_while_it_is_written_it_comes_to_the_same(index, judge):
    illustrator = Illustrator(index, EACH, judge)
    for one in read_prose(TEXT).sentences:
        illustrator.feed(one.text, one.span)
        if one.span[0] == 0:
            assert [one.sentence for one in illustrator.placements()] == [0]
    assert illustrator.placements() == illustrate(index, TEXT, matcher=judge, options=EACH).placements


def test_feeding_does_not_wait(index, judge):
    go = threading.Event()

    class Slow(ToyJudge):
        def match(self, *args, **kwargs):
            assert go.wait(20)
            return super().match(*args, **kwargs)

    illustrator = Illustrator(index, EACH, Slow())
    for one in read_prose(TEXT).sentences:
        illustrator.feed(one.text, one.span)
    go.set()
    assert len(illustrator.placements()) == 2


def test_who_cancels_does_not_wait_and_has_what_was_found(index, judge):
    go = threading.Event()

    class Stuck(ToyJudge):
        def match(self, texts, *args, **kwargs):
            assert texts == [TEXT[:19]] or go.wait(20)
            return super().match(texts, *args, **kwargs)

    cancel = threading.Event()
    illustrator = Illustrator(index, EACH, Stuck())
    first, *others = read_prose(TEXT).sentences
    illustrator.feed(first.text, first.span)
    assert [one.sentence for one in illustrator.placements(cancel=cancel)] == [0]
    for one in others:
        illustrator.feed(one.text, one.span)
    assert [one.sentence for one in illustrator.so_far()] == [0]
    cancel.set()
    assert [one.sentence for one in illustrator.placements(cancel=cancel)] == [0]
    go.set()
    assert len(illustrator.placements()) == 2


def test_what_goes_wrong_beside_is_told(index):
    class Broken(ToyJudge):
        def match(self, *args, **kwargs):
            return replace(super().match(*args, **kwargs), logits=np.full((1, 6), np.inf, np.float32))

    illustrator = Illustrator(index, EACH, Broken())
    illustrator.feed("A red one.", (0, 10))
    with pytest.raises(ModelError, match="not finite"):
        illustrator.placements()


def test_a_matcher_that_reads_only_is_refused(index):
    with pytest.raises(QueryError, match="toy-reader reads texts only"):
        Illustrator(index, matcher=ToyReader())


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_probability": 1.0},
        {"min_probability": -0.1},
        {"budget": 0},
        {"distance": 0},
        {"candidates": 1},
        {"order": "random"},
    ],
)
def test_options_that_make_no_sense_are_refused(wrong):
    with pytest.raises(RecipeError):
        IllustrateOptions(**wrong)


def test_a_pipeline_says_how_to_illustrate(tmp_path):
    (tmp_path / "own.toml").write_text("[illustrate]\nmatcher = 'judge:1'\nbudget = 3\n")
    from mmrag.search.pipeline import load_pipeline

    assert load_pipeline(str(tmp_path / "own.toml")).illustrate == IllustrateOptions("judge:1", budget=3)
    assert Pipeline().illustrate == IllustrateOptions()


def test_the_fit_is_of_the_model_that_ships():
    builtin = load_matcher("builtin")
    assert belonging_of(builtin) == Odds(bias=-5.549, cosine=10.54, margin=2.327)
    assert belonging_of(ToyJudge()) is None
    other = ToyJudge()
    other.card = replace(builtin.card, revision="other")
    assert belonging_of(other) is None


def test_the_probability_is_logistic():
    fitted = Odds(bias=-1, cosine=2, margin=4)
    parts = {"cosine": 0.25, "margin": 0.5, "logit": 7}
    assert fitted.probability(parts) == pytest.approx(1 / (1 + np.exp(1 - 0.5 - 2)))
    assert fitted.probability(dict.fromkeys(parts, -1e9)) == 0


def test_markdown_keeps_every_character_of_the_text(index, judge):
    text = "---\na: b\n---\n# Red\n\n* The red door opens.\n* yes\n\n> The blue sea\n> it is.\n```\nred\n```\ngreen  "
    done = illustrate(index, text, matcher=judge, options=EACH)
    assert [at for at, _ in done.insertions()] == [
        text.index("* yes") + 5,
        text.index("it is.") + 6,
        len(text),
    ]
    written = done.markdown(home=index.home, folder=index.home)
    figures = [line for line in written.split("\n") if line.startswith(("![", "*The", "*green"))]
    assert len(figures) == 6
    assert [line for line in written.split("\n") if line not in figures and line] == [
        line for line in text.split("\n") if line
    ]
    assert '![The red door opens.](images/red.png "images/red.png")\n\n*The red door opens.*' in written


def test_markdown_keeps_the_line_ends_of_the_text(index, judge):
    text = "A red one.\r\n\r\nA green one.\r\n"
    written = illustrate(index, text, matcher=judge, options=EACH).markdown(home=index.home, folder=index.home)
    assert written.count("\n") == written.count("\r\n")
    assert written.startswith("A red one.\r\n\r\n![")


NASTY = [
    "a ](evil.png) [x](javascript:alert\\(1\\)) \" ' b",
    "<script>alert(1)</script> & <img src=x onerror=y>",
    "line\n\n# heading\n\n![no](no.png)\r\n* a * _b_ `c` **d**",
    "[1] $x$ | a | ~~b~~ \\",
    "*",
]


@pytest.mark.parametrize("caption", NASTY)
def test_captions_of_strangers_stay_text(index, judge, caption):
    index.add(Item("images/red.png", text=caption))
    done = illustrate(index, "The red door opens.", matcher=judge)
    written = done.markdown(home=index.home, folder=index.home)
    tokens = MarkdownIt("commonmark").parse(written)
    inline = [child for token in tokens if token.type == "inline" for child in token.children]
    assert [token.type for token in tokens if token.nesting == 1] == ["paragraph_open"] * 3
    assert [one.attrs["src"] for one in inline if one.type == "image"] == ["images/red.png"]
    assert {one.type for one in inline} == {"text", "image", "em_open", "em_close", "text_special"} & {
        one.type for one in inline
    }
    shown = "".join(one.content for one in tokens[-2].children if one.type.startswith("text"))
    assert shown == " ".join(caption.split())


@pytest.mark.parametrize(
    "name", ["a b.png", "a(b)[c].png", "q\"uo'te.png", "ü海#?%20.png", "<i>.png", "new\nline.png", "a:b.png"]
)
def test_names_of_files_lead_to_the_files(colours, judge, name):
    (colours / "red.png").rename(colours / name)
    index = mmrag.create(".", model="toy:1")
    index.add(colours)
    done = illustrate(index, "A red one.", matcher=judge)
    written = done.markdown(home=index.home, folder=index.home / "texts")
    (image,) = [one for token in MarkdownIt().parse(written) for one in token.children or () if one.type == "image"]
    path = index.home / "texts" / unquote(image.attrs["src"])
    assert path.resolve() == (colours / name).resolve()


def test_pictures_in_an_archive_are_copied_or_refused(colours, judge):
    with tarfile.open("all.tar", "w") as tar:
        for name in COLOURS:
            tar.add(colours / f"{name}.png", f"{name}.png")
    index = mmrag.create(".", model="toy:1")
    index.add("all.tar")
    done = illustrate(index, "A red one. A blue one.", matcher=judge, options=EACH)
    with pytest.raises(InputError, match=r"all.tar › red.*--copy FOLDER"):
        done.markdown(home=index.home, folder=index.home)
    written = done.markdown(home=index.home, folder=index.home, copies=index.home / "copies")
    copies = sorted((index.home / "copies").iterdir())
    assert [f"](copies/{path.name} " in written for path in copies] == [True, True]
    assert {path.suffix for path in copies} == {".png"}
    assert {path.read_bytes() for path in copies} == {
        (colours / f"{name}.png").read_bytes() for name in ("red", "blue")
    }


def test_a_picture_that_is_gone_is_told(index, judge):
    done = illustrate(index, "A red one.", matcher=judge)
    Path("images/red.png").unlink()
    with pytest.raises(InputError, match="not there any more"):
        done.markdown(home=index.home, folder=index.home)


def test_an_id_of_strangers_names_no_file(colours, judge):
    index = mmrag.create(".", model="toy:1")
    index.add(Item("images/red.png", id="../../evil"))
    done = illustrate(index, "A red one.", matcher=judge)
    done.markdown(home=index.home, folder=index.home, copies=index.home / "copies")
    assert [path.parent.name for path in index.home.rglob("*.png") if path.parent.name != "images"] == ["copies"]


def test_the_record_says_where(index, judge):
    done = illustrate(index, TEXT, matcher=judge, options=EACH)
    record = json.loads(json.dumps(done.record()))
    assert record["sentences"] == 4
    first = record["placements"][0]
    assert (first["id"], first["uri"], first["part"]) == (done.placements[0].item.id, "images/red.png", None)
    assert (first["sentence"], first["words"], first["span"], first["at"]) == (
        0,
        "The red door opens.",
        [0, 19],
        len(TEXT),
    )
    assert set(first) == {
        "id",
        "uri",
        "part",
        "sentence",
        "words",
        "span",
        "at",
        "probability",
        "score",
        "caption",
        "parts",
    }
