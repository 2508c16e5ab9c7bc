from __future__ import annotations

import itertools
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mmrag
from mmrag import Item, Query, Term
from mmrag.errors import QueryError
from mmrag.search.compose import EXCLUSION, compose, corpus_spread
from mmrag.search.defaults import QueryDefaults
from mmrag.search.language import says_nothing
from mmrag.search.pipeline import Pipeline, Recall, Rerank
from mmrag.search.queries import encode_queries
from tests.toy import COLOURS

MIXED = {
    "orange": (255, 128, 0),
    "pink": (255, 160, 180),
    "olive": (90, 90, 0),
    "navy": (0, 0, 90),
    "grey": (90, 90, 90),
}


@pytest.fixture
def index(colours):
    for name, rgb in MIXED.items():
        Image.new("RGB", (8, 8), rgb).save(colours / f"{name}.png")
    index = mmrag.create(".", model="toy:1")
    index.add("images")
    return index


def names(hits):
    return [Path(hit.item.uri).stem for hit in hits]


def vector(index, query):
    return encode_queries(index.encoder, [query], index._view)[0]


def unit(vector):
    return vector / np.linalg.norm(vector)


def rows(index):
    return np.stack([index._view.vector(ref) for ref, *_ in index._view.scan(("uri",))])


def test_one_term_of_any_weight_is_the_plain_query(index):
    plain = index.search("red", k=20)
    for weight in (0.01, 0.5, 7):
        assert index.search(Query(plus=(Term("red", weight=weight),)), k=20) == plain
    picture = index.search(Path("images/red.png"), k=20)
    assert index.search(Query(plus=(Term(image=Path("images/red.png"), weight=3),)), k=20) == picture


def test_neither_the_order_of_terms_nor_the_scale_of_weights_matters(index):
    terms = [Term("red"), Term("blue", weight=0.5), Term(image=Path("images/olive.png"), weight=2)]
    first = vector(index, Query(plus=tuple(terms)))
    for order, scale in itertools.product(itertools.permutations(terms), (0.1, 1, 30)):
        scaled = tuple(Term(one.text, one.image, one.weight * scale) for one in order)
        for without in ((), (Term("green"), Term("white"))):
            other = vector(index, Query(plus=scaled, without=without))
            expected = first if not without else vector(index, Query(plus=tuple(terms), without=without[::-1]))
            assert np.allclose(other, expected, atol=1e-6)


def test_a_composed_query_orders_by_the_sum_of_standard_scores(index):
    """By hand: weighted sums of cosines, each in units of its standard deviation over the corpus."""
    corpus = rows(index)
    red, blue, olive, green = (
        corpus @ unit(np.array([*np.array(rgb) / 255, 0.5]))
        for rgb in [*map(COLOURS.get, ("red", "blue")), MIXED["olive"], COLOURS["green"]]
    )
    wanted = red / red.std() + 0.5 * blue / blue.std() + 2 * olive / olive.std()
    expected = wanted / wanted.std() - EXCLUSION * green / green.std()
    query = Query("red", plus=(Term("blue", weight=0.5), Term(image=Path("images/olive.png"), weight=2)))
    for asked, scores in (
        (query, wanted),
        (mmrag.Query(query.text, plus=query.plus, without=(Term("green"),)), expected),
    ):
        found = corpus @ vector(index, asked)
        assert np.corrcoef(found, scores)[0, 1] == pytest.approx(1, abs=1e-6)


def test_exclusions_move_away(index):
    plain, without = index.search("red", k=20), index.search(mmrag.parse_query("red", without=["yellow"]), k=20)
    assert names(without)[0] == "red"
    assert names(without).index("yellow") > names(plain).index("yellow")
    assert [hit.kind for hit in without] == ["cosine"] * len(without)


