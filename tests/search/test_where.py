from __future__ import annotations

import json
import threading

import numpy as np
import pytest

from mmrag.errors import QueryError
from mmrag.search import where as filters
from mmrag.search.condition import DEEPEST, LONGEST, both, parse
from mmrag.search.shorthand import after, before, near, only
from mmrag.search.where import masks, passing, stamps_passing
from mmrag.stores.columns import facts_in
from mmrag.stores.exact import ExactView
from mmrag.stores.rows import Row
from mmrag.stores.table import Table
from tests.conditions import random_condition, random_facts


def make_view(folder, *batches):
    """A view with a segment for each batch of facts; each batch is less than half as long as the one before."""
    table = Table(folder / "table", 2, create=True)
    view = ExactView.open(folder / "view", 2)
    numbers = iter(range(10_000))
    for batch in batches:
        rows = [
            Row(
                id=f"i{n}",
                uri=f"shelf {n % 3}/deep/{n}.jpg" if n % 4 else f"{n}.jpg",
                modality="text" if n % 5 == 4 else "image",
                text="a caption" if n % 2 else None,
                size=10 * n,
                metadata=json.dumps(facts) if facts else None,
                vector=np.array([1, 0], np.float32),
            )
            for facts, n in zip(batch, numbers, strict=False)
        ]
        table.upsert(rows)
        view = view.sync(table)
    assert len(view.segments) == len(batches)
    return view


def ids(view, where):
    found = zip(view.segments, masks(view, where), strict=True)
    return {own for one, mask in found for own in one.columns["id"].filter(mask).to_pylist()}


def numbered(*numbers):
    return {f"i{n}" for n in numbers}


SIZES = (40, 12, 4, 1)
FILTERS = (
    *("odd = 1", "odd > 1.5", "odd in (1, 2)", "odd = true", "odd", "odd = '1'", "odd in ('1.0', 'true', 'x')"),
    *("odd like '1%'", "odd >= '1.0'", "odd contains 'x'", "odd contains '1.0'", "odd contains '1'", "odd is null"),
    *("odd.y = 1", "odd = width", "not odd = 1", "year = 2001 and month = 2"),
)


@pytest.mark.parametrize(
    "values",
    [
        ([1, 2], [1.5], [3], [2]),
        ([1, 2], [10**25], [1], [1.0]),
        ([1, 0], [True, False], [1], [False]),
        ([1, 1.0], ["1", "1.0"], [2.5], [1]),
        ([True], ["x", "true"], [1], [2.5]),
        (["x", "1"], [["x", 1]], ["y"], [[]]),
        ([1, True], [["1"]], [1.0], ["x"]),
        ([1.0, 1], ["1.0"], [["x"]], [None]),
        ([{"y": 1}], [1, 2], [{"y": 1.5}], [{"y": "x"}]),
    ],
    ids=str,
)
def test_segments_that_hold_a_fact_in_different_types_answer_as_one_does(tmp_path, values):
    random = np.random.default_rng(0)
    batches = [
        [random_facts(random) | {"odd": some[n % len(some)]} for n in range(size)]
        for size, some in zip(SIZES, values, strict=True)
    ]
    batches[1][0] = {"taken_at": "2001-02-03T04:05:06", "year": 7}
    apart = make_view(tmp_path / "apart", *batches)
    together = make_view(tmp_path / "together", [one for batch in batches for one in batch])
    answers = {
        where: outcome(together, where) for where in (*FILTERS, *(random_condition(random)[0] for _ in range(9)))
    }
    assert {where: outcome(apart, where) for where in answers} == answers
    assert sum(isinstance(answer, set) and len(answer) > 0 for answer in answers.values()) > 3


def outcome(view, where):
    """The ids that pass, or the message of an error."""
    try:
        return ids(view, where)
    except QueryError as error:
        return str(error)


def test_what_rows_are_known_by_can_be_asked_for(tmp_path):
    view = make_view(tmp_path, [{}] * 8)
    assert ids(view, "folder = 'shelf 1/deep'") == numbered(1, 7)
    assert ids(view, "folder = ''") == numbered(0, 4)
    assert ids(view, "folder like 'shelf 2/%' or uri = '0.jpg'") == numbered(0, 2, 5)
    assert ids(view, "modality = 'text'") == numbered(4)
    assert ids(view, "text is not null and size >= 50") == numbered(5, 7)
    assert ids(view, "id in ('i3', 'i9')") == numbered(3)
    assert ids(view, "tags is null and generated is null and ocr is null and part is null") == numbered(*range(8))


