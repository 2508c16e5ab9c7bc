from __future__ import annotations

import json
import math
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from mmrag.cli.main import app
from mmrag.errors import InputError, ModelError
from mmrag.evaluate import caption_metrics, evaluate_captions
from mmrag.evaluate.captions import bleu, cider, words
from mmrag.models import registry
from mmrag.models.cards import Card
from mmrag.roles import Generator, Identity
from tests.toy import COLOURS


class ToyPainter(Generator):
    """Says which colour a picture has; where it is black, the word is wrong."""

    decode_at_least = 8
    batch = 4

    def __init__(self) -> None:
        self.card = Card("toy-painter", "painter", "1", dimension=0, roles=("generator",), modalities=("image",))
        self.identity = Identity("toy-painter", "1", "none", "mean colour", 0)

    def caption(self, images, *, prompt="", beams=3, nucleus=None, max_tokens=30, seed=None):
        named = {rgb: name for name, rgb in COLOURS.items()} | {COLOURS["black"]: "white"}
        return [f"a plain wall painted {named[image.getpixel((0, 0))]}" for image in images]

    def answer(self, images, questions, *, beams=3, max_tokens=10):
        raise ModelError("it only describes")

    def rank_answers(self, images, questions, answers):
        raise ModelError("it only describes")


@pytest.fixture
def pairs(tmp_path):
    """Twelve plain pictures, each with a text that names its colour and one that does not."""
    lines = []
    for number in range(12):
        name, rgb = list(COLOURS.items())[number % len(COLOURS)]
        (tmp_path / f"{number}.png").write_bytes(plain(rgb))
        texts = [f"A plain wall, painted {name}.", "something with a colour"]
        lines.append(json.dumps({"image": f"{number}.png", "texts": texts, "id": f"no-{number}"}))
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(lines))
    return path


def plain(rgb):
    file = BytesIO()
    Image.new("RGB", (16, 16), rgb).save(file, "PNG")
    return file.getvalue()


def corpus(seed, pictures=30):
    """Captions whose words are drawn from few, so that n-grams of all lengths are shared."""
    random = np.random.default_rng(seed)
    some = [f"w{n}" for n in range(6)]

    def text():
        return list(random.choice(some, random.integers(1, 13), p=[0.4, 0.2, 0.2, 0.1, 0.05, 0.05]))

    return [text() for _ in range(pictures)], [[text() for _ in range(random.integers(1, 6))] for _ in range(pictures)]


@pytest.mark.parametrize("seed", range(4))
def test_the_same_as_pycocoevalcap(seed):
    theirs = pytest.importorskip("pycocoevalcap", reason="needs pycocoevalcap")
    assert theirs
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider

    candidates, references = corpus(seed)
    gts = {n: [" ".join(one) for one in some] for n, some in enumerate(references)}
    res = {n: [" ".join(one)] for n, one in enumerate(candidates)}
    assert bleu(candidates, references) == pytest.approx(Bleu(4).compute_score(gts, res, verbose=0)[0], rel=1e-6)
    assert cider(candidates, references) == pytest.approx(Cider().compute_score(gts, res)[0], rel=1e-9)
    assert cider(candidates, references) > 0.1


def test_a_word_counts_as_often_as_a_reference_has_it():
    """Papineni et al. 2002, section 2.1."""
    references = [[["the", "cat", "is", "on", "the", "mat"], ["there", "is", "a", "cat", "on", "the", "mat"]]]
    assert bleu([["the"] * 7], references)[:2] == (pytest.approx(2 / 7), 0)


def test_short_captions_are_penalised():
    """Two words of a reference of four: precision 1, penalty e^(1 - 4/2)."""
    found = bleu([["a", "dog"]], [[["a", "dog", "runs", "home"]]])
    assert found[:2] == pytest.approx((math.exp(-1), math.exp(-1)))
    assert found[2] == 0