def test_the_strength_is_that_of_the_heaviest_exclusion():
    x, y, z = np.eye(3, dtype=np.float32)
    one = compose([(1, x)], [(1, y)], spread=lambda _: 1.0)
    assert np.allclose(one, unit(np.array([1, -EXCLUSION, 0])))
    both = compose([(1, x)], [(1, y), (1, z)], spread=lambda _: 1.0)
    assert np.allclose(both, unit(np.array([1, -EXCLUSION / np.sqrt(2), -EXCLUSION / np.sqrt(2)])))
    assert np.allclose(compose([(1, x)], [(2, y)], spread=lambda _: 1.0), unit(np.array([1, -2 * EXCLUSION, 0])))


def test_what_is_not_wanted_can_be_all_there_is(index):
    x = np.eye(2, dtype=np.float32)[0]
    assert np.allclose(compose([(1, x)], [(1, x)], spread=lambda _: 0.2), x)
    with pytest.raises(QueryError, match="nothing is left of the query"):
        compose([(1, x)], [(1 / EXCLUSION, x)], spread=lambda _: 0.2)
    with pytest.raises(QueryError, match="nothing is left of the query"):
        compose([(1, x), (1, -x)], [], spread=lambda _: 0.2)


def test_the_spread_is_within_pictures_and_within_texts(tmp_path):
    """Texts that lie elsewhere than pictures make no term spread wider."""
    index = mmrag.create(tmp_path, model="toy:1")
    index.add([Item(uri=f"{n}", image=Image.new("RGB", (8, 8), (n, 0, 0))) for n in (0, 100, 200)])
    pictures = corpus_spread(index._view)(unit(np.array([1, 0, 0, 0.5])))
    corpus = rows(index) @ unit(np.array([1, 0, 0, 0.5]))
    assert pictures == pytest.approx(corpus.std(), abs=1e-6)
    index.add([Item(uri=f"t{n}", modality="text", text="white") for n in range(3)])
    assert corpus_spread(index._view)(unit(np.array([1, 0, 0, 0.5]))) == pytest.approx(pictures / np.sqrt(2), abs=1e-6)


def test_an_index_of_nothing_or_of_one(tmp_path):
    index = mmrag.create(tmp_path, model="toy:1")
    query = mmrag.parse_query("red + blue", without=["green"])
    assert index.search(query) == []
    index.add(Item(uri="x", image=Image.new("RGB", (8, 8), "red")))
    assert names(index.search(query)) == ["x"]


def test_several_vectors_of_a_picture_move_each(colours):
    """A picture has two vectors; words are added to each."""
    index = mmrag.create(".", model="toy:halves")
    index.add("images")
    picture, words = Path("images/red.png"), "blue"
    both = vector(index, Query(words, picture))
    alone = vector(index, Query(image=picture))
    assert both.shape == alone.shape == (2, 4)
    spread = corpus_spread(index._view)
    text = index.encoder.encode_query([words])[0]
    expected = alone / spread(alone) + text / spread(text)
    assert np.allclose(both, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)
    mixed = encode_queries(index.encoder, [Query(words), Query(words, picture)], index._view)
    assert np.allclose(mixed[0], text)
    assert np.allclose(mixed[1], both)
    assert index.search(Query("red", plus=(Term("blue"),)))[0].kind == "cosine"


def test_phrases_alone_are_looked_for_by_what_they_mean(index):
    assert np.array_equal(vector(index, Query(phrases=("red",))), vector(index, Query("red")))


@pytest.mark.parametrize(
    ("words", "languages", "nothing"),
    [
        ("the of a", ["en"], True),
        ("The, of: A!", [], True),
        ("...", ["en"], True),
        ("the dog", ["en"], False),
        ("🙂", ["en"], False),
        ("的", ["en", "zh"], True),
        ("的狗", ["en", "zh"], False),
        ("der und das", ["de"], True),
        ("der und das", ["en"], False),
        ("van", ["en", "nl"], False),
        ("42", ["en"], False),
        ("IT", ["en"], False),
        ("it", ["en"], True),
        ("a can", ["en"], False),
        ("two", ["en"], False),
    ],
)
def test_words_that_say_nothing(words, languages, nothing):
    assert says_nothing(words, languages) is nothing


@pytest.mark.parametrize("query", ["the of a", "red + the", mmrag.parse_query("red", without=["the"])])
def test_a_term_that_says_nothing_is_refused(index, query):
    with pytest.raises(QueryError, match=r"'the.*' says nothing by itself; say what to look for, such as"):
        index.search(query)


