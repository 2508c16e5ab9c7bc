"""What every encoder promises."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from mmrag.errors import InputError
from mmrag.models.registry import load_encoder
from mmrag.roles import Encoder
from tests.contracts.made import asked_for, made

MADE = ["tiny:make_clip", "tiny_blip:make_retrieval", "tiny_blip2:make_retrieval"]
ENCODERS = [
    *("builtin", "toy:1"),
    *(f"tests.models.{one}" for one in MADE),
    *asked_for(Encoder),
]
TEXTS = ["a red car", "two dogs are playing in deep snow", "blue", "a man"]


@pytest.fixture(params=ENCODERS, scope="module")
def encoder(request, tmp_path_factory):
    return load_encoder(made(request.param, tmp_path_factory))


@pytest.fixture(scope="module")
def pictures():
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    ramp = np.broadcast_to(np.linspace(0, 255, 50, dtype=np.uint8)[:, None, None], (50, 70, 3))
    return [
        Image.fromarray(noise),
        Image.fromarray(np.ascontiguousarray(ramp)),
        Image.new("RGB", (300, 200), "red"),
        Image.new("RGB", (1, 1), "blue"),
        Image.new("RGB", (3, 2000), "green"),
    ]


def picture_shape(encoder, count):
    """Of several pictures' vectors: one vector a picture, or as many as the card says."""
    card = encoder.card
    return (count, card.dimension) if card.vectors == 1 else (count, card.vectors, card.dimension)


def test_unit_float32_vectors_of_the_cards_dimension(encoder, pictures):
    for vectors, shape in (
        (encoder.encode_image(pictures), picture_shape(encoder, 5)),
        (encoder.encode_text(TEXTS), (4, encoder.card.dimension)),
    ):
        assert vectors.shape == shape
        assert vectors.dtype == np.float32
        assert np.allclose(np.linalg.norm(vectors, axis=-1), 1, atol=1e-5)


def test_the_identity_is_the_cards(encoder):
    identity = encoder.identity
    card = encoder.card
    assert (identity.name, identity.revision) == (card.name, card.revision)
    assert (identity.dimension, identity.vectors) == (card.dimension, card.vectors)
    assert identity.difference(identity) is None
    encoder.verify()


def test_a_vector_does_not_depend_on_its_batch(encoder, pictures):
    one_by_one = np.concatenate([encoder.encode_image([picture]) for picture in pictures])
    assert np.abs(encoder.encode_image(pictures) - one_by_one).max() < 1e-4
    one_by_one = np.concatenate([encoder.encode_text([text]) for text in TEXTS])
    assert np.abs(encoder.encode_text(TEXTS) - one_by_one).max() < 1e-4


def test_different_things_get_different_vectors(encoder, pictures):
    for vectors in (encoder.encode_image(pictures[1:]), encoder.encode_text(TEXTS[:3])):
        flat = vectors.reshape(len(vectors), -1)
        cosines = flat @ flat.T / np.linalg.norm(flat[0]) ** 2
        assert cosines[~np.eye(len(cosines), dtype=bool)].max() < 0.995


def test_nothing_in_nothing_out(encoder):
    assert encoder.encode_image([]).shape == picture_shape(encoder, 0)
    assert encoder.encode_text([]).shape == (0, encoder.card.dimension)


def test_one_string_is_a_mistake(encoder):
    with pytest.raises(InputError, match="list of texts"):
        encoder.encode_text("a dog")


def test_odd_texts_have_vectors(encoder):
    vectors = encoder.encode_text(["", "\n", "🐕", "海滩上的狗", "x" * 5000, "\x00"])
    assert np.isfinite(vectors).all()


def test_threads_share_it(encoder, pictures):
    expected = encoder.encode_text(TEXTS)
    pixels = np.stack([encoder.preprocess(picture) for picture in pictures])
    expected_pixels = encoder.encode_pixels(pixels)
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda _: encoder.encode_text(TEXTS), range(16)))
        images = list(pool.map(lambda _: encoder.encode_pixels(pixels), range(8)))
    assert all(np.allclose(vectors, expected, atol=1e-5) for vectors in texts)
    assert all(np.allclose(vectors, expected_pixels, atol=1e-5) for vectors in images)


def test_long_texts_are_cut_with_a_warning(caplog):
    encoder = load_encoder("builtin")
    with caplog.at_level(logging.WARNING, "mmrag"):
        short, long = encoder.encode_text(["dog " * 126, "dog " * 126 + "cat " * 200])
    assert "first 128 tokens" in caplog.text
    assert np.allclose(short, long, atol=1e-5)
