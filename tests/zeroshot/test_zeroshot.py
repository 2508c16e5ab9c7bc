from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

import mmrag
from mmrag.errors import InputError, ModelError
from mmrag.models.registry import load_encoder
from mmrag.zeroshot.accuracy import Accuracy
from mmrag.zeroshot.classifier import Classifier
from tests.toy import COLOURS, ToyEncoder

LABELS = ["red", "green", "blue"]


class PictureOnly(ToyEncoder):
    _embed_text = mmrag.Encoder._embed_text


def by_hand(encoder, labels, templates, picture, scale):
    """Probabilities as CLIP's notebook computes them, one prompt at a time."""
    means = []
    for label in labels:
        unit = [encoder.encode_text([template.format(label)])[0].astype(float) for template in templates]
        mean = sum(unit) / len(unit)
        means.append(mean / math.sqrt(sum(mean**2)))
    powers = [math.exp(scale * float(mean @ encoder.encode_image([picture])[0])) for mean in means]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("name", ["toy:1", "builtin"])
def test_probabilities_are_those_computed_by_hand(name):
    encoder, picture = load_encoder(name), Image.new("RGB", (40, 30), (200, 120, 40))
    templates = ["{}", "a photo of a red or {} thing", "green, {}"]
    scale = encoder.card.logit_scale or 100
    (found,) = mmrag.classify(picture, LABELS, model=encoder, templates=templates, k=3)
    expected = by_hand(encoder, LABELS, templates, picture, scale)
    assert dict(zip(found.labels, found.probabilities, strict=True)) == pytest.approx(
        dict(zip(LABELS, expected, strict=True)), abs=1e-5
    )
    assert list(found.probabilities) == sorted(found.probabilities, reverse=True)
    assert len(set(np.round(expected, 4))) == 3


def test_the_scale_is_the_cards_or_clips_or_ones_own():
    assert Classifier.build(load_encoder("builtin"), LABELS).logit_scale == 15.72
    assert Classifier.build(ToyEncoder(), LABELS).logit_scale == 100
    assert Classifier.build(ToyEncoder(), LABELS, logit_scale=2).logit_scale == 2


def test_many_labels_are_counted_while_they_are_embedded():
    told = []
    labels = [f"red {n}" for n in range(130)]
    list(mmrag.classify([], labels, model=ToyEncoder(), progress=lambda *done: told.append(done)))
    assert told == [(64, 130), (128, 130), (130, 130)]


def test_the_nearest_of_several_vectors_counts():
    vectors = np.eye(3, dtype=np.float32)
    classifier = Classifier(("x", "y"), vectors[:2], logit_scale=10)
    several = np.stack([vectors[[2, 1]], vectors[[2, 2]]])  # (2, 2, 3)
    assert classifier.logits(several).tolist() == [[0, 10], [0, 0]]


def test_files_stream_in_order_and_bad_ones_are_named(colours):
    (colours / "bad.jpg").write_bytes(b"hello")
    (colours / "red").mkdir()
    (colours / "red.png").rename(colours / "red" / "some.png")
    told = []
    results = mmrag.classify(
        "images", list(COLOURS), model="toy:1", k=2, exclude=["white*"], progress=lambda *done: told.append(done)
    )
    assert next(results).uri == "images/bad.jpg"
    assert told == []
    found = list(results)
    assert [one.uri for one in found] == [
        *("images/black.png", "images/blue.png", "images/green.png"),
        *("images/red/some.png", "images/yellow.png"),
    ]
    assert told[-1] == (6, 6)
    assert [one.labels[0] for one in found] == ["black", "blue", "green", "red", "yellow"]
    assert all(len(one.labels) == 2 and one.failure is None for one in found)
    assert [one.truth for one in found] == [None, None, None, "red", None]
    (bad,) = mmrag.classify([colours / "bad.jpg"], LABELS, model="toy:1")
    assert (bad.labels, bad.failure) == ((), "not a picture in a format that can be read")


