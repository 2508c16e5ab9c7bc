from __future__ import annotations

from pathlib import Path

import pytest

from mmrag.errors import QueryError
from mmrag.search.parse import as_query, parse_query
from mmrag.types import Query, Term


@pytest.mark.parametrize(
    ("words", "query"),
    [
        ("a dog", Query("a dog")),
        ("  a\n dog ", Query("a dog")),
        ("a dog + on a beach", Query("a dog", plus=(Term("on a beach"),))),
        ("a dog + on a beach^0.5 + at night", Query("a dog", plus=(Term("on a beach", weight=0.5), Term("at night")))),
        ("a dog^2 + on a beach", Query(plus=(Term("a dog", weight=2.0), Term("on a beach")))),
        ("a dog^.5", Query(plus=(Term("a dog", weight=0.5),))),
        ('"Fujifilm X100V"', Query(phrases=("Fujifilm X100V",))),
        ('harbour "Fujifilm  X100V" at night', Query("harbour at night", phrases=("Fujifilm X100V",))),
        ('harbour + "one" "two"', Query("harbour", phrases=("one", "two"))),
        ('harbour "salt + pepper"', Query("harbour", phrases=("salt + pepper",))),
        ("C++ and ratio 3:2, 2^n, x+y, it's", Query("C++ and ratio 3:2, 2^n, x+y, it's")),
        ("一只狗 + 海滩", Query("一只狗", plus=(Term("海滩"),))),
    ],
)
def test_words(words, query):
    assert parse_query(words) == as_query(words) == query


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "the query is empty; say what to look for, such as"),
        (" \t", "the query is empty"),
        ('harbour "Fujifilm', r'a quote has no other end in .* look so: harbour "Fujifilm X100V"'),
        ('harbour ""', "nothing stands in the quotes"),
        ("a dog +", 'a plus stands between two things to look for, and here is one: "a dog" \\+ "on a beach"'),
        ("+ a dog", "a plus stands between"),
        ("a dog + + a cat", "a plus stands between"),
        ("+", "a plus stands between"),
        ("a dog + ^2", "stands behind no words"),
        ('"a dog"^2', "stands behind no words"),
        ("a dog^0", "the weight of a term is a number above 0, not 0.0"),
        ("a dog^-1", "a number above 0"),
    ],
)
def test_what_says_nothing(words, message):
    with pytest.raises(QueryError, match=message):
        parse_query(words)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"without": ["a leash"]}, "only says what is not wanted; say what to look for, too"),
        ({"without_like": ["x.jpg"]}, "only says what is not wanted"),
        ({"where": "year > 2020"}, "a filter alone puts nothing in order"),
        ({"words": "a dog", "without": [" "]}, 'an exclusion has no words; it looks so: --without "a leash"'),
        ({"words": "a dog", "without": ['"leash"']}, "cannot be quoted.*use a filter: --where"),
        ({"words": "a dog", "like": ["x.jpg:0"]}, "a number above 0"),
        ({"words": "a dog", "without": "a leash"}, r"without takes a list.*: without=\['a leash'\]"),
    ],
)
def test_options_that_say_nothing(given, message):
    with pytest.raises(QueryError, match=message):
        parse_query(**given)


def test_pictures_and_their_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("odd:2").touch()
    query = parse_query(
        image=Path("a.jpg"), like=["sunset.jpg:0.5", "odd:2", "odd:2:3", "C:/x.jpg", Path("p:9")], without_like=["b:.5"]
    )
    assert query.pictures == (Path("a.jpg"), *map(Path, ["sunset.jpg", "odd:2", "odd:2", "C:/x.jpg", "p:9"]))
    assert [term.weight for term in query.terms] == [1, 0.5, 1, 3, 1, 1]
    assert query.without == (Term(image=Path("b"), weight=0.5),)


def test_exclusions_may_have_weights_and_no_pluses():
    query = parse_query("a dog", without=["a leash^2", "salt + pepper"])
    assert query.without == (Term("a leash", weight=2), Term("salt + pepper"))


@pytest.mark.parametrize(
    "query",
    [
        parse_query("a dog + on a beach^0.5", without=["a leash"], like=["s.jpg:0.5"], where="year >= 2022"),
        parse_query('harbour "X100V"', image=Path("s.jpg"), without_like=["t.jpg"]),
    ],
)
def test_a_query_is_written_as_it_is_read(query):
    words, *options = str(query).split(" --")
    given = {name: value.strip('"') for name, _, value in (option.partition(" ") for option in options)}
    lists = {name.replace("-", "_"): [value] for name, value in given.items() if name != "where"}
    again = parse_query(words, **lists, where=given.get("where"))
    assert (again.terms, again.without, again.phrases, again.where) == (
        *(query.terms, query.without, query.phrases, query.where),
    )


def test_plain_words():
    assert parse_query("a dog", where="year > 2000").plain_words == "a dog"
    assert parse_query("a dog^3").plain_words == "a dog"
    several = [parse_query("a + b"), parse_query("a", without=["b"]), parse_query('a "b"'), parse_query(image=b"x")]
    assert [query.plain_words for query in several] == [None] * 4


def test_what_is_no_query():
    with pytest.raises(QueryError, match=r"are Terms, such as without=\(Term"):
        Query("a dog", without=("a leash",))
    with pytest.raises(QueryError, match=r"a query is words \(str\), a picture .* or a Query, not int"):
        as_query(3)
