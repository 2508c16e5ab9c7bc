from __future__ import annotations

import json
import logging

import pytest

from mmrag.errors import ItemError, ModelError
from mmrag.models.registry import load_encoder
from mmrag.roles import Encoder
from mmrag.sources.text import document_items
from mmrag.sources.uri import item_id
from tests.sources.text.documents import HTML, MARKDOWN, RST

CHINESE = "海滩上有一只狗。它在奔跑，非常高兴！" * 30
MIXED = "A dog on the beach. 海滩上有一只狗。 Ein Hund am Strand. " * 20


@pytest.fixture(scope="module")
def builtin():
    return load_encoder("builtin")


def test_an_item_knows_its_part_lines_headings_and_title(builtin):
    items = document_items(MARKDOWN.encode(), "notes/harbour.md", ".md", builtin)
    assert [item.part for item in items] == [str(number) for number in range(len(items))]
    assert [item.id for item in items] == [item_id("notes/harbour.md", item.part) for item in items]
    mooring = next(item for item in items if item.metadata["headings"] == ["Boats", "Mooring"])
    assert mooring.text.startswith("Boats › Mooring\nTake the rope.")
    assert mooring.metadata["lines"] == [12, 28]
    assert mooring.metadata["title"] == "The harbour guide"
    assert mooring.metadata["tags"] == ["boats", "sea"]
    assert (mooring.modality, mooring.uri, mooring.origins) == (
        "text",
        "notes/harbour.md",
        {"text": "notes/harbour.md"},
    )
    json.dumps(dict(mooring.metadata))


def test_a_title_stands_over_a_document_without_headings(builtin):
    (item,) = document_items(b"<title>Lights</title><p>They shine.", "l.html", ".html", builtin)
    assert item.text == "Lights\nThey shine."


@pytest.mark.parametrize(
    ("text", "suffix"),
    [
        (MARKDOWN * 3, ".md"),
        (RST * 9, ".rst"),
        (HTML, ".html"),
        (CHINESE, ".txt"),
        (MIXED, ".txt"),
        ("x" * 9000, ".txt"),
    ],
)
def test_the_encoder_reads_every_item_whole(builtin, text, suffix, caplog):
    items = document_items(text.encode(), "a", suffix, builtin)
    assert max(builtin.count_tokens([item.text for item in items])) <= builtin.card.max_tokens
    builtin.encode_text([item.text for item in items])
    assert not caplog.records


def test_chunks_of_chinese_are_well_filled(builtin):
    items = document_items(CHINESE.encode(), "a", ".txt", builtin)
    counts = builtin.count_tokens([item.text for item in items])
    assert sum(counts[:-1]) / len(counts[:-1]) > 0.75 * builtin.card.max_tokens


def test_an_encoder_that_does_not_know_its_tokens_gets_shorter_chunks():
    toy = load_encoder("toy:1")
    items = document_items(MARKDOWN.encode(), "a", ".md", toy)
    assert type(toy)._count_tokens is Encoder._count_tokens
    assert max(len(item.text.split()) for item in items) <= toy.card.max_tokens


def test_a_guessed_encoding_is_said(builtin, caplog):
    with caplog.at_level(logging.WARNING, "mmrag"):
        (item,) = document_items("Größe".encode("cp1252"), "old.txt", ".txt", builtin)
    assert item.text == "Größe"
    assert "old.txt is not UTF-8" in caplog.text
    assert "cp1252" in caplog.text


def test_no_text_is_the_reason(builtin):
    with pytest.raises(ItemError, match="no text"):
        document_items(b"", "a", ".txt", builtin)


def test_a_model_that_reads_no_texts_is_refused():
    pytest.importorskip("timm", reason="needs the torch extra")
    with pytest.raises(ModelError, match="sees pictures only"):
        document_items(b"text", "a", ".txt", load_encoder("timm:resnet10t/random"))