def test_pictures_in_memory(colours):
    red = Image.new("RGB", (9, 9), "red")
    found = list(mmrag.classify([red, (colours / "blue.png").read_bytes(), red, b"?"], LABELS, model="toy:1"))
    assert [one.uri for one in found] == ["picture 0", "picture 1", "picture 2", "picture 3"]
    assert [one.labels[:1] for one in found] == [("red",), ("blue",), ("red",), ()]


def test_an_index_is_classified_by_its_vectors_alone(colours):
    (colours / "bad.jpg").write_bytes(b"hello")
    index = mmrag.create(".", model="toy:1")
    index.add("images")
    index.add(mmrag.Item(uri="words", modality="text", text="red"))
    decoded = list(mmrag.classify("images", LABELS, model="toy:1", k=3))
    for path in colours.iterdir():
        path.unlink()
    stored = list(index.classify(LABELS, k=3))
    assert [one.uri for one in stored] == [one.uri for one in decoded]
    assert [one.labels for one in stored] == [one.labels for one in decoded]
    assert stored[0].failure == decoded[0].failure
    for mine, theirs in zip(stored, decoded, strict=True):
        assert mine.probabilities == pytest.approx(theirs.probabilities, abs=1e-6)


def test_accuracy_where_folders_are_named_as_labels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, rgb in {"Red/1": "red", "Red/2": "blue", "dark_green/1": "green", "other/1": "blue"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (9, 9), rgb).save(f"{name}.png")
    found = list(mmrag.classify(".", ["red", "dark green", "blue"], model="toy:1", k=1))
    assert [(one.truth, one.truth_rank) for one in found] == [("red", 1), ("red", 3), ("dark green", 1), (None, None)]
    assert Accuracy.of(found).as_dict() == {
        "top-1": 66.67,
        "top-5": 100.0,
        "pictures": 3,
        "labels": {
            "dark green": {"top-1": 100.0, "top-5": 100.0, "pictures": 1},
            "red": {"top-1": 50.0, "top-5": 100.0, "pictures": 2},
        },
    }
    assert {one.labels[0] for one in mmrag.classify(".", model="toy:1")} <= {"Red", "dark green", "other"}
    assert Accuracy().as_dict() == {}


def test_equal_scores_count_against_the_truth():
    vectors = np.eye(3, dtype=np.float32)
    classifier = Classifier(("x", "y", "z"), vectors[[0, 0, 1]])
    (found,) = classifier.classify(["x/1.png"], vectors[:1])
    assert (found.labels[0], found.truth_rank) == ("x", 2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"sources": "nowhere"}, InputError, "there is no file or folder 'nowhere'"),
        ({"sources": 7}, InputError, "not int"),
        ({"k": 0}, InputError, "at least 1, not 0"),
        ({"logit_scale": -1.0}, InputError, "above 0, not -1"),
        ({"labels": ["red"]}, InputError, "at least two labels"),
        ({"labels": None}, InputError, "there is only 'images'"),
        ({"exclude": "*.png"}, InputError, "list of globs"),
        ({"model": PictureOnly()}, ModelError, "sees pictures only"),
    ],
)
def test_mistakes_are_told_before_anything_is_read(colours, arguments, error, message):
    with pytest.raises(error, match=message):
        mmrag.classify(**{"sources": "images", "labels": LABELS, "model": "toy:1", **arguments})


def test_real_photographs_with_the_builtin_model(photographs):
    labels = ["a cat", "a cup of coffee", "a rocket", "a motorcycle", "the moon", "a house"]
    found = {one.uri.rpartition("/")[2]: one for one in mmrag.classify(photographs, labels)}
    for name, label in {
        "chelsea.png": "a cat",
        "coffee.png": "a cup of coffee",
        "rocket.jpg": "a rocket",
        "motorcycle_left.png": "a motorcycle",
    }.items():
        assert found[name].labels[0] == label
        assert 0.3 < found[name].probabilities[0] <= 1
        assert sum(found[name].probabilities) <= 1 + 1e-6