def test_usual_facts_of_pictures_can_be_asked_for_where_none_has_them(tmp_path):
    view = make_view(tmp_path, [{}])
    assert ids(view, "taken_at >= '2023' or year = 2 or near(0, 0, '9km')") == set()
    assert ids(view, "camera is null and not latitude is not null") == {"i0"}


def test_what_is_not_known_does_not_pass_and_neither_does_its_contrary(tmp_path):
    view = make_view(tmp_path, [{"a": 1, "b": True}, {"a": 2}, {"b": False}, {}])
    assert ids(view, "a = 1") == {"i0"}
    assert ids(view, "not a = 1") == {"i1"}
    assert ids(view, "a = 1 or b") == {"i0"}
    assert ids(view, "a != 1 or not b") == numbered(1, 2)
    assert ids(view, "a in (1) and b") == {"i0"}
    assert ids(view, "a not in (1)") == {"i1"}
    assert ids(view, "not not a is null") == numbered(2, 3)


def test_numbers_beyond_what_columns_hold(tmp_path):
    view = make_view(tmp_path, [{"n": 2**53 + 1}, {"n": 5}])
    assert ids(view, "n > 99999999999999999999999 or n > 1e999") == set()
    assert ids(view, "n < 9223372036854775808") == numbered(0, 1)
    assert ids(view, f"n = {2**53 + 1}") == {"i0"}
    assert ids(view, "n >= 5.5") == {"i0"}
    assert ids(view, "n in (5.0, 6)") == {"i1"}
    assert ids(view, f"n < {'9' * 5000}") == numbered(0, 1)


@pytest.fixture(scope="module")
def one_row(tmp_path_factory):
    return make_view(tmp_path_factory.mktemp("one"), [{"year": 3, "camera": "a", "flag": True, "keywords": ["a"]}])


@pytest.mark.parametrize(
    ("where", "at", "problem"),
    [
        ("yeer > 3", 1, r"nothing here has the fact yeer \(did you mean year\?\); there are camera, flag, folder"),
        ("Year > 3", 1, r"did you mean year\?"),
        ("year > 3 and", 13, "expected a name or a value, found the end"),
        ("year > 3 year", 10, "expected 'and', 'or' or the end of the filter, found year"),
        ("year >= 'abc'", 9, "year is a whole number and 'abc' is text.*for instance year >= 100"),
        ("'abc' <= year", 1, "year is a whole number and 'abc' is text"),
        ("camera = 3", 10, "camera is text and 3 is a whole number.*camera = 'a text'"),
        ("camera in ('a', 2.5)", 17, "camera is text and 2.5 is a number"),
        ("camera between 'a' and true", 24, "camera is text and true is true or false"),
        ("camera = year", 10, "camera is text and year is a whole number"),
        ("flag > false", 8, "which do not compare so; write for instance flag = true"),
        ("camera", 1, "camera is text and true is true or false"),
        ("keywords = 'a'", 12, "keywords is a list of texts.*keywords contains 'a text'"),
        ("keywords in ('a')", 14, "keywords is a list of texts"),
        ("camera contains 'a'", 1, "only a list contains a text, and camera is text here"),
        ("keywords contains 3", 19, "lists hold texts"),
        ("year like '2%'", 1, "only a text is like a pattern, and year is a whole number here"),
        ("camera like 2", 13, r"expected a pattern such as '%beach%', in '…', found 2"),
        ("year = null", 8, "nothing equals null; write: is null"),
        ("year is 3", 9, "expected 'null', found 3"),
        ("year not 3", 10, "expected in, like, ilike, between or contains, found 3"),
        ("3 = 3", 1, "both sides are values"),
        ("3", 2, "expected a comparison such as = or <, found the end"),
        ("year in ()", 10, r"expected a value, found \)"),
        ("(year = 3", 10, r"expected '\)', found the end"),
        ("year = 'it's'", 13, "this text has no end; close it with '"),
        ('"year = 3', 1, "this name has no end"),
        ("year = 3; drop", 9, "';' means nothing here"),
        ("year = 3d", 8, "this is no number"),
        ("price-eur = 3", 6, "'-' means nothing here"),
        ("near(91, 0, '5km')", 1, "a latitude is from -90 to 90 degrees, not 91"),
        ("near(0, -181, '5km')", 1, "a longitude is from -180 to 180 degrees, not -181"),
        ("near(0, 0, '5')", 1, "a length above 0 with its unit, such as 5km, 500m or 3mi, not '5'"),
        ("near(0, 0, 5)", 12, "expected a radius such as '5km', in '…', found 5"),
        ("near(0, 0, '0km')", 1, "a length above 0"),
        ("(" * 10_000, DEEPEST + 2, "more than 100 parentheses within each other"),
        ("(" * DEEPEST + "year", DEEPEST + 5, "expected '\\)'"),
    ],
)
def test_mistakes_are_shown_with_their_place(one_row, where, at, problem):
    with pytest.raises(QueryError, match=problem) as caught:
        masks(one_row, where)
    first, excerpt, caret = str(caught.value).splitlines()
    assert first.startswith(f"the filter is wrong at character {at}: ")
    shown = where[at - 1 : at] or ""
    assert excerpt[caret.index("^") :][: len(shown)] == shown


