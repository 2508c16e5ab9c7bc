"""Why this hit: where in a picture it is, on composed pictures whose halves are known, and the files that tell it."""

from __future__ import annotations

import base64
import io
import logging
import re

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import mmrag
from mmrag.cli.main import app
from mmrag.errors import ModelError, QueryError
from mmrag.models.onnx import OnnxEncoder
from mmrag.models.registry import load_encoder
from mmrag.roles import Matcher
from mmrag.types import Hit, Item, Query
from tests.models.grid import builtin_with_grid
from tests.toy import COLOURS, ToyJudge


@pytest.fixture(scope="module")
def builtin(tmp_path_factory):
    return OnnxEncoder(builtin_with_grid(tmp_path_factory.mktemp("grid") / "builtin"))


@pytest.fixture
def halves(colours):
    """A picture that is red on the left and blue on the right, and an index that has it alone."""
    for path in colours.iterdir():
        path.unlink()
    picture = Image.new("RGB", (64, 32), COLOURS["red"])
    picture.paste(COLOURS["blue"], (32, 0, 64, 32))
    picture.save(colours / "halves.png")
    index = mmrag.create(".", model="toy:explained")
    index.add("images")
    return index


def side_by_side(folder, *names):
    pictures = [Image.open(folder / name).convert("RGB").resize((300, 300)) for name in names]
    both = Image.new("RGB", (600, 300))
    for n, picture in enumerate(pictures):
        both.paste(picture, (300 * n, 0))
    return both


@pytest.mark.parametrize(
    ("left", "right", "words"),
    [
        ("chelsea.png", "coffee.png", ("a cat", "a cup of coffee")),
        ("coffee.png", "rocket.jpg", ("a cup of coffee", "a rocket")),
        ("motorcycle_left.png", "chelsea.png", ("a motorcycle", "a cat")),
        ("rocket.jpg", "motorcycle_left.png", ("a rocket", "a motorcycle")),
    ],
)
def test_the_built_in_model_knows_which_half(builtin, photographs, left, right, words):
    image = side_by_side(photographs, left, right)
    for half, vector in enumerate(builtin.encode_query(words)):
        heat = builtin.explain(image, vector)
        assert heat.shape == (9, 9)
        assert np.abs(heat).max() <= 1
        means = heat[:, :4].mean(), heat[:, 5:].mean()
        assert means[half] > means[1 - half] + 0.02, words[half]


def test_a_second_output_changes_no_vector(builtin, photographs):
    picture = Image.open(photographs / "coffee.png").convert("RGB")
    shipped = load_encoder("builtin", precision="fp32").encode_image([picture])
    assert np.allclose(builtin.at_precision("fp32").encode_image([picture]), shipped, atol=1e-5)


def test_an_index_tells_of_each_hit_that_is_a_picture(halves, caplog):
    halves.add(mmrag.Item(uri="note", modality="text", text="red"))
    hits = [*halves.search("red"), Hit(9, 0.0, "cosine", Item(uri="images/gone.png", id="gone"))]
    with caplog.at_level(logging.WARNING, "mmrag"):
        (told,) = halves.explain("red", hits)
    assert told.hit.item.uri == "images/halves.png"
    assert told.heat[:, :4].min() > told.heat[:, 4:].max()
    assert "images/gone.png is not explained: cannot be read" in caplog.text
    (told,) = halves.explain(Image.new("RGB", (8, 8), COLOURS["blue"]), hits[:2])
    assert told.heat[:, :4].max() < told.heat[:, 4:].min()


def test_a_model_that_cannot_tell(colours):
    index = mmrag.create(".", model="toy:1")
    index.add("images")
    hits = index.search("red")
    with pytest.raises(ModelError, match="toy does not tell where in a picture it finds something; the built-in"):
        list(index.explain("red", hits))
    with pytest.raises(QueryError, match="tokens are explained of words, by a matcher"):
        list(index.explain("red", hits, tokens=True))
    with pytest.raises(QueryError, match="tokens are explained of words, by a matcher"):
        list(index.explain(Query(image=colours / "red.png"), hits, tokens=True))


def search(*arguments):
    done = CliRunner().invoke(app, ["search", *arguments])
    assert done.exit_code == 0, done.output
    return done


def test_the_command_writes_overlays_and_puts_them_into_the_page(halves, tmp_path):
    done = search("red", "--explain", "why", "--html", "page.html")
    assert "1 heat maps → why" in done.stderr
    (path,) = (halves.home / "why").iterdir()
    assert path.name == "001-halves.png"
    drawn = np.asarray(Image.open(path).convert("L"), dtype=float)[:32]
    assert drawn[:, :20].mean() > drawn[:, 44:].mean() + 20
    shown = re.search(r'src="data:image/jpeg;base64,([^"]+)"', (halves.home / "page.html").read_text())
    inside = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown[1]))).convert("L"), dtype=float)
    assert np.allclose(inside[:32], drawn, atol=40)


def test_tokens_by_a_matcher(halves):
    search("red blue", "--rerank", "judge:1", "--explain", "why", "--explain-tokens")
    assert sorted(path.name for path in (halves.home / "why").iterdir()) == [
        *("001-halves.01-red.png", "001-halves.02-blue.png", "001-halves.png"),
    ]
    first, second = (
        np.asarray(Image.open(f"why/001-halves.{n}.png").convert("L"), float) for n in ("01-red", "02-blue")
    )
    assert first[:32, :20].mean() > first[:32, 44:].mean() + 20
    assert second[:32, :20].mean() + 20 < second[:32, 44:].mean()


class Silent(ToyJudge):
    """Does not tell what it looks at."""

    explain_match = Matcher.explain_match


def test_where_the_matcher_cannot_tell_the_encoder_does(halves):
    hits = halves.search("red", rerank=Silent())
    (told,) = halves.explain("red", hits, rerank=Silent())
    assert told.heat[:, :4].min() > told.heat[:, 4:].max()
    with pytest.raises(ModelError, match="toy does not tell why a picture matches"):
        list(halves.explain("red", hits, rerank=Silent(), tokens=True))


def test_tokens_need_a_folder(halves):
    done = CliRunner().invoke(app, ["search", "red", "--explain-tokens"])
    assert str(done.exception) == "--explain-tokens says what --explain writes; name a folder: --explain DIR"