def test_cider_by_hand():
    """Of two pictures, the words of each are its own: every n-gram weighs log 2, so cosines are those of counts."""
    first, second = ["a", "b", "c", "d"], ["e", "f", "g", "h"]
    assert cider([first, second], [[first], [second]]) == pytest.approx(10)
    assert cider([first, second], [[first, second], [second, first]]) == 0  # words of all pictures weigh nothing
    swapped = cider([["a", "b", "d", "c"], second], [[first], [second]])  # 1-grams agree, of 2-grams one of three
    assert swapped == pytest.approx(10 * ((1 + 1 / 3) / 4 + 1) / 2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A dog isn't in the man's T-shirt.", ["a", "dog", "is", "n't", "in", "the", "man", "'s", "t-shirt"]),
        (
            "two dogs , a - (maybe) 1,000 'toys' !",
            ["two", "dogs", "a", "maybe", "1,000", "toys"],
        ),
        ("They\u2019re here; it's 3.5 km", ["they", "'re", "here", "it", "'s", "3.5", "km"]),
        ("一只狗 on 雪地", ["一", "只", "狗", "on", "雪", "地"]),
        ("...", []),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


def test_captions_equal_but_for_case_and_punctuation_are_perfect():
    metrics = caption_metrics(
        ["a dog runs on grass", "the cat sleeps all day"], [["A dog runs, on grass."], ["The cat sleeps all day!"]]
    )
    assert metrics.as_dict() == {"BLEU-1": 100, "BLEU-2": 100, "BLEU-3": 100, "BLEU-4": 100, "CIDEr": 1000}


def test_an_empty_caption_is_merely_bad():
    metrics = caption_metrics(["", "..."], [["a dog"], ["a cat"]])
    assert set(metrics.as_dict().values()) == {0}


@pytest.mark.parametrize(("captions", "references"), [([], []), (["a"], []), (["a"], [[]])])
def test_nothing_to_compare(captions, references):
    with pytest.raises(InputError, match="for each a list of at least one reference"):
        caption_metrics(captions, references)


def test_evaluate_captions(pairs):
    done = []
    report = evaluate_captions([pairs], model=ToyPainter(), progress=lambda *counts: done.append(counts))
    assert done == [(4, 0), (8, 0), (12, 0)]
    assert (report["n_images"], report["n_texts"], report["model"]) == (12, 24, "toy-painter")
    assert report["BLEU-1"] == pytest.approx(100 * (4 * 12 + 10) / 60, abs=0.01)  # two pictures of twelve are black
    assert report["BLEU-4"] == pytest.approx(100 * (58 / 60 * 46 / 48 * 34 / 36 * 22 / 24) ** 0.25, abs=0.01)
    assert [one["id"] for one in report["examples"]] == [f"no-{n}" for n in range(0, 12, 2)]
    assert report["examples"][0]["caption"] == "a plain wall painted red"
    assert report["examples"][0]["references"] == ["A plain wall, painted red.", "something with a colour"]
    assert evaluate_captions([pairs], model=ToyPainter(), limit=5)["n_images"] == 5


def test_pictures_that_cannot_be_read_are_left_out(pairs, caplog):
    (pairs.parent / "3.png").write_bytes(b"no picture")
    assert evaluate_captions([pairs], model=ToyPainter())["n_images"] == 11
    assert "no-3" in caplog.text
    for path in pairs.parent.glob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(InputError, match="no readable picture"):
        evaluate_captions([pairs], model=ToyPainter())


def test_the_command(pairs, monkeypatch):
    monkeypatch.setitem(registry._FAMILIES, "painter", lambda _: ToyPainter())
    command = ["eval", str(pairs), "--captions", "--model", "painter:1", "--quiet"]
    first, second, *examples = CliRunner().invoke(app, command).stdout.splitlines()
    assert first == "toy-painter: 12 pictures, 24 texts"
    assert second.startswith("BLEU-1 96.7  BLEU-2 ")
    assert " CIDEr " in second
    assert examples[0] == "  no-0: a plain wall painted red"
    report = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert report == evaluate_captions([pairs], model=ToyPainter())
    failed = CliRunner().invoke(app, [*command, "--rerank", "judge:1"]).exception
    assert str(failed) == "--captions measures how a model describes, and nothing is judged; leave out --rerank, --top"
