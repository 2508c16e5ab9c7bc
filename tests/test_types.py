from __future__ import annotations

import pytest

from mmrag import Changes, Failure, Item, Query
from mmrag.errors import InputError, QueryError
from mmrag.types import Term


def test_an_item_needs_a_uri_and_a_text_item_its_text():
    with pytest.raises(InputError, match="needs a uri"):
        Item(uri="")
    with pytest.raises(InputError, match="has no text"):
        Item(uri="note", modality="text", text="  ")
    with pytest.raises(InputError, match="'image' or 'text'"):
        Item(uri="note", modality="sound")


@pytest.mark.parametrize(
    "broken", [{"text": "\ud800"}, {"metadata": {"camera": "\ud800"}}, {"metadata": {"\ud800": 1}}]
)
def test_an_item_is_valid_unicode(broken):
    with pytest.raises(InputError, match="uri, id, text and metadata must be valid Unicode"):
        Item(uri="a", **broken)


@pytest.mark.parametrize("nothing", [{}, {"text": ""}, {"text": " \n"}])
def test_an_empty_query_is_an_error_with_an_example(nothing):
    with pytest.raises(QueryError, match="a dog on a beach"):
        Query(**nothing)


def test_a_query_can_be_words_and_pictures_at_once():
    query = Query(text="a dog", image="dog.jpg", plus=(Term(text="a beach", weight=0.5),), phrases=("sale",))
    assert [(term.text, term.image, term.weight) for term in query.terms] == [
        ("a dog", None, 1.0),
        (None, "dog.jpg", 1.0),
        ("a beach", None, 0.5),
    ]
    assert query.words == "a dog a beach sale"


def test_changes_sum_up_in_one_line():
    changes = Changes(added=1200, moved=1, failed=(Failure("a", "b"),), still_failing=2)
    assert str(changes) == "1,200 added · 0 updated · 1 moved · 0 removed · 0 unchanged · 3 failed"