def test_a_number_that_no_column_holds_is_text(tmp_path):
    view = make_view(tmp_path, [{"n": 10**400}, {"n": 3}, {"n": True}])
    assert ids(view, f"n = '1{'0' * 400}' or n = 'true'") == numbered(0, 2)


def test_near_needs_degrees(tmp_path):
    view = make_view(tmp_path, [{"latitude": "north", "longitude": 3}])
    with pytest.raises(QueryError, match="near compares degrees, and latitude is text here"):
        masks(view, "near(0, 0, '5km')")


@pytest.mark.parametrize("nothing", ["", "  \n"])
def test_an_empty_filter_is_an_error_with_an_example(nothing):
    with pytest.raises(QueryError, match="the filter is empty; write a condition such as"):
        parse(nothing)


def test_filters_may_be_long_but_not_endless(tmp_path):
    view = make_view(tmp_path, [{"year": 3}, {"year": 4}])
    long = " or ".join(["year = 3"] * 5000)
    assert ids(view, long) == {"i0"}
    assert ids(view, f"{'not ' * 9001}year = 3") == {"i1"}
    with pytest.raises(QueryError, match="at most 100,000 characters"):
        parse(long + " " * LONGEST)


def test_many_names_are_not_all_listed(tmp_path):
    view = make_view(tmp_path, [{f"fact{n:03}": n for n in range(200)}])
    with pytest.raises(QueryError, match=r"and 180 more \(mmrag info --facts\)"):
        masks(view, "colour = 3")


