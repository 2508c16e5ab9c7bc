"""Filters from end to end: items with facts, searched and removed from the library and the command line."""

from __future__ import annotations

import json

import pytest
from PIL import Image

import mmrag
from mmrag.errors import InputError, QueryError
from tests.toy import COLOURS

FACTS = {
    "red": {"taken_at": "2021-06-01T12:00:00", "latitude": 48.86, "longitude": 2.35, "camera": "Canon", "stars": 5},
    "green": {"taken_at": "2022-06-01T12:00:00", "latitude": -33.92, "longitude": 18.42, "keywords": ["park", "dog"]},
    "blue": {"taken_at": "2023-06-01T12:00:00", "latitude": 48.9, "longitude": 2.3, "camera": "Leica", "stars": 3},
    "yellow": {"taken_at": "2023-07-01T12:00:00"},
    "white": {},
    "black": {"stars": 1},
}


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Six pictures, each of one colour, and a text about each."""
    monkeypatch.chdir(tmp_path)
    index = mmrag.create(tmp_path, model="toy:1")
    (tmp_path / "shop").mkdir()
    for name in FACTS:
        Image.new("RGB", (8, 8), COLOURS[name]).save(f"shop/{name}.png")
    pictures = [mmrag.Item(uri=f"shop/{name}.png", id=name, metadata=facts) for name, facts in FACTS.items()]
    texts = [mmrag.Item(uri=f"about/{name}", id=f"t-{name}", modality="text", text=f"a {name} one") for name in FACTS]
    index.add([*pictures, *texts])
    return index


def found(hits):
    return {hit.item.id for hit in hits}


def searched(command, *arguments):
    code, out, err = command("search", "red", "--json", "-k", "99", *arguments)
    assert code == 0, err
    return {json.loads(line)["id"] for line in out.splitlines()}


def test_only_what_passes_is_found_and_the_best_of_it_first(index):
    hits = index.search("red", where="stars <= 3", k=9)
    assert [hit.item.id for hit in hits] == ["black", "blue"]
    assert [hit.rank for hit in hits] == [1, 2]
    assert found(index.search("red", where="modality = 'text' and text ilike '%RED%'")) == {"t-red"}
    assert index.search("red", where="stars > 5") == []


def test_queries_with_filters_of_their_own_come_back_in_order(index):
    asked = [
        mmrag.Query(text="red", where="stars > 1"),
        "red",
        mmrag.Query(text="blue", where="camera is not null"),
        mmrag.Query(text="blue", where="stars > 1"),
    ]
    several = index.search(asked, k=99)
    assert several == [index.search(one, k=99) for one in asked]
    assert [[hit.item.id for hit in hits][:2] for hits in (several[0], several[2], several[3])] == [
        ["red", "blue"],
        ["blue", "red"],
        ["blue", "red"],
    ]
    assert len(several[1]) == 12
    narrowed = index.search(asked, k=99, where="stars = 3 or modality = 'text'")
    assert [len(hits) for hits in narrowed] == [1, 7, 1, 1]


def test_what_is_judged_again_is_what_passed(index):
    hits = index.search("red", where="stars > 1 or taken_at >= '2023'", rerank="judge:1", top=2)
    assert found(hits) == {"red", "blue", "yellow"}
    assert [hit.kind for hit in hits].count("match") == 2


def test_a_wrong_filter_is_told_before_anything_is_encoded(index):
    with pytest.raises(QueryError, match="did you mean stars"):
        index.search(["red", mmrag.Query(text="blue", where="star > 2")])
    with pytest.raises(QueryError, match="the filter is empty"):
        index.search("red", where="")


def test_count_and_remove_by_filter(index):
    assert index.count("stars >= 3") == 2
    assert index.remove(where="stars >= 3", dry_run=True) == 2
    assert len(index) == 12
    assert index.remove(where="stars >= 3") == 2
    assert index.remove(where="stars >= 3") == 0
    assert found(index.search("red", k=99)) == {*FACTS, *(f"t-{name}" for name in FACTS)} - {"red", "blue"}
    assert index.count("stars is null and modality = 'image'") == 3
    with pytest.raises(InputError, match="say what to remove: ids, uris or paths, or a filter"):
        index.remove()


def test_targets_and_a_filter_remove_what_is_both(index):
    assert index.remove(["red", "t-red", "black"], where="modality = 'text' or stars = 1") == 2
    assert {"t-red", "black"}.isdisjoint(found(index.search("red", k=99)))
    with pytest.raises(InputError, match="nothing in the index goes by 'none'"):
        index.remove("none", where="stars = 5")


def test_what_a_filter_removes_of_a_folder_comes_back_with_it(colours, command):
    index = mmrag.create(".", model="toy:1")
    index.add("images")
    assert index.remove(".", where="uri like '%/r%'") == 1
    changes = index.update()
    assert (changes.added, changes.unchanged) == (1, 5)


def test_facts_are_listed(index, command):
    told = {fact.name: (fact.kind, fact.items, fact.lowest, fact.highest) for fact in index.facts()}
    assert told["stars"] == ("a whole number", 3, 1, 5)
    assert told["keywords"] == ("a list of texts", 1, "dog", "park")
    assert told["modality"] == ("text", 12, "image", "text")
    code, out, err = command("info", "--facts")
    assert (code, err) == (0, "")
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in out.splitlines()}
    assert lines["stars"] == "a whole number          3  1 … 5"
    assert lines["taken_at"] == "text                    4  '2021-06-01T12:00:00' … '2023-07-01T12:00:00'"
    assert set(lines) == set(told)
    *_, year = (json.loads(line) for line in command("info", "--facts", "--json")[1].splitlines())
    assert year == {"name": "year", "kind": "a whole number", "items": 4, "lowest": 2021, "highest": 2023}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--where", "stars >= 3"], {"red", "blue"}),
        (["--near", "48.85,2.35,10km"], {"red", "blue"}),
        (["--near", "48.85,2.35,2km"], {"red"}),
        (["--near", "-33.9,18.4,5mi"], {"green"}),
        (["--near=-33.9,18.4,5mi"], {"green"}),
        (["--after", "2023"], {"blue", "yellow"}),
        (["--before", "2022-06-01"], {"red"}),
        (["--after", "2022-06", "--before", "2023-06-02"], {"green", "blue"}),
        (["--only", "images"], set(FACTS)),
        (["--only", "text", "--where", "uri like '%w%'"], {"t-yellow", "t-white"}),
        (["--near", "48.85,2.35,10km", "--after", "2023", "--where", "stars = 3 or stars = 5"], {"blue"}),
    ],
)
def test_search_with_filters(index, command, arguments, expected):
    assert searched(command, *arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--where", "star > 3"], "did you mean stars?"),
        (
            ["--where", "stars > 3", "--where", "stars >"],
            "expected a name or a value, found the end\n  stars >\n         ^",
        ),
        (["--near", "Paris"], "a place is LATITUDE,LONGITUDE,RADIUS, such as 48.85,2.35,5km, not 'Paris'"),
        (["--near", "-95,2,5km"], "a latitude is from -90 to 90 degrees, not -95"),
        (["--after", "yesterday"], "a date is a day, month or year, 2023-06-01, 2023-06 or 2023, not 'yesterday'"),
        (["--only", "sound"], "only images or text can be asked for, not 'sound'"),
    ],
)
def test_wrong_filters_are_told_on_stderr(index, command, arguments, told):
    code, out, err = command("search", "red", *arguments)
    assert (code, out) == (1, "")
    assert err.startswith("mmrag: ")
    assert told in err


def test_a_filter_that_leaves_nothing_says_so(index, command):
    code, out, err = command("search", "red", "--where", "stars > 9", "--only", "images")
    assert (code, out) == (0, "")
    told = "no item passes (stars > 9) and (modality = 'image'); what filters can ask for: mmrag info --facts"
    assert err == f"mmrag: {told}\n"
    _, out, err = command("search", "red", "--where", "stars < 4", "--min-score", "0.99")
    assert out == ""
    assert err == "mmrag: of the 2 items that pass stars < 4, none scores that high; lower --min-score\n"


def test_remove_by_filter(index, command):
    assert command("remove", "--where", "stars < 4", "--dry-run")[:2] == (0, "2 would be removed\n")
    assert json.loads(command("remove", "--where", "stars < 4", "--dry-run", "--json")[1]) == {"would_remove": 2}
    assert command("remove", "--where", "stars < 4")[:2] == (0, "2 removed\n")
    assert command("remove", "black", "t-black")[0] == 1
    assert command("remove", "t-black", "--dry-run")[:2] == (0, "1 would be removed\n")
    assert command("remove", "t-black")[:2] == (0, "1 removed\n")
    code, _, err = command("remove")
    assert code == 1
    assert "say what to remove" in err
    index.refresh()
    assert len(index) == 9


def test_the_filter_of_a_recipe_is_named_where_nothing_passes_it(index, command, tmp_path):
    (tmp_path / "old.toml").write_text('description = "old"\n[query]\nwhere = "year < 1900"\n')
    code, out, err = command("search", "red", "--recipe", "old.toml")
    assert (code, out) == (0, "")
    assert "no item passes year < 1900; what filters can ask for: mmrag info --facts" in err
