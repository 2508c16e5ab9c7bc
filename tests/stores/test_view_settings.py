from __future__ import annotations

import pytest

from mmrag.errors import RecipeError
from mmrag.recipe import build
from mmrag.stores.view_settings import FACTORIES, ViewSettings


@pytest.mark.parametrize("factory", [*FACTORIES, "IVF4096,PQ32x4fsr", "HNSW16,SQ8"])
def test_forms_that_are_built(factory):
    assert ViewSettings(kind="faiss", factory=factory).factory == factory


@pytest.mark.parametrize("factory", ["", "LSH", "IVF64,LSH", "Flat,", "IDMap,Flat", "HNSW32,RaBitQ", "PQ64", "SQ8\n"])
def test_other_forms_are_refused(factory):
    with pytest.raises(RecipeError, match="is no form that mmrag builds; choose one of Flat, SQ8"):
        ViewSettings(kind="faiss", factory=factory)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"kind": "exact", "factory": "SQ8"}, 'view.factory is for kind = "faiss" or "lance", not \'exact\''),
        ({"kind": "fais"}, "must be one of 'auto', 'exact', 'faiss', 'lance', not 'fais'"),
        ({"rescore": "int4"}, "must be one of '', 'fp32', 'fp16', 'int8', not 'int4'"),
        ({"target": 0.0}, "view.target is a share above 0 and up to 1, not 0"),
        ({"rescore_factor": float("nan")}, "view.rescore_factor is at least 1, not nan"),
        ({"nprobe": 0}, "view.nprobe and view.ef_search are from 1 to 1,048,576"),
    ],
)
def test_what_no_view_can_be_built_of_is_refused(data, told):
    with pytest.raises(RecipeError, match=told.replace("(", r"\(")):
        build(ViewSettings, data, where="view")


def test_the_number_of_lists_follows_the_rows():
    settings = ViewSettings(kind="faiss", factory="IVF{lists},SQ8")
    assert settings.factory_for(1_000_000, 512) == "IVF4000,SQ8"
    assert settings.factory_for(100, 512) == "IVF40,SQ8"


@pytest.mark.parametrize(("dimension", "parts"), [(512, 64), (384, 48), (100, 10), (7, 1)])
def test_the_number_of_parts_divides_the_dimension(dimension, parts):
    settings = ViewSettings(kind="faiss", factory="IVF8,PQ{parts}x4fs")
    assert settings.factory_for(1000, dimension) == f"IVF8,PQ{parts}x4fs"


def test_parts_must_divide_the_dimension():
    settings = ViewSettings(kind="faiss", factory="IVF{lists},PQ60x4fsr")
    with pytest.raises(RecipeError, match="have 512 dimensions: take a divisor of 512, such as 64"):
        settings.factory_for(1000, 512)


def test_the_folder_tells_what_was_built_and_not_how_hard_it_looks():
    one = ViewSettings(kind="faiss", factory="SQ8")
    harder = ViewSettings(kind="faiss", factory="SQ8", rescore_factor=9.0, nprobe=7, ef_search=5)
    assert one.folder_name == harder.folder_name
    others = [
        ViewSettings(),
        ViewSettings(kind="faiss", factory="Flat"),
        ViewSettings(kind="faiss", factory="SQ8", rescore="fp16"),
    ]
    assert len({one.folder_name, *(other.folder_name for other in others)}) == 4
    assert one.with_effort_of(harder) == harder