def test_joined_filters_must_all_pass_whatever_they_are_made_of(tmp_path):
    view = make_view(tmp_path, [{"a": n // 2, "b": n % 2} for n in range(4)])
    assert both(None, None) is None
    assert both(None, "a = 1", None) == "a = 1"
    assert ids(view, both("a = 0 or b = 0", "b = 1")) == {"i1"}
    with pytest.raises(QueryError, match="character 6"):
        both("a = 1) or (b = 1", "b = 0")


def test_the_same_filter_is_looked_at_once_and_only_some_are_remembered(tmp_path, monkeypatch):
    view = make_view(tmp_path, [{"n": n} for n in range(20)])
    looked = []
    monkeypatch.setattr(filters, "parse", lambda where: looked.append(where) or parse(where))
    for where in ("n > 3", "n > 4", "n > 3"):
        masks(view, where)
    assert looked == ["n > 3", "n > 4"]
    for n in range(8):
        masks(view, f"n = {n}")
    masks(view, "n > 3")
    assert looked.count("n > 3") == 2
    assert len(filters._known[view]) == 8


def test_threads_may_filter_at_once(tmp_path):
    view = make_view(tmp_path, [{"n": n} for n in range(50)])
    wrong = []

    def ask(start):
        wrong.extend(n for m in range(60) if passing(view, f"n >= {(n := (start + m) % 50)}") != 50 - n)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert wrong == []


def test_what_failed_and_what_is_gone_is_not_counted_but_what_failed_can_be_removed(tmp_path):
    table = Table(tmp_path / "table", 2, create=True)
    rows = [
        Row(id=f"i{n}", uri=f"{n}", modality="image", metadata='{"n": 1}', vector=np.array([1, 0], np.float32))
        for n in range(5)
    ]
    table.upsert([*rows, Row(id="bad", uri="bad", modality="image", metadata='{"n": 1}', failure="broken")])
    view = ExactView.open(tmp_path / "view", 2).sync(table)
    table.delete(table.stamps()[:2])
    view = view.sync(table)
    assert passing(view, "n = 1") == 3
    assert stamps_passing(view, "n = 1") == table.stamps().tolist()


def test_facts_tell_what_filters_can_ask_for(tmp_path):
    first = {"n": 3, "price": 2, "flag": True, "keywords": ["b", "c"], "lens": {"mount": "X"}, "taken_at": "2001-02-03"}
    view = make_view(tmp_path, [first, {"price": 0.5}, {}], [{"n": -1, "keywords": "a"}])
    told = {fact.name: (fact.kind, fact.items, fact.lowest, fact.highest) for fact in facts_in(view)}
    assert list(told) == sorted(told)
    assert told == {
        "flag": ("true or false", 1, True, True),
        "folder": ("text", 4, "", "shelf 2/deep"),
        "id": ("text", 4, "i0", "i3"),
        "keywords": ("a list of texts", 2, "a", "c"),
        "lens.mount": ("text", 1, "X", "X"),
        "modality": ("text", 4, "image", "image"),
        "n": ("a whole number", 2, -1, 3),
        "price": ("a number", 2, 0.5, 2.0),
        "size": ("a whole number", 4, 0, 30),
        "taken_at": ("text", 1, "2001-02-03", "2001-02-03"),
        "text": ("text", 2, "a caption", "a caption"),
        "uri": ("text", 4, "0.jpg", "shelf 2/deep/2.jpg"),
        **{name: ("a whole number", 1, n, n) for name, n in (("year", 2001), ("month", 2), ("day", 3))},
    }
    assert facts_in(ExactView.open(tmp_path / "none", 2)) == []


DATES = ["2022-12-31T23:59:59", "2023-01-01T00:00:00", "2023-06-01T12:30:00+02:00", "2023-06-30", "2024-01-01T00:00:00"]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (after("2023"), (1, 2, 3, 4)),
        (before("2023"), (0,)),
        (after("2023-06"), (2, 3, 4)),
        (before("2023-07"), (0, 1, 2, 3)),
        (both(after("2023-06-01"), before("2023-06-02")), (2,)),
        (both(after("2023"), before("2024")), (1, 2, 3)),
    ],
)
def test_dates_begin_with_their_first_moment(tmp_path, written, expected):
    view = make_view(tmp_path, [*({"taken_at": one} for one in DATES), {}])
    assert ids(view, written) == numbered(*expected)


@pytest.mark.parametrize(
    "wrong", ["", "june", "2023-6-1", "2023-02-30", "2023-13", "23", "2023-06-01T12", "0000", "٢٠٢٣"]
)
def test_what_is_no_date(wrong):
    with pytest.raises(QueryError, match="a date is a day, month or year, 2023-06-01, 2023-06 or 2023, not"):
        after(wrong)


def test_places_in_short(tmp_path):
    view = make_view(tmp_path, [{"latitude": -33.92, "longitude": 18.42}, {"latitude": 48.9, "longitude": 2}, {}])
    assert ids(view, near("-33.9,18.4,5km")) == {"i0"}
    assert ids(view, near(" +48.85 , 2.35 , 20 mi ")) == {"i1"}
    for wrong, problem in (
        ("Paris", "a place is LATITUDE,LONGITUDE,RADIUS, such as 48.85,2.35,5km, not 'Paris'"),
        ("48.85,2.35", "a place is LATITUDE"),
        ("95,2.35,5km", "a latitude is from -90 to 90"),
        ("48.85,2.35,5", "a radius is a length above 0 with its unit"),
        ("48.85,2.35,-5km", "a radius is a length above 0"),
        ("48.85,2.35,5km') or (id = 'i1", "a radius is a length above 0"),
    ):
        with pytest.raises(QueryError, match=problem):
            near(wrong)


def test_modalities_in_short(tmp_path):
    view = make_view(tmp_path, [{}] * 5)
    assert ids(view, only("text")) == {"i4"}
    assert ids(view, only("images")) == numbered(0, 1, 2, 3)
    with pytest.raises(QueryError, match="only images or text can be asked for, not 'sound'"):
        only("sound")
