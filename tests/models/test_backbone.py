"""Small backbones of timm's, in folders as a hub has them, against timm itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="needs the torch extra")
timm = pytest.importorskip("timm", reason="needs the torch extra")

from safetensors.torch import save_file  # noqa: E402

import mmrag  # noqa: E402
from mmrag.errors import MissingExtraError, ModelError  # noqa: E402
from mmrag.models import backbone  # noqa: E402
from mmrag.models.preprocess import Transform  # noqa: E402
from mmrag.models.registry import load_encoder  # noqa: E402
from tests.models.shaken import distance, shaken, unit  # noqa: E402

NAMES = ["resnet10t", "vit_tiny_patch16_224", "mobilenetv3_small_050"]
COMMIT = "2" * 40


def write_model(name, folder, **about):
    """A backbone with a classifier, as timm stores it for a hub."""
    network = shaken(timm.create_model(name, pretrained=False))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), folder / "model.safetensors")
    config = {**network.pretrained_cfg, **about}
    config = {key: value for key, value in config.items() if key not in ("url", "hf_hub_id", "architecture")}
    (folder / "config.json").write_text(
        json.dumps({"architecture": name, "num_classes": 1000, "pretrained_cfg": config})
    )
    return network.eval()


@pytest.fixture(scope="module")
def pictures(photographs):
    return [Image.open(path).convert("RGB") for path in sorted(photographs.iterdir())]


def reference(network, pictures):
    """What the classifier would see."""
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    with torch.inference_mode():
        pixels = torch.stack([transform(picture) for picture in pictures])
        return unit(network.forward_head(network.forward_features(pixels), pre_logits=True))


@pytest.mark.parametrize("name", NAMES)
def test_pictures_equal_timm(name, pictures, tmp_path):
    network = write_model(name, tmp_path / "model")
    encoder = load_encoder(f"timm:{tmp_path / 'model'}", precision="fp32", device="cpu")
    expected = reference(network, pictures)
    assert encoder.card.dimension == expected.shape[1]
    assert encoder.card.modalities == ("image",)
    assert distance(encoder.encode_image(pictures), expected) < 1e-4
    mirrored = [picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for picture in pictures]
    assert distance(encoder.encode_image(mirrored), expected) > 1e-2
    weight = next(one for one in encoder.network.parameters() if one.ndim > 1)
    with torch.inference_mode():
        weight[0] *= 1.5
    assert distance(encoder.encode_image(pictures), expected) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_every_pixel_is_timms(name, pictures):
    encoder = load_encoder(f"timm:{name}/random", precision="fp32", device="cpu")
    config = timm.data.resolve_model_data_config(timm.create_model(name, pretrained=False))
    transform = timm.data.create_transform(**config, is_training=False)
    for picture in (*pictures, *(picture.resize((301, 224)) for picture in pictures)):
        assert np.abs(encoder.preprocess(picture) - transform(picture).numpy()).max() < 1e-4


@pytest.mark.parametrize("mode", [{"crop_mode": "squash"}, {"crop_mode": "border"}, {"interpolation": "lanczos"}])
def test_what_only_timm_can_prepare(pictures, tmp_path, mode):
    network = write_model("resnet10t", tmp_path / "model", **mode)
    network.pretrained_cfg.update(mode)
    encoder = load_encoder(f"timm:{tmp_path / 'model'}", precision="fp32", device="cpu")
    assert isinstance(encoder.preprocessing, Transform)
    assert distance(encoder.encode_image(pictures), reference(network, pictures)) < 1e-4
    assert mode.popitem()[1] in encoder.identity.preprocessing


def test_a_squashed_whole_needs_no_timm(pictures, tmp_path):
    network = write_model("resnet10t", tmp_path / "model", crop_mode="squash", crop_pct=1.0)
    network.pretrained_cfg.update(crop_mode="squash", crop_pct=1.0)
    encoder = load_encoder(f"timm:{tmp_path / 'model'}", precision="fp32", device="cpu")
    assert str(encoder.preprocessing).startswith("squash")
    assert distance(encoder.encode_image(pictures), reference(network, pictures)) < 1e-4


def test_a_name_whose_weights_are_here(monkeypatch, pictures, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    name = "resnet10t.c3_in1k"
    with pytest.raises(ModelError, match=rf"timm:{name} is not here; fetch it: mmrag models pull timm:{name}"):
        load_encoder(f"timm:{name}")
    folder = tmp_path / f"models--timm--{name}"
    network = write_model("resnet10t", folder / "snapshots" / COMMIT)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    encoder = load_encoder(f"timm:{name}", precision="fp32", device="cpu")
    assert encoder.card.name == name
    assert encoder.identity.weights.startswith(f"sha256:{encoder.card.revision}")
    assert COMMIT in encoder.card.sources[0].name
    assert distance(encoder.encode_image(pictures), reference(network, pictures)) < 1e-4


def test_a_folder_is_known_wherever_it_lies_until_its_files_change(tmp_path):
    write_model("resnet10t", tmp_path / "here")
    before = load_encoder(f"timm:{tmp_path / 'here'}", device="cpu").identity
    (tmp_path / "here").rename(tmp_path / "there")
    after = load_encoder(f"timm:{tmp_path / 'there'}", device="cpu").identity
    assert (after, after.name) == (before, "resnet10t")
    path = tmp_path / "there" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "global_pool": "max"}))
    assert load_encoder(f"timm:{tmp_path / 'there'}", device="cpu").identity.weights != before.weights


def test_random_weights_are_the_same_each_time():
    first, second = (load_encoder("timm:resnet10t/random", device="cpu") for _ in range(2))
    assert first.identity == second.identity
    pixels = np.random.default_rng(0).normal(size=(1, 3, 176, 176)).astype(np.float32)
    assert np.array_equal(first.encode_pixels(pixels), second.encode_pixels(pixels))


def test_pictures_are_searched_without_words(photographs, tmp_path):
    write_model("resnet10t", tmp_path / "model")
    index = mmrag.create(tmp_path / "home", model=f"timm:{tmp_path / 'model'}", device="cpu")
    assert index.add(photographs).added == 6
    hits = index.search(photographs / "chelsea.png", k=2)
    assert hits[0].item.uri.endswith("chelsea.png")
    assert hits[0].score > 0.999 > hits[1].score
    with pytest.raises(ModelError, match="sees pictures only; search by a picture"):
        index.search("a cat")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("resnet51", r"timm has no model 'resnet51'; near it are: resnet.*Write timm:NAME"),
        ("resnet18/other", r"timm has no model 'resnet18/other'"),
        ("./nowhere", r"\./nowhere is not a folder of timm's: it has no config\.json"),
    ],
)
def test_what_cannot_be_opened(reference, message):
    with pytest.raises(ModelError, match=message):
        load_encoder(f"timm:{reference}")


def test_a_damaged_folder(tmp_path):
    write_model("resnet10t", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="timm cannot load"):
        load_encoder(f"timm:{tmp_path}", device="cpu").encode_pixels(np.zeros((1, 3, 176, 176), np.float32))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="timm cannot load"):
        load_encoder(f"timm:{tmp_path}")


def test_a_grid_is_no_vector(tmp_path):
    write_model("resnet10t", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_args": {"global_pool": ""}}))
    with pytest.raises(ModelError, match=r"gives 1 × 512 × 6 × 6 numbers for a picture, not one vector"):
        load_encoder(f"timm:{tmp_path}")


def test_timm_is_an_extra(monkeypatch):
    monkeypatch.setattr(backbone.importlib.util, "find_spec", lambda name: None if name == "timm" else object())
    with pytest.raises(MissingExtraError, match=r"timm.*pip install 'mmrag\[torch\]'"):
        load_encoder("timm:resnet18/random")