def test_quoted_words_need_not_say_anything_by_themselves(index):
    assert index.search('"The Who"') == []
    assert len(index.search('"the"', k=99)) == sum("the" in hit.item.uri for hit in index.search("red", k=99))


def test_a_recipe_adds_to_every_query(index):
    pipeline = Pipeline(query=QueryDefaults(without=("yellow",)), recall=Recall(k=20))
    assert index.search("red", pipeline=pipeline) == index.search(mmrag.parse_query("red", without=["yellow"]), k=20)


def test_the_command(index, command):
    code, out, _ = command(
        "search", "red", "+", "blue^0.5", "--without", "green", "--like", "images/olive.png:2", "--paths"
    )
    query = Query(
        "red", plus=(Term("blue", weight=0.5), Term(image=Path("images/olive.png"), weight=2)), without=(Term("green"),)
    )
    assert code == 0
    assert [Path(line).stem for line in out.splitlines()] == names(index.search(query))
    code, _, error = command("search", "--without", "green")
    assert (code, "only says what is not wanted" in error) == (1, True)
    code, out, _ = command("search", "bright", "red", "-k", "1", "--paths")
    assert out == "images/red.png\n"


def test_the_page_shows_the_whole_query(index, command, tmp_path):
    command(
        "search", "red", "+", "blue", "--without", "green", "--like", "images/olive.png", "--html", tmp_path / "p.html"
    )
    page = (tmp_path / "p.html").read_text()
    assert "<title>red + blue --like images/olive.png --without &quot;green&quot; – mmrag</title>" in page
    assert page.count('alt="the query picture"') == 1


def test_a_composed_search_is_light(index):
    code = (
        "import sys; sys.argv = ['mmrag', 'search', 'a dog', '+', 'a cat', '--without', 'a leash'];"
        "from mmrag.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'transformers', 'lancedb', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    home = Path("light")
    home.mkdir()
    mmrag.create(home, model="builtin").add("images")
    done = subprocess.run([sys.executable, "-c", code], cwd=home, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "images/red.png" in done.stdout


def judged(**options):
    return Pipeline(recall=Recall(k=20), rerank=Rerank("judge:1", **options))


def test_a_matcher_rejects_what_is_believed_to_contain_what_is_not_wanted(index, caplog):
    halves = Image.new("RGB", (8, 8), COLOURS["red"])
    halves.paste(COLOURS["blue"], (0, 0, 8, 5))  # 40 of 64 pixels are blue: a logit of 1
    halves.save("images/both.png")
    index.add("images")
    plain = index.search(mmrag.parse_query("red"), pipeline=judged())
    assert not caplog.messages
    hits = index.search(mmrag.parse_query("red", without=["blue", "green"]), pipeline=judged())
    assert set(names(plain)) - set(names(hits)) == {"both", "blue", "green"}
    told = "3 of 12 candidates are left out, as they seem to contain what is not wanted: blue, green"
    assert caplog.record_tuples == [("mmrag", logging.WARNING, told)]
    assert [hit.rank for hit in hits] == list(range(1, 10))
    assert all(hit.parts["without"] == pytest.approx(1 / (1 + np.exp(4))) for hit in hits)
    assert hits[0].parts["logit"] == pytest.approx(4)
    assert "without" not in plain[0].parts


def test_pictures_that_a_picture_has_found_are_rejected_by_words(index):
    query = mmrag.parse_query(image=Path("images/red.png"), without=["red"])
    hits = index.search(query, pipeline=judged(top=12))
    plain = index.search(query, k=20)
    assert names(hits) == [name for name in names(plain) if name != "red"]
    assert {hit.kind for hit in hits} == {"cosine"}


def test_the_words_of_a_query_with_a_picture_are_judged_together(index):
    hits = index.search(mmrag.parse_query("bright + red", image=Path("images/blue.png")), pipeline=judged())
    assert names(hits)[0] == "red"
    assert hits[0].parts["logit"] == pytest.approx(4)
