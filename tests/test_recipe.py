from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest

from mmrag import recipe
from mmrag.errors import RecipeError
from mmrag.ingest.recipe import IndexRecipe, load_recipe
from mmrag.search.pipeline import Pipeline


@dataclass(frozen=True)
class Inner:
    names: tuple[str, ...] = ()
    ratio: float = 0.5


@dataclass(frozen=True)
class Outer:
    kind: Literal["a", "b"]
    count: int = 1
    note: str | None = None
    inner: Inner = field(default_factory=Inner)
    several: tuple[Inner, ...] = ()
    figures: dict[str, str] = field(default_factory=dict)


def test_builds_nested_dataclasses():
    data = {"kind": "b", "inner": {"names": ["x"], "ratio": 1}, "several": [{"ratio": 2.0}], "figures": {"R@1": "22"}}
    built = recipe.build(Outer, data, where="here")
    assert built == Outer("b", inner=Inner(("x",), 1.0), several=(Inner(ratio=2.0),), figures={"R@1": "22"})
    assert isinstance(built.inner.ratio, float)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"kind": "a", "cuont": 1}, r"unknown key 'cuont' \(did you mean 'count'\?\)"),
        ({"kind": "a", "inner": {"nam": []}}, "inner: unknown key 'nam'"),
        ({"kind": "c"}, "must be one of 'a', 'b', not 'c'"),
        ({"kind": "a", "count": "3"}, "count must be int, not '3'"),
        ({"kind": "a", "count": True}, "count must be int, not True"),
        ({"kind": "a", "inner": 3}, "inner must be a table"),
        ({"kind": "a", "inner": {"names": "x"}}, "names must be a list"),
        ({"count": 1}, "missing key 'kind'"),
    ],
)
def test_wrong_data_names_the_place_and_what_is_allowed(data, message):
    with pytest.raises(RecipeError, match=message):
        recipe.build(Outer, data, where="here")


def test_shipped_recipes_load_and_are_the_defaults():
    shipped = load_recipe("default")
    assert (shipped.source, shipped.model, shipped.store, shipped.view) == (
        IndexRecipe().source,
        IndexRecipe().model,
        IndexRecipe().store,
        IndexRecipe().view,
    )
    assert recipe.load_named("pipelines", "default", Pipeline).recall == Pipeline().recall


def test_every_shipped_recipe_loads():
    for folder, schema in (("indexes", IndexRecipe), ("pipelines", Pipeline)):
        paths = list(recipe.recipe_folder(folder).glob("*.toml"))
        assert paths
        for path in paths:
            assert recipe.load(path, schema).description


def test_an_unknown_recipe_names_the_known_ones():
    with pytest.raises(RecipeError, match=r"no recipe 'defalt'.*did you mean 'default'"):
        load_recipe("defalt")


def test_recipes_from_files(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[store]\ncommit_every = 7\n")
    assert load_recipe(str(path)).store.commit_every == 7
    path.write_text("[store]\ncommit_every = 0\n")
    with pytest.raises(RecipeError, match="at least 1"):
        load_recipe(str(path))
    path.write_text("[store\n")
    with pytest.raises(RecipeError, match="not valid TOML"):
        load_recipe(str(path))
    with pytest.raises(RecipeError, match="cannot read"):
        load_recipe(str(tmp_path / "none.toml"))
