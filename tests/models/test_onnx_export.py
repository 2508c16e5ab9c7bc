"""Encoders of torch's, exported to ONNX files and run without torch, against the originals."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("open_clip", reason="needs the torch extra")

import open_clip

from mmrag.cli.main import app
from mmrag.errors import ModelError
from mmrag.models.export import complete_folder
from mmrag.models.onnx import OnnxEncoder
from mmrag.models.onnx_export import export_encoder
from mmrag.models.registry import load_encoder
from mmrag.models.tokens import read_tokenizer
from tests.models.shaken import shaken
from tests.models.test_open_clip import TEXTS, checkpoints, pair  # noqa: F401

NASTY = [
    "",
    " ",
    "A PHOTO of a Dog",
    "it's they're we'll I'm o'clock d'accord ''s",
    "  many \t spaces\nand lines  ",
    "👩‍🚀 an astronaut 🚀🚀",
    "一只猫坐在垫子上",
    "Größe, café, naïve, ÅNGSTRÖM, “it’s”",
    "12345 3.14 1,000 $5 50% C++ a_b #tag @me http://x.y/z?q=1",
    "!!! ... --- ??!",
    "word " * 300,
    "x" * 500,
]
EXPORTED = [
    "tiny-canonical",
    "tiny-words",
    *(
        pytest.param(f"tiny-{kind}", marks=pytest.mark.slow)
        for kind in ("coca", "quick", "last", "convnext", "resnet", "eva")
    ),
]


def cosines(a, b):
    return (a * b).sum(axis=1)


def furthest(vectors):
    """Cosine of the two vectors of a set that differ the most."""
    return (vectors @ vectors.T).min()


@pytest.fixture(scope="module")
def original(checkpoints):  # noqa: F811
    return pair("tiny-clip", checkpoints)[1]


@pytest.fixture(scope="module")
def folder(original, tmp_path_factory):
    """A model folder as the command writes it."""
    out = tmp_path_factory.mktemp("export") / "tiny"
    name = f"openclip:tiny-clip/{original._weights}"
    done = CliRunner().invoke(app, ["models", "export", name, "--to", "onnx", "--out", str(out)])
    assert done.exit_code == 0, done.output
    *told, last, use = done.stdout.splitlines()
    assert [line.split()[:2] for line in told] == [
        ["fp32", "image"],
        ["fp32", "text"],
        ["int8", "image"],
        ["int8", "text"],
    ]
    assert re.search(r"cosine to the original at least 0\.999\d\d, on average 0\.999\d\d over 8 pictures$", told[0])
    assert told[1].endswith("cosine to the original at least 1.00000, on average 1.00000 over 4 texts")
    assert (last, use) == (f"tiny-clip-tiny-clip, 32 dimensions → {out}", f"Use it:  mmrag index FOLDER --model {out}")
    return out


@pytest.fixture(scope="module")
def pictures(photographs):
    return [Image.open(path).convert("RGB") for path in sorted(photographs.iterdir())]


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).normal(size=(6, 3, 64, 64)).astype(np.float32)


@pytest.mark.parametrize("name", EXPORTED)
def test_every_kind_equals_the_original(checkpoints, pictures, name, tmp_path):  # noqa: F811
    _, encoder = pair(name, checkpoints)
    done = export_encoder(encoder, tmp_path / "out")
    exported = load_encoder(str(tmp_path / "out"), precision="fp32")
    expected, texts = encoder.encode_image(pictures), encoder.encode_text(TEXTS)
    assert furthest(expected) < 0.98
    assert furthest(texts) < 0.98
    pixels = np.stack([encoder.preprocess(picture) for picture in pictures])
    assert cosines(exported.encode_pixels(pixels), expected).min() > 0.99999
    assert cosines(exported.encode_image(pictures), expected).min() > 0.999
    assert cosines(exported.encode_text(TEXTS), texts).min() > 0.99999
    assert min(one.lowest for one in done.agreement["fp32"].values()) > 0.999
    assert min(one.lowest for one in done.agreement["int8"].values()) > 0.99
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.99999), ("int8", 0.998)])
def test_both_precisions(original, folder, pixels, precision, least):
    exported, expected = OnnxEncoder(folder, precision=precision), original.encode_pixels(pixels)
    assert furthest(expected) < 0.95  # what is seen does matter
    assert cosines(exported.encode_pixels(pixels), expected).min() > least
    assert cosines(exported.encode_pixels(np.roll(pixels, 8, axis=3)), expected).min() < least


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_vector_does_not_depend_on_its_batch(folder, pixels, precision):
    encoder = OnnxEncoder(folder, precision=precision, text_precision=precision)
    loud = np.concatenate([pixels, 100 * pixels[:1], np.zeros_like(pixels[:1])])
    alone = np.concatenate([encoder.encode_pixels(one[None]) for one in loud])
    assert np.abs(encoder.encode_pixels(loud) - alone).max() < 1e-6
    alone = np.concatenate([encoder.encode_text([text]) for text in TEXTS])
    assert np.abs(encoder.encode_text(TEXTS) - alone).max() < 1e-6


def test_texts_in_8_bits(original, folder):
    found = OnnxEncoder(folder, text_precision="int8").encode_text(TEXTS)
    assert cosines(found, original.encode_text(TEXTS)).min() >= 0.999
    assert (folder / "onnx" / "text_model_int8.safetensors").stat().st_size < 0.3 * (
        folder / "onnx" / "text_model.safetensors"
    ).stat().st_size


def test_tokens_are_open_clips(original, folder):
    """HTML entities and mis-decoded text, which OpenCLIP mends first, are read as they stand."""
    encoder, theirs = OnnxEncoder(folder), open_clip.get_tokenizer("tiny-clip")
    for text in NASTY:
        ids = encoder._tokenizer.encode(text).ids
        expected = theirs([text])[0].tolist()
        assert ids == expected[: len(ids)], text
        assert not any(expected[len(ids) :]), text
    assert encoder._tokenizer.encode("a &amp; b").ids != encoder._tokenizer.encode("a & b").ids


@pytest.mark.parametrize("name", ["tiny-words", "tiny-canonical"])
def test_tokens_are_the_hubs(checkpoints, name, tmp_path):  # noqa: F811
    """With what OpenCLIP does to texts before: spaces, or punctuation and capitals too."""
    _, encoder = pair(name, checkpoints)
    encoder.write_tokenizer(tmp_path)
    tokenizer = read_tokenizer(tmp_path, encoder.card.max_tokens)
    for text in [*NASTY, *TEXTS]:
        ids = tokenizer.encode(text).ids
        expected = encoder.tokenize([text])["input_ids"][0].tolist()
        assert ids == expected[: len(ids)], text
        assert set(expected[len(ids) :]) <= {1}, text


def test_the_card(original, folder):
    card = OnnxEncoder(folder).card
    same = dataclasses.replace(original.card, family="onnx", weights=card.weights, revision=card.revision)
    assert card == same
    assert card.weights.startswith(f"sha256:{card.revision}")
    OnnxEncoder(folder).verify()
    for path in folder.rglob("*.onnx"):
        assert b".py" not in path.read_bytes()


def test_pictures_alone(photographs, tmp_path):
    pytest.importorskip("timm", reason="needs the torch extra")
    encoder = load_encoder("timm:resnet10t/random", device="cpu", precision="fp32")
    shaken(encoder.network)
    done = export_encoder(encoder, tmp_path / "out", precisions=["fp32"])
    assert list(done.agreement["fp32"]) == ["image"]
    exported = load_encoder(str(tmp_path / "out"))
    pictures = [Image.open(path).convert("RGB") for path in sorted(photographs.iterdir())]
    expected = encoder.encode_image(pictures)
    assert furthest(expected) < 0.95
    assert cosines(exported.encode_image(pictures), expected).min() > 0.999
    exported.verify()
    exported.prepare(words=True)
    with pytest.raises(ModelError, match="sees pictures only"):
        exported.encode_text(["a dog"])
    assert not (tmp_path / "out" / "tokenizer.json").exists()


def test_as_json(original, tmp_path):
    name, out = f"openclip:tiny-clip/{original._weights}", tmp_path / "m"
    done = CliRunner().invoke(app, ["models", "export", name, "--precision", "fp32", "--out", str(out), "--json"])
    told = json.loads(done.stdout)
    assert (told["model"], told["format"], told["dimension"]) == (str(out), "onnx", 32)
    assert told["cosine"]["fp32"]["image"]["samples"] == 8
    assert told["cosine"]["fp32"]["text"]["mean"] > 0.99999
    assert list(told["cosine"]) == ["fp32"]


def test_what_cannot_be_exported(checkpoints, tmp_path):  # noqa: F811
    with pytest.raises(ModelError, match=r"is not computed by torch, so there is nothing to export"):
        export_encoder(load_encoder("builtin"), tmp_path / "out")
    with pytest.raises(
        ModelError, match=r"prepares pictures in a way that only its own library can.*cannot be exported"
    ):
        export_encoder(load_encoder("openclip:tiny-wide/random", device="cpu"), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_no_two_models_mix(original, tmp_path):
    out = tmp_path / "out"
    done = export_encoder(original, out)
    assert (out / "onnx" / "text_model_int8.onnx").is_file()
    assert done.card.logit_scale == original.card.logit_scale
    export_encoder(original, out, precisions=["fp32"])
    assert not list(out.glob("onnx/*int8*"))
    before = sorted(out.rglob("*"))
    other = load_encoder("timm:resnet10t/random", device="cpu")
    for place in (out, tmp_path):
        with pytest.raises(
            ModelError, match="is not empty, and holds no earlier export of resnet10t; give a new folder"
        ):
            export_encoder(other, place)
    assert sorted(out.rglob("*")) == before


def test_texts_alone(original, folder, tmp_path):
    """As the export of a text encoder writes it: one tower, no preprocessor."""
    shutil.copytree(folder, tmp_path / "out")
    for path in [*(tmp_path / "out" / "onnx").glob("vision_*"), tmp_path / "out" / "preprocessor_config.json"]:
        path.unlink()
    card = dataclasses.replace(original.card, family="onnx", modalities=("text",))
    complete_folder(tmp_path / "out", card=card, preprocessing=None)
    encoder = load_encoder(str(tmp_path / "out"))
    encoder.verify()
    assert cosines(encoder.encode_text(TEXTS), original.encode_text(TEXTS)).min() > 0.999
    with pytest.raises(ModelError, match="reads texts only"):
        encoder.preprocess(Image.new("RGB", (8, 8)))
