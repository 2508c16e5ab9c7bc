"""A small network of the built-in model's kind, exported and run by ONNX Runtime, against torch itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from mmrag.errors import ModelError  # noqa: E402
from mmrag.models.cards import Card, Source, read_card  # noqa: E402
from mmrag.models.export import export_folder, write_card  # noqa: E402
from mmrag.models.onnx import OnnxEncoder  # noqa: E402
from mmrag.models.preprocess import Preprocessing  # noqa: E402
from mmrag.models.registry import load_encoder  # noqa: E402
from mmrag.models.towers import (  # noqa: E402
    BertConfig,
    BertTextTower,
    DualEncoder,
    EfficientNetLite,
    EfficientNetLiteConfig,
)
from mmrag.models.weights import read_weights  # noqa: E402

TEXTS = ["a dog on a beach", "two men are playing guitar on a stage in front of a crowd", "red"]
PREPROCESSING = Preprocessing(64, 64, 3, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
CARD = Card(
    name="small",
    family="onnx",
    revision="1",
    dimension=64,
    languages=("en",),
    summary='says "hello"\n',
    sources=(Source("nobody", "none", use="nothing"),),
    figures={"R@1": "0 %"},
)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    config = BertConfig(dimension=64, layers=2, heads=4, hidden=128)
    image = EfficientNetLite(EfficientNetLiteConfig(width=0.25, depth=0.5, features=64))
    network = DualEncoder(image, BertTextTower(config)).eval()
    for name, parameter in network.named_parameters():  # as they start, the towers say nearly the same of everything
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
        elif name.startswith("image"):
            parameter.data *= 3
        else:
            parameter.data *= 2
    return network


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    out = tmp_path_factory.mktemp("small")
    tokenizer = (load_encoder("builtin").folder / "tokenizer.json").read_text("utf-8")
    export_folder(network, out, card=CARD, tokenizer=tokenizer, preprocessing=PREPROCESSING)
    return out


def cosines(a, b):
    return (a * b).sum(axis=1)


def test_the_image_tower_equals_torch(network, folder):
    pixels = np.random.default_rng(0).normal(size=(3, 3, 64, 64)).astype(np.float32)
    with torch.inference_mode():
        expected = network.encode_image(torch.from_numpy(pixels)).numpy()
    found = OnnxEncoder(folder).encode_pixels(pixels)
    assert cosines(expected, found).min() > 0.9999
    assert cosines(expected[:2], expected[1:]).max() < 0.99  # the pictures do matter


def test_the_text_tower_equals_torch_up_to_eight_bits(network, folder):
    encoder = OnnxEncoder(folder)
    expected = []
    for text in TEXTS:
        ids = torch.tensor([encoder._tokenizer.encode(text).ids])
        with torch.inference_mode():
            expected.append(network.encode_text(ids, torch.ones_like(ids))[0].numpy())
    found = encoder.encode_text(TEXTS)
    assert cosines(np.array(expected), found).min() > 0.995
    assert cosines(found[:2], found[1:]).max() < 0.95
    one_by_one = np.concatenate([encoder.encode_text([text]) for text in TEXTS])
    assert np.abs(found - one_by_one).max() < 1e-5


def test_weights_come_back_under_their_names(network, folder):
    weights = read_weights(folder)
    for name, tensor in network.state_dict().items():
        expected = tensor.numpy()
        assert np.abs(weights[name] - expected).max() <= 0.005 * np.abs(expected).max() + 1e-6, name


def test_the_card_knows_the_files(folder):
    card = read_card(folder)
    assert dataclasses.replace(card, weights="") == CARD
    assert OnnxEncoder(folder).verify() is None


def test_files_do_not_tell_of_the_machine_that_made_them(folder):
    for path in folder.rglob("*.onnx"):
        content = path.read_bytes()
        assert b".py" not in content
        assert b"/home" not in content
        assert str(folder.parent).encode() not in content


def test_a_changed_file_is_noticed(folder, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    weights = copy / "onnx" / "text_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match="have changed"):
        OnnxEncoder(copy).verify()
    (copy / "onnx" / "vision_model.onnx").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="cannot be loaded"):
        OnnxEncoder(copy).encode_pixels(np.zeros((1, 3, 64, 64), np.float32))


def test_cards_survive_writing(tmp_path):
    write_card(CARD, tmp_path)
    assert read_card(tmp_path) == CARD
