"""What every encoder promises."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from mmrag.errors import InputError, ModelError
from mmrag.models.registry import load_encoder
from mmrag.roles import Encoder
from tests.contracts.made import asked_for, made

MADE = [
    "test_open_clip:make_clip",
    "test_sentence:make_text_encoder",
    "tiny:make_clip",
    "tiny_blip:make_retrieval",
    "tiny_blip2:make_retrieval",
    "tiny_miniature:make_miniature",
]
ENCODERS = [
    *("builtin", "toy:1", "timm:resnet10t/random"),
    *(f"tests.models.{one}" for one in MADE),
    *asked_for(Encoder),
]
TEXTS = ["a red car", "two dogs are playing in deep snow", "blue", "a man"]


@pytest.fixture(params=ENCODERS, scope="module")
def encoder(request, tmp_path_factory):
    if request.param.startswith("timm:"):
        pytest.importorskip("timm", reason="needs the torch extra")
    return load_encoder(made(request.param, tmp_path_factory))


@pytest.fixture(params=["image", "text"])
def modality(request, encoder):
    if request.param not in encoder.card.modalities:
        pytest.skip(f"{encoder.card.name} encodes {encoder.card.modalities[0]}s only")
    return request.param


@pytest.fixture
def encode(encoder, modality):
    return encoder.encode_image if modality == "image" else encoder.encode_text


@pytest.fixture
def inputs(modality, pictures):
    return pictures if modality == "image" else TEXTS


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


def shape_of(encoder, modality, count):
    """Of several vectors: a text has one, a picture as many as the card says."""
    card = encoder.card
    several = modality == "image" and card.vectors > 1
    return (count, card.vectors, card.dimension) if several else (count, card.dimension)


def test_unit_float32_vectors_of_the_cards_dimension(encoder, modality, encode, inputs):
    vectors = encode(inputs)
    assert vectors.shape == shape_of(encoder, modality, len(inputs))
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=-1), 1, atol=1e-5)


def test_the_identity_is_the_cards(encoder):
    identity = encoder.identity
    card = encoder.card
    assert (identity.name, identity.revision) == (card.name, card.revision)
    assert (identity.dimension, identity.vectors) == (card.dimension, card.vectors)
    assert identity.difference(identity) is None
    encoder.verify()


def test_a_vector_does_not_depend_on_its_batch(encode, inputs):
    one_by_one = np.concatenate([encode([one]) for one in inputs])
    assert np.abs(encode(inputs) - one_by_one).max() < 1e-4


def test_different_things_get_different_vectors(encode, inputs, modality):
    vectors = encode(inputs[1:] if modality == "image" else inputs[:3])
    flat = vectors.reshape(len(vectors), -1)
    cosines = flat @ flat.T / np.linalg.norm(flat[0]) ** 2
    assert cosines[~np.eye(len(cosines), dtype=bool)].max() < 0.995


def test_nothing_in_nothing_out(encoder, modality, encode):
    assert encode([]).shape == shape_of(encoder, modality, 0)


def test_the_other_modality_is_refused_with_what_can_be_done(encoder, pictures):
    if len(encoder.card.modalities) == 2:
        pytest.skip("it encodes both")
    with pytest.raises(ModelError, match="mmrag models"):
        encoder.encode_text(TEXTS) if "image" in encoder.card.modalities else encoder.encode_image(pictures)


def test_one_string_is_a_mistake(encoder):
    with pytest.raises(InputError, match="list of texts"):
        encoder.encode_text("a dog")


def test_odd_texts_have_vectors(encoder):
    if "text" not in encoder.card.modalities:
        pytest.skip("it reads no texts")
    vectors = encoder.encode_text(["", "\n", "🐕", "海滩上的狗", "x" * 5000, "\x00"])
    assert np.isfinite(vectors).all()


def test_a_text_at_the_limit_is_read_whole_and_one_token_more_is_cut(encoder, caplog):
    if "text" not in encoder.card.modalities:
        with pytest.raises(ModelError, match="mmrag models"):
            encoder.count_tokens(TEXTS)
        return
    for word in ("red", "狗"):
        texts = [" ".join([word] * number) for number in range(1, encoder.card.max_tokens + 2)]
        counts = encoder.count_tokens(texts)
        assert counts == sorted(counts)
        assert counts == [encoder.count_tokens([text])[0] for text in texts]
        read = [text for text, count in zip(texts, counts, strict=True) if count <= encoder.card.max_tokens]
        caplog.clear()
        encoder.encode_text(read[-1:])
        assert not caplog.records
        if type(encoder)._count_tokens is Encoder._count_tokens:
            continue  # it may count more than there are
        encoder.encode_text([texts[len(read)]])
        assert "only the first" in caplog.text


def test_tokens_of_one_string_are_a_mistake(encoder):
    with pytest.raises(InputError, match="list of texts"):
        encoder.count_tokens("a dog")


def test_threads_share_it(encode, inputs):
    expected = encode(inputs)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: encode(inputs), range(8)))
    assert all(np.allclose(vectors, expected, atol=1e-5) for vectors in found)


def test_preprocessed_pictures_give_the_same(encoder, pictures):
    if "image" not in encoder.card.modalities:
        pytest.skip("it sees no pictures")
    pixels = np.stack([encoder.preprocess(picture) for picture in pictures])
    assert np.allclose(encoder.encode_pixels(pixels), encoder.encode_image(pictures), atol=1e-5)


def test_long_texts_are_cut_with_a_warning(caplog):
    encoder = load_encoder("builtin")
    with caplog.at_level(logging.WARNING, "mmrag"):
        short, long = encoder.encode_text(["dog " * 126, "dog " * 126 + "cat " * 200])
    assert "first 128 tokens" in caplog.text
    assert np.allclose(short, long, atol=1e-5)
