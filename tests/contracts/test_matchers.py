"""What every matcher promises."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

import numpy as np
import pytest
from PIL import Image

from mmrag.errors import InputError
from mmrag.models.registry import load_matcher
from mmrag.roles import Judgement, Matcher
from tests.contracts.made import asked_for, made

MATCHERS = [
    "tests.models.tiny_blip:make_retrieval",
    "tests.models.tiny_blip2:make_retrieval",
    "tests.models.tiny_cross:make_cross_encoder",
    "tests.models.tiny_miniature:make_miniature",
    *asked_for(Matcher),
]
TEXTS = [
    "a red car",
    "two dogs are playing in deep white snow",
    "a black cup of coffee on the brown table",
    "a man in orange",
    "a grey rocket at night",
]
PASSAGES = ["the car is red", "dogs play in the snow", "coffee", "a rocket starts at night from its launch pad"]
CLOSE = 1e-4
"""How far two computations of the same may be apart, in standard deviations of the logits."""


@pytest.fixture(params=MATCHERS, scope="module")
def matcher(request, tmp_path_factory):
    return load_matcher(made(request.param, tmp_path_factory))


@pytest.fixture(scope="module")
def items(matcher, photographs):
    if "image" not in matcher.card.modalities:
        return PASSAGES
    return [Image.open(path).convert("RGB").resize((97, 80)) for path in sorted(photographs.iterdir())]


@pytest.fixture(scope="module")
def features(matcher, items):
    return matcher.features(items)


@pytest.fixture(scope="module")
def judged(matcher, features):
    return matcher.match(TEXTS, features)


def parts(judgement):
    return {one.name: getattr(judgement, one.name) for one in fields(Judgement) if one.name != "cosines"} | (
        {} if judgement.cosines is None else {"cosines": judgement.cosines}
    )


def assert_same(found, expected, deviation):
    assert parts(found).keys() == parts(expected).keys()
    for name, values in parts(expected).items():
        np.testing.assert_allclose(parts(found)[name], values, rtol=0, atol=CLOSE * deviation, err_msg=name)


def test_features_have_the_shape_that_was_said(matcher, items, features):
    assert len(features) == len(items)
    if matcher.feature_shape is None:
        assert list(features) == items
    else:
        assert features.shape == (len(items), *matcher.feature_shape)
        assert features.dtype == np.float32


def test_a_number_for_each_pair(judged, items):
    for values in parts(judged).values():
        assert values.shape == (len(TEXTS), len(items))
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
    assert judged.probabilities.min() >= 0
    assert judged.probabilities.max() <= 1
    assert judged.cosines is None or np.abs(judged.cosines).max() <= 1 + 1e-5


def test_both_sides_matter(judged):
    for values in parts(judged).values():
        assert values.std(axis=0).min() > 0
        assert values.std(axis=1).min() > 0
    assert judged.logits.std() > 0.1


def test_scores_are_logits_plus_cosines(judged):
    plain = judged.logits if judged.cosines is None else judged.logits + judged.cosines
    assert np.array_equal(judged.scores, plain)


def test_only_the_wanted_pairs(matcher, features, judged):
    wanted = np.random.default_rng(0).random(judged.logits.shape) < 0.5
    some = matcher.match(TEXTS, features, wanted)
    for name, values in parts(some).items():
        assert np.array_equal(np.isfinite(values), wanted), name
        np.testing.assert_allclose(values[wanted], parts(judged)[name][wanted], atol=CLOSE * judged.logits.std())


def test_cosines_only_if_asked(matcher, features, judged):
    without = matcher.match(TEXTS, features, cosines=False)
    assert without.cosines is None
    np.testing.assert_allclose(without.logits, judged.logits, rtol=0, atol=CLOSE * judged.logits.std())


def test_no_pair_wanted(matcher, features, judged):
    nothing = matcher.match(TEXTS, features, np.zeros(judged.logits.shape, dtype=bool))
    assert all(np.isnan(values).all() for values in parts(nothing).values())


def test_a_pair_does_not_depend_on_its_company(matcher, features, judged):
    for row, column in ((0, 0), (1, 2), (2, 1), (4, len(features) - 1)):
        alone = matcher.match([TEXTS[row]], [features[column]])
        expected = {name: values[row, column] for name, values in parts(judged).items()}
        for name, values in parts(alone).items():
            assert abs(values.item() - expected[name]) <= CLOSE * judged.logits.std(), name


def test_the_order_does_not_matter(matcher, features, judged):
    rows, columns = np.arange(len(TEXTS))[::-1], np.arange(len(features))[::-1]
    turned = matcher.match([TEXTS[row] for row in rows], [features[column] for column in columns])
    expected = Judgement(**{name: values[np.ix_(rows, columns)] for name, values in parts(judged).items()})
    assert_same(turned, expected, judged.logits.std())


def test_the_same_twice(matcher, features, judged):
    twice = matcher.match([TEXTS[0], TEXTS[0]], [features[0], features[1], features[0]])
    assert np.allclose(twice.logits[0], twice.logits[1], atol=CLOSE * judged.logits.std())
    assert np.allclose(twice.logits[:, 0], twice.logits[:, 2], atol=CLOSE * judged.logits.std())


def test_nothing_in_nothing_out(matcher, features):
    assert len(matcher.features([])) == 0
    assert matcher.match([], features).logits.shape == (0, len(features))
    assert matcher.match(TEXTS, matcher.features([])).logits.shape == (len(TEXTS), 0)


def test_one_string_is_a_mistake(matcher, features):
    with pytest.raises(InputError, match="list of texts"):
        matcher.match("a dog", features)


def test_wanted_of_another_shape(matcher, features):
    with pytest.raises(InputError, match="a row per text, a column per item"):
        matcher.match(TEXTS, features, np.ones((len(features), len(TEXTS)), dtype=bool))


def test_odd_texts_are_judged(matcher, features):
    odd = matcher.match(["", "\n", "🐕", "海滩上的狗", "\x00"], features)
    assert np.isfinite(odd.logits).all()


def test_long_texts_are_cut_with_a_warning(matcher, features, caplog):
    with caplog.at_level(logging.WARNING, "mmrag"):
        short, long = matcher.match(["car " * 2000, "car " * 2000 + "dogs " * 500], list(features)[:2]).logits
    assert f"{matcher.card.max_tokens} tokens" in caplog.text
    assert np.allclose(short, long, atol=1e-4)


def test_threads_share_it(matcher, features, judged):
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: matcher.match(TEXTS, features), range(8)):
            assert_same(found, judged, judged.logits.std())


def test_the_identity_is_the_cards(matcher):
    assert "matcher" in matcher.card.roles
    assert (matcher.identity.name, matcher.identity.revision) == (matcher.card.name, matcher.card.revision)
    matcher.verify()
