from __future__ import annotations

from pathlib import Path

import pytest

from mmrag import recipe
from mmrag.errors import RecipeError
from mmrag.search.defaults import QueryDefaults
from mmrag.search.parse import parse_query
from mmrag.search.pipeline import Pipeline
from mmrag.types import Query, Term


def test_nothing_is_added_by_default():
    query = parse_query("a + b^2", image=Path("x.jpg"), without=["c"], where="year > 2000")
    assert QueryDefaults().added_to(query) == query


def test_exclusions_are_added_and_conditions_joined():
    defaults = QueryDefaults(without=("a watermark^2",), where="width > 9 or height > 9", only="images")
    query = defaults.added_to(Query("a dog", without=(Term("a leash"),), where="year > 2000"))
    assert query.without == (Term("a leash"), Term("a watermark", weight=2))
    assert query.where == "(year > 2000) and (width > 9 or height > 9) and (modality = 'image')"
    assert QueryDefaults(only="text").added_to(Query("a dog")).where == "modality = 'text'"


def test_weights_are_multiplied():
    defaults = QueryDefaults(picture_weight=0.5, exclusion_weight=3)
    query = parse_query("a dog + b^2", image=Path("x.jpg"), like=["y.jpg:4"], without=["c^2"])
    changed = defaults.added_to(query)
    assert [(str(one.text or one.image), one.weight) for one in changed.terms] == [
        *(("a dog", 1), ("x.jpg", 0.5), ("b", 2), ("y.jpg", 2)),
    ]
    assert changed.without == (Term("c", weight=6),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('without = ["\\"x\\""]', "cannot be quoted"),
        ('without = [" "]', "without: an exclusion has no words"),
        ('only = "pictures"', "must be one of 'images', 'text'"),
        ("picture_weight = 0", "picture_weight is a number above 0, not 0"),
        ("exclusions = 1", "unknown key 'exclusions'"),
    ],
)
def test_recipes_are_checked(tmp_path, text, message):
    path = tmp_path / "p.toml"
    path.write_text(f"[query]\n{text}\n")
    with pytest.raises(RecipeError, match=message):
        recipe.load(path, Pipeline)
