"""The model that ships: its files, its card, its vectors, its figures."""

from __future__ import annotations

import json

import numpy as np
import pytest

import mmrag
from mmrag.errors import ModelError
from mmrag.models.registry import load_encoder
from tests.models import golden


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("builtin")


def test_the_files_are_those_of_the_card(encoder):
    encoder.verify()
    megabytes = sum(path.stat().st_size for path in encoder.folder.rglob("*") if path.is_file()) / 1e6
    assert megabytes < 58


def test_the_card_says_where_it_comes_from(encoder):
    card = encoder.card
    assert card.languages == ("en", "zh")
    names = {source.name.split()[0].rstrip(",") for source in card.sources}
    assert names >= {"EfficientNet-Lite2", "all-MiniLM-L6-v2", "Flickr8k"}
    for said in (card.licence_code, card.licence_weights, card.data, card.training, card.summary, card.figures):
        assert said


def test_golden_vectors():
    """Other processors and engines round differently; another model, or other preprocessing, differs far more."""
    expected, found = json.loads(golden.FILE.read_text("utf-8")), golden.measure()
    for kind in ("photographs", "texts"):
        assert expected[kind].keys() == found[kind].keys()
        for name, components in expected[kind].items():
            assert np.allclose(found[kind][name], components, atol=4e-3), name


def test_paraphrases_are_near_and_other_things_far(encoder):
    texts = ["A man is playing a guitar.", "Someone strums a guitar.", "The stock market fell sharply today."]
    near, far, _ = (encoder.encode_text(texts) @ encoder.encode_text(texts).T)[np.triu_indices(3, 1)]
    assert near > 0.7
    assert far < 0.2


def test_figures_on_flickr8k(flickr8k):
    """A guard for the figures of the card, on val."""
    report = mmrag.evaluate_pairs([flickr8k / "val-00.tar"], model="builtin")
    found = report["text_to_image"], report["image_to_text"]
    for direction, least in zip(found, ((22, 51, 65), (27, 54, 67)), strict=True):
        assert all(direction[f"R@{k}"] >= at_least for k, at_least in zip((1, 5, 10), least, strict=True)), report
    assert (report["n_images"], report["n_texts"]) == (1000, 5000)


def test_it_computes_on_the_cpu_whatever_torch_is_to_take(caplog):
    with caplog.at_level("INFO", "mmrag"):
        assert load_encoder("builtin", device="cuda").device == "cpu"
    assert "is an ONNX model and computes on the CPU, not on cuda" in caplog.text
    with pytest.raises(ModelError, match="a device is one of auto, cpu, cuda, mps, not 'abacus'"):
        load_encoder("builtin", device="abacus")
