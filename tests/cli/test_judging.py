"""`mmrag search --rerank`, with the toy matcher in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import mmrag
from mmrag.cli.main import app
from mmrag.cli.search import _score
from mmrag.models import catalogue
from mmrag.types import Hit

ROOT = Path(__file__).resolve().parents[2]
CODE = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv[0] = 'mmrag'\n"
    "import tests.conftest\n"  # registers the toys
    "from mmrag.cli.main import main; main()"
)


def run(*arguments, code=0):
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def index(colours):
    index = mmrag.create(".", model="toy:1")
    index.add("images")
    return index


def test_a_line_tells_score_probability_and_cosine(index):
    first, second, third = run("search", "red", "--rerank", "judge:1", "--top", "2", "-k", "3").stdout.splitlines()
    assert first == "  1  match 5.00 (p .98, cosine 1.00)  images/red.png"
    assert second == "  2  match -3.25 (p .02, cosine .75)  images/yellow.png"
    assert third.startswith("  3  cosine 0.")


def test_the_cosine_of_a_line_is_the_one_in_the_score(index):
    hit = Hit(
        1, 2.5, "match", mmrag.Item(uri="a.png"), parts={"cosine": 0.9, "itc": 0.5, "logit": 2, "probability": 0.88}
    )
    assert _score(hit) == "match 2.50 (p .88, cosine .50)"
    without = dataclasses.replace(hit, parts={"cosine": 0.9, "logit": 2.5, "probability": 0.88})
    assert _score(without) == "match 2.50 (p .88, cosine .90)"


def test_evaluation_takes_one_network_for_two_names_of_a_model(index, monkeypatch):
    asked = []
    monkeypatch.setattr("mmrag.evaluate.evaluate_pairs", lambda *_, model, rerank, **__: asked.append((model, rerank)))
    monkeypatch.setattr(catalogue, "full_name", lambda name: "judge:1" if name == "short" else name)
    for model, shared in (("judge:1", True), ("judge:2", False)):
        CliRunner().invoke(app, ["eval", "no.jsonl", "--model", model, "--rerank", "short"])
        encoder, matcher = asked.pop()
        assert (encoder is matcher) == shared


def test_how_many_to_judge_again_needs_what_judges(index):
    done = CliRunner().invoke(app, ["eval", "no.jsonl", "--top", "16"])
    assert str(done.exception) == "--top says how many candidates a model judges again; name one: --rerank NAME"


def test_json_has_the_parts(index):
    done = run("search", "red", "--rerank", "judge:2", "--json", "-k", "1")
    hit = json.loads(done.stdout)
    assert (hit["kind"], hit["uri"]) == ("match", "images/red.png")
    assert hit["score"] == pytest.approx(hit["parts"]["logit"] + hit["parts"]["itc"])
    assert set(hit["parts"]) == {"cosine", "itc", "logit", "probability"}


def test_a_recipe_and_the_lowest_score(index, tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text('[rerank]\nmodel = "judge:1"\n')
    done = run("search", "red", "--recipe", str(recipe), "--min-score", "0", "--paths")
    assert done.stdout == "images/red.png\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("red", "--top", "3"), "top says how many candidates a matcher judges, and none was named"),
        (("red", "--precision", "bf16"), "--precision is that of the model that judges again; name one: --rerank NAME"),
        (("red", "--rerank", "toy:1"), "toy:1 is no matcher: it plays the role of encoder. See: mmrag models"),
        (("red", "--rerank", "judge:1", "--precision", "bf16"), "toy runs in fp32 only, not in bf16"),
        (("red", "--rerank", "judge:1", "--device", "cuda"), "toy runs on cpu only, not on cuda"),
        (("--image", "images/red.png", "--rerank", "judge:1"), "for a picture, toy can judge items of the modality"),
    ],
)
def test_mistakes_are_one_line(index, arguments, message):
    done = run("search", *arguments, code=1)
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
