from __future__ import annotations

import json

import pytest
from PIL import Image

import mmrag


@pytest.fixture
def index(tmp_path, photographs, monkeypatch):
    """A cat in two sizes, and a cup of coffee twice."""
    monkeypatch.chdir(tmp_path)
    cat, coffee = (Image.open(photographs / name).convert("RGB") for name in ("chelsea.png", "coffee.png"))
    cat.save("cat.png")
    cat.resize((200, 133)).save("small.png")
    coffee.save("a.png")
    coffee.save("b.png")
    index = mmrag.create(tmp_path, model="toy:1")
    index.add(["cat.png", "small.png", "a.png", "b.png"])
    return index


def test_groups_are_listed_and_what_to_keep_comes_first(index, command):
    code, out, err = command("dups")
    assert code == 0, err
    exact, similar, end = out.split("\n\n")
    assert [line.split()[-1] for line in exact.splitlines()[1:]] == ["a.png", "b.png"]
    assert exact.startswith("2 with the same content\n")
    assert similar.splitlines()[0] == "2 nearly the same"
    assert similar.splitlines()[1].endswith("kB  cat.png")
    assert "451 × 300" in similar.splitlines()[1]
    assert similar.splitlines()[2].endswith("small.png")
    assert end == ""
    assert err == "mmrag: 4 items in 2 groups: 2 more than there are different ones\n"
    assert all((index.home / name).exists() for name in ("cat.png", "small.png", "a.png", "b.png"))


def test_json_and_kinds(index, command):
    code, out, err = command("dups", "--near", "--json")
    assert code == 0, err
    (group,) = map(json.loads, out.splitlines())
    assert (group["kind"], group["keep"]) == ("near", "cat.png")
    assert [(one["uri"], one["width"], one["height"]) for one in group["items"]] == [
        ("cat.png", 451, 300),
        ("small.png", 200, 133),
    ]
    assert json.loads(command("dups", "--exact", "--json")[1])["kind"] == "exact"
    code, _, err = command("dups", "--near", "--exact")
    assert (code, err) == (1, "mmrag: --exact and --near leave nothing together; give one, or none for both\n")


def test_a_search_says_what_it_has_folded_and_can_show_it(index, command):
    _, out, _ = command("search", "red")
    assert sorted(line.partition("  (and ")[2] for line in out.splitlines()) == [
        "1 nearly the same)",
        "1 with the same content)",
    ]
    assert len(command("search", "red", "--dups")[1].splitlines()) == 4
    found = [json.loads(line) for line in command("search", "red", "--json")[1].splitlines()]
    assert sorted(len(one["near_duplicates"]) for one in found) == [0, 1]


def test_nothing_twice_is_said(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mmrag.create(tmp_path, model="toy:1")
    assert command("dups") == (0, "", "mmrag: nothing is in the index twice\n")
