"""A tiny CLIP of OpenCLIP's, exported and run without torch, against OpenCLIP itself: network, pictures and words."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("open_clip", reason="needs the torch extra")

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2

from mmrag.cli.main import app
from mmrag.errors import MissingExtraError, ModelError
from mmrag.models import open_clip as exporter
from mmrag.models.cards import Card
from mmrag.models.folder import ModelFolder
from mmrag.models.onnx import OnnxEncoder
from mmrag.models.open_clip import OpenClip, export_open_clip
from mmrag.models.tower import Tower

TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
TEXTS = [
    "a dog",
    "two children are playing football on a beach while the sun goes down behind the pier",
    "Red.",
    "an old red-brick house, seen from across the river at night",
]
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


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Name of an architecture that OpenCLIP did not have before, and a checkpoint of it."""
    folder = tmp_path_factory.mktemp("open_clip")
    causes_nothing = {"pool_type": "last", "no_causal_mask": True, "proj_bias": True}
    for name, config in {
        "tiny-clip": TINY,
        "tiny-siglip": {**TINY, "custom_text": True, "text_cfg": {**TINY["text_cfg"], **causes_nothing}},
        "tiny-words": {**TINY, "text_cfg": {**TINY["text_cfg"], "hf_tokenizer_name": "elsewhere"}},
        "tiny-wide": {**TINY, "vision_cfg": {**TINY["vision_cfg"], "image_size": [32, 64]}},
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    network = open_clip.create_model("tiny-clip").eval()
    for name, parameter in network.named_parameters():  # as they start, the towers say nearly the same of everything
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
        elif "embedding" in name or "conv1" in name:
            parameter.data *= 5
        elif name.startswith("visual"):
            parameter.data *= 2
    torch.save(network.state_dict(), folder / "weights.pt")
    return "tiny-clip", folder / "weights.pt"


@pytest.fixture(scope="module")
def network(tiny):
    architecture, weights = tiny
    return OpenClip.load(architecture, str(weights)).network


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """A model folder as the command writes it."""
    architecture, weights = tiny
    out = tmp_path_factory.mktemp("export") / "tiny"
    done = CliRunner().invoke(app, ["models", "export", architecture, "--weights", str(weights), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert done.stdout == f"tiny-clip-weights, 32 dimensions → {out}\nUse it:  mmrag index FOLDER --model {out}\n"
    return out


def reference(vectors):
    return (vectors / vectors.norm(dim=-1, keepdim=True)).numpy()


def image_reference(network, pixels):
    with torch.inference_mode():
        return reference(network.encode_image(torch.as_tensor(pixels)))


def text_reference(network, texts):
    """All 77 tokens, as OpenCLIP encodes texts."""
    with torch.inference_mode():
        return reference(network.encode_text(open_clip.get_tokenizer("tiny-clip")(list(texts))))


def cosines(a, b):
    return (a * b).sum(axis=1)


def furthest(vectors):
    """Cosine of the two vectors of a set that differ the most."""
    return (vectors @ vectors.T).min()


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).normal(size=(6, 3, 64, 64)).astype(np.float32)


@pytest.fixture(scope="module")
def pictures(photographs):
    return [Image.open(path).convert("RGB") for path in sorted(photographs.iterdir())]


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.99999), ("int8", 0.999)])
def test_the_image_tower_equals_open_clip(network, folder, pixels, precision, least):
    encoder = OnnxEncoder(folder, precision=precision)
    expected = image_reference(network, pixels)
    assert furthest(expected) < 0.95  # what is seen does matter
    assert cosines(encoder.encode_pixels(pixels), expected).min() > least
    moved = np.roll(pixels, 8, axis=3)
    assert cosines(encoder.encode_pixels(moved), expected).min() < least


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_picture_does_not_depend_on_its_batch(folder, pixels, precision):
    encoder = OnnxEncoder(folder, precision=precision)
    loud = np.concatenate([pixels, 100 * pixels[:1], np.zeros_like(pixels[:1])])
    together = encoder.encode_pixels(loud)
    alone = np.concatenate([encoder.encode_pixels(one[None]) for one in loud])
    assert np.abs(together - alone).max() < 1e-6


def test_photographs_through_both_preprocessings(network, folder, pictures):
    """Where half a pixel remains beside the crop, ours begins before it, as with transformers; torchvision rounds."""
    transform = image_transform_v2(PreprocessCfg(**network.visual.preprocess_cfg), is_train=False)
    found = OnnxEncoder(folder, precision="fp32").encode_image(pictures)
    as_it_is = image_reference(network, torch.stack([transform(picture) for picture in pictures]))
    assert cosines(found, as_it_is).min() >= 0.99
    assert np.median(cosines(found, as_it_is)) >= 0.9999
    transform.transforms[1] = crop_before_the_half
    expected = image_reference(network, torch.stack([transform(picture) for picture in pictures]))
    assert furthest(expected) < 0.95
    assert cosines(found, expected).min() >= 0.999
    assert cosines(found[1:], expected[:-1]).max() < 0.99


def crop_before_the_half(picture):
    left, top = (picture.width - 64) // 2, (picture.height - 64) // 2
    return picture.crop((left, top, left + 64, top + 64))


def test_texts_of_all_lengths_equal_open_clip_at_77_tokens(network, folder):
    encoder = OnnxEncoder(folder)
    expected = text_reference(network, TEXTS)
    together = encoder.encode_text(TEXTS)
    alone = np.concatenate([encoder.encode_text([text]) for text in TEXTS])
    assert furthest(expected) < 0.9
    assert cosines(together, expected).min() > 0.99999
    assert np.abs(together - alone).max() < 1e-6
    assert cosines(encoder.encode_text([f"no {text}" for text in TEXTS]), expected).max() < 0.999


def test_texts_in_8_bits(network, folder):
    encoder = OnnxEncoder(folder)
    encoder._text = Tower(ModelFolder.read(folder).towers["text"], "", for_pictures=False, precision="int8")
    together = encoder.encode_text(TEXTS)
    alone = np.concatenate([encoder.encode_text([text]) for text in TEXTS])
    assert cosines(together, text_reference(network, TEXTS)).min() >= 0.999
    assert np.abs(together - alone).max() < 1e-6


def test_tokens_are_open_clips(folder):
    """HTML entities and mis-decoded text, which OpenCLIP mends first, are read as they stand."""
    encoder, theirs = OnnxEncoder(folder), open_clip.get_tokenizer("tiny-clip")
    for text in NASTY:
        ids = encoder._tokenizer.encode(text).ids
        expected = theirs([text])[0].tolist()
        assert ids == expected[: len(ids)], text
        assert not any(expected[len(ids) :]), text
    assert encoder._tokenizer.encode("a &amp; b").ids != encoder._tokenizer.encode("a & b").ids


def test_the_card(folder):
    card = tomllib.loads((folder / "card.toml").read_text("utf-8"))
    assert (card["name"], card["dimension"], card["max_tokens"]) == ("tiny-clip-weights", 32, 77)
    assert card["weights"].startswith(f"sha256:{card['revision']}")
    OnnxEncoder(folder).verify()
    for path in folder.rglob("*.onnx"):
        assert b".py" not in path.read_bytes()


@pytest.mark.parametrize(
    ("architecture", "weights", "message"),
    [
        ("ViT-B-33", "random", r"OpenCLIP has no architecture 'ViT-B-33'; it has .*tiny-clip"),
        ("tiny-clip", "nowhere", r"'nowhere' is neither a file, nor 'random', nor among .* of tiny-clip: no tags"),
        ("ViT-B-32-256", "openai", r"'openai' is neither .* of ViT-B-32-256: datacomp_s34b_b86k"),
        ("tiny-siglip", "random", "tiny-siglip has no text tower of CLIP's kind; such models cannot be exported yet"),
        ("tiny-words", "random", "tiny-words has no text tower of CLIP's kind; such models cannot be exported yet"),
        ("tiny-wide", "random", r"tiny-wide prepares pictures in a way .* yet: shortest, bicubic, 32 × 64"),
    ],
)
def test_what_cannot_be_exported(tiny, architecture, weights, message, tmp_path):
    with pytest.raises(ModelError, match=message):
        export_open_clip(architecture, weights=weights, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_another_model(tiny, tmp_path):
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ModelError, match=r"OpenCLIP cannot load tiny-clip with .*other\.pt': "):
        export_open_clip("tiny-clip", weights=str(tmp_path / "other.pt"), out=tmp_path / "out")


def test_open_clip_is_an_extra(monkeypatch, tmp_path):
    monkeypatch.setattr(exporter.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"open_clip.*pip install 'mmrag\[torch\]'"):
        export_open_clip("tiny-clip", weights="random", out=tmp_path / "out")


def test_the_command_passes_on_what_it_is_asked(monkeypatch):
    asked = {}
    card = Card(name="n", family="onnx", revision="1", dimension=3, weights="sha256:1")
    monkeypatch.setattr(
        exporter, "export_open_clip", lambda name, **options: asked.update(name=name, **options) or card
    )
    arguments = ["models", "export", "ViT-B-32", "--weights", "random", "--out", "m", "--precision", "fp32", "--json"]
    done = CliRunner().invoke(app, arguments)
    assert json.loads(done.stdout) == {"model": "m", "name": "n", "dimension": 3, "weights": "sha256:1"}
    assert asked == {"name": "ViT-B-32", "weights": "random", "out": Path("m"), "precisions": ["fp32"]}
