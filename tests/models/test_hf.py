"""Tiny models of transformers' families: our vectors against those of transformers' own path on real photographs."""

from __future__ import annotations

import dataclasses
import inspect
import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

torch = pytest.importorskip("torch", reason="needs the torch extra")
transformers = pytest.importorskip("transformers", reason="needs the torch extra")
pytest.importorskip("open_clip", reason="needs the torch extra")

import mmrag  # noqa: E402
from mmrag.cli.main import app  # noqa: E402
from mmrag.errors import IndexModelError, ModelError  # noqa: E402
from mmrag.models.hf import _pooled  # noqa: E402
from mmrag.models.onnx_export import export_encoder  # noqa: E402
from mmrag.models.preprocess import Preprocessing, Transform  # noqa: E402
from mmrag.models.registry import absolute_name, load_encoder  # noqa: E402
from tests.models import tiny  # noqa: E402
from tests.models.tiny import TEXTS, agree, unit, varied  # noqa: E402


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def model(family, folders):
    return tiny.write(family, folders / family)


@pytest.fixture
def encoder(family, model, folders):
    return load_encoder(f"hf:{folders / family}")


@pytest.fixture(scope="module")
def pictures(photographs):
    return [Image.open(path).convert("RGB") for path in sorted(photographs.iterdir())]


def reference_tokens(folder, model, texts, max_tokens):
    """Tokens as transformers' own tokenizer gives them, padded as the family's processor does."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    padding = "max_length" if model.config.model_type == "siglip" else "longest"
    tokens = tokenizer(texts, padding=padding, truncation=True, max_length=max_tokens, return_tensors="pt")
    taken = inspect.signature(model.get_text_features).parameters
    return {name: array for name, array in tokens.items() if name in taken}


def reference_pixels(folder, pictures):
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    return processor(pictures, return_tensors="pt")["pixel_values"]


def test_texts(family, model, encoder, folders):
    tokens = reference_tokens(folders / family, model, TEXTS, encoder.card.max_tokens)
    expected = unit(model.get_text_features(**tokens))
    found = encoder.encode_text(TEXTS)
    assert varied(expected)
    assert agree(found, expected)
    assert not agree(encoder.encode_text([*TEXTS[1:], TEXTS[0]]), expected)
    alone = np.concatenate([encoder.encode_text([text]) for text in TEXTS])
    assert agree(alone, expected)


def test_tokens(family, model, encoder, folders, caplog):
    expected = reference_tokens(folders / family, model, TEXTS, encoder.card.max_tokens)
    with caplog.at_level(logging.WARNING, "mmrag"):
        found = encoder.tokenize(TEXTS)
    assert found.keys() == expected.keys() - {"token_type_ids"}
    assert all(np.array_equal(found[name], expected[name]) for name in found)
    assert "are read of a text of 680 characters: an old red house" in caplog.text


def test_pictures(family, model, encoder, folders, pictures):
    pixels = reference_pixels(folders / family, pictures)
    assert np.abs(np.stack([encoder.preprocess(one) for one in pictures]) - pixels.numpy()).max() <= 1e-4
    expected = unit(model.get_image_features(pixel_values=pixels))
    assert varied(expected)
    assert agree(encoder.encode_image(pictures), expected)
    turned = [pictures[0].rotate(180), *pictures[1:]]
    assert not agree(encoder.encode_image(turned), expected)


def test_the_comparison_notices_a_layer_and_a_mask(family, model, encoder, folders, pictures):
    pixels = reference_pixels(folders / family, pictures[:2])
    tokens = reference_tokens(folders / family, model, TEXTS, encoder.card.max_tokens)
    images, texts = encoder.encode_image(pictures[:2]), encoder.encode_text(TEXTS)
    if family in ("altclip", "chinese_clip", "align", "vision-text-dual-encoder"):  # the others see no padding
        blind = {**tokens, "attention_mask": torch.ones_like(tokens["attention_mask"])}
        assert not agree(texts, unit(model.get_text_features(**blind)))
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 and ("layer.1." in name or "layers.1." in name or "blocks.1." in name):
            parameter.data += 0.05
    assert not agree(texts, unit(model.get_text_features(**tokens)))
    assert not agree(images, unit(model.get_image_features(pixel_values=pixels)))
    model.load_state_dict(kept)


def test_the_card(family, encoder, model):
    card = encoder.card
    languages = {"clip": ("en",), "chinese_clip": ("zh",), "altclip": ("zh", "en")}
    assert (card.name, card.family, card.roles) == (model.config.model_type, "hf", ("encoder",))
    assert card.dimension == encoder.encode_text(["red"]).shape[1]
    assert card.languages == languages.get(family, ())
    assert card.weights.startswith(f"sha256:{card.revision}")
    assert isinstance(encoder.preprocessing, Transform if family == "align" else Preprocessing)


# --- one family is enough ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(folders):
    folder = folders / "one-clip"
    tiny.write("clip", folder)
    return folder


@pytest.fixture
def copy(clip, tmp_path):
    return shutil.copytree(clip, tmp_path / "copy")


def change(path, **settings):
    content = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in {**content, **settings}.items() if value != "away"}))


@pytest.mark.parametrize(
    "settings",
    [
        {"size": 64, "crop_size": 64},  # as transformers 4.0 wrote it
        {"image_processor_type": "away", "feature_extractor_type": "CLIPFeatureExtractor"},
        {"do_rescale": "away", "rescale_factor": "away", "do_convert_rgb": "away"},
        {"resample": 2},
        {"do_center_crop": False, "size": {"height": 64, "width": 64}},
        {"size": {"shortest_edge": 70}},
        {"size": {"shortest_edge": 56}},  # which is padded: nothing that Preprocessing says
        {"do_normalize": False},
    ],
)
def test_preprocessor_files_of_many_kinds(copy, settings, pictures):
    change(copy / "preprocessor_config.json", **settings)
    expected = reference_pixels(copy, pictures)
    found = np.stack([load_encoder(str(copy)).preprocess(one) for one in pictures])
    assert np.abs(found - expected.numpy()).max() <= 1e-4


def test_the_image_processor_may_lie_within_the_processor(copy, pictures):
    expected = load_encoder(str(copy)).preprocess(pictures[0])
    settings = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").unlink()
    (copy / "processor_config.json").write_text(json.dumps({"image_processor": {**settings, "resample": 2}}))
    assert 0 < np.abs(load_encoder(str(copy)).preprocess(pictures[0]) - expected).max() < 3


def test_the_readme_tells_licence_and_languages(copy, caplog):
    (copy / "README.md").write_text("---\nlicense: apache-2.0\nlanguage:\n- en\n- de\n- code\n---\n# A model\n")
    card = load_encoder(str(copy)).card
    assert (card.licence_weights, card.languages) == ("apache-2.0", ("en", "de"))
    (copy / "README.md").write_text("---\nlanguage: [multilingual, en]\nlicense: other\nlicense_name: mine\n---\n")
    card = load_encoder(str(copy)).card
    assert (card.licence_weights, card.languages) == ("mine", ())
    (copy / "README.md").write_text("---\n: [\n---\n")
    with caplog.at_level(logging.WARNING, "mmrag"):
        card = load_encoder(str(copy)).card
    assert "cannot be read" in caplog.text
    assert (card.licence_weights, card.languages) == ("", ("en",))


def test_siglip_2_reads_lower_case_whatever_its_type(folders, tmp_path):
    folder = tmp_path / "siglip"
    tiny.write("siglip_of_2", folder)
    change(folder / "tokenizer_config.json", tokenizer_class="GemmaTokenizer")
    settings = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(
        json.dumps({**settings, "normalizer": settings["normalizer"]["normalizers"][1]})
    )
    found = load_encoder(str(folder)).tokenize(["A Red DOG", "a red dog"])["input_ids"]
    assert np.array_equal(found[0], found[1])


def test_pickled_weights_are_read_as_weights_only(copy):
    from safetensors.torch import load_file

    expected = load_encoder(str(copy)).encode_text(TEXTS)
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    assert np.array_equal(load_encoder(str(copy)).encode_text(TEXTS), expected)
    torch.save(Image.new("RGB", (1, 1)), copy / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"the weights of .*copy cannot be loaded"):
        load_encoder(str(copy)).encode_text(TEXTS)


def test_weights_that_are_not_all_there(copy):
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    message = (
        r"not all there: 1 are missing .* first is text_projection\.weight\. Copy the model's files into the folder"
    )
    with pytest.raises(ModelError, match=message):
        load_encoder(str(copy)).encode_text(TEXTS)


def test_damaged_weights_of_a_hub_name_the_command(copy, monkeypatch):
    (copy / "model.safetensors").write_bytes(b"nonsense")
    encoder = load_encoder(str(copy))
    assert encoder.card.logit_scale == 0
    with pytest.raises(ModelError, match=r"cannot be loaded: .* Copy the model's files into the folder again"):
        encoder.encode_text(TEXTS)
    encoder._checkpoint = dataclasses.replace(encoder._checkpoint, reference="openai/clip")
    with pytest.raises(ModelError, match=r"cannot be loaded: .* again: mmrag models pull hf:openai/clip"):
        encoder.encode_text(TEXTS)


def test_the_card_tells_the_scale_of_cosines(clip, copy):
    from safetensors.torch import load_file, save_file

    model = transformers.AutoModel.from_pretrained(clip)
    assert load_encoder(str(clip)).card.logit_scale == pytest.approx(model.logit_scale.exp().item())
    weights = load_file(copy / "model.safetensors")
    del weights["logit_scale"]
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    assert load_encoder(str(copy)).card.logit_scale == 0


def test_of_the_vectors_of_all_tokens_the_first_is_taken():
    """As FLAVA gives them; its own contrastive loss takes the first too."""
    tokens = torch.arange(24.0).reshape(2, 3, 4)
    assert torch.equal(_pooled(SimpleNamespace(pooler_output=tokens)), tokens[:, 0])


def test_int8_is_an_export(clip):
    with pytest.raises(ModelError, match="in int8; export it: mmrag models export NAME --to onnx"):
        load_encoder(str(clip), precision="int8")


@pytest.mark.parametrize("family", ["hf", "cross", "blip"])
def test_a_name_is_needed(family):
    with pytest.raises(ModelError, match="a model's name or folder stands behind the colon"):
        load_encoder(f"{family}:")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", '{"model_type": "whisper"}', "is a 'whisper' model, which plays no role here"),
        ("config.json", '{"model_type": "of-2030"}', "cannot read the configuration of .*of-2030"),
        ("config.json", "{", r"config\.json cannot be read"),
        ("preprocessor_config.json", None, "does not say how pictures are prepared"),
        ("preprocessor_config.json", "{", "does not say how pictures are prepared"),
        (
            "preprocessor_config.json",
            '{"image_processor_type": "CLIPImageProcessor", "do_center_crop": false}',
            "gives each picture a size of its own",
        ),
        (
            "preprocessor_config.json",
            '{"image_processor_type": "Siglip2ImageProcessor"}',
            "cuts pictures into patches itself",
        ),
        ("tokenizer_config.json", "[1]", r"tokenizer_config\.json is damaged"),
    ],
)
def test_damage_is_named(copy, name, content, message):
    (copy / name).unlink()
    if content is not None:
        (copy / name).write_text(content)
    with pytest.raises(ModelError, match=message):
        load_encoder(f"hf:{copy}")


def test_bfloat16_is_close_and_the_same_model(clip, pictures):
    encoder = load_encoder(str(clip))
    half = load_encoder(str(clip), precision="bf16")
    assert (half.precision, half.engine, half.identity) == ("bf16", "torch", encoder.identity)
    for found, expected in (
        (half.encode_image(pictures), encoder.encode_image(pictures)),
        (half.encode_text(TEXTS), encoder.encode_text(TEXTS)),
    ):
        assert 0.98 < (found * expected).sum(axis=1).min() < 1 - 1e-6


def test_a_model_that_is_not_here_names_the_command():
    with pytest.raises(ModelError, match="mmrag models pull hf:nobody/nothing"):
        load_encoder("hf:nobody/nothing")


def test_a_path_is_a_name(copy, monkeypatch):
    identity = load_encoder(f"hf:{copy}").identity
    monkeypatch.chdir(copy.parent)
    assert load_encoder("./copy").identity == load_encoder("copy").identity == identity
    assert absolute_name("hf:copy") == absolute_name("copy") == str(copy)
    assert absolute_name("hf:openai/clip") == "hf:openai/clip"
    copy.rename(copy.parent / "moved")
    assert load_encoder("./moved").identity == identity


def test_a_newer_commit_of_the_same_weights_keeps_an_index_usable(tmp_path, monkeypatch, photographs):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--some--clip"
    (repository / "refs").mkdir(parents=True)
    old, new = (repository / "snapshots" / (digit * 40) for digit in "12")
    tiny.write("clip", old)
    (repository / "refs" / "main").write_text(old.name)
    index = mmrag.create(tmp_path / "home", model="hf:some/clip", device="cpu")
    index.add(photographs)
    hits = index.search("a dog")
    shutil.copytree(old, new)
    (new / "README.md").write_text("---\nlicense: mit\n---\nNew words.")
    (repository / "refs" / "main").write_text(new.name)
    index = mmrag.open(tmp_path / "home", device="cpu")
    assert new.name in index.encoder.card.sources[0].name
    assert index.search("a dog") == hits
    assert load_encoder(f"hf:some/clip@{old.name}").identity == index.encoder.identity
    shutil.rmtree(new)
    tiny.write("clip", new, side=32)
    with pytest.raises(IndexModelError, match="revision"):
        mmrag.open(tmp_path / "home", device="cpu").search("a dog")


# --- what it is for --------------------------------------------------------------------------------------------------


def test_a_folder_of_pictures_is_searched_in_chinese(tmp_path, monkeypatch, photographs, caplog):
    model = tiny.write("chinese_clip", tmp_path / "tiny-chinese")
    shutil.copytree(photographs, tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    assert runner.invoke(app, ["index", "images", "--model", "./tiny-chinese"]).exit_code == 0
    found = runner.invoke(app, ["search", "一只可爱的猫", "--json", "-k", "6"])
    assert found.exit_code == 0
    names = [Path(json.loads(hit)["path"]).name for hit in found.stdout.splitlines()]
    pictures = {path.name: Image.open(path).convert("RGB") for path in photographs.iterdir()}
    pixels = reference_pixels(tmp_path / "tiny-chinese", list(pictures.values()))
    tokens = reference_tokens(tmp_path / "tiny-chinese", model, ["一只可爱的猫"], 64)
    cosines = unit(model.get_image_features(pixel_values=pixels)) @ unit(model.get_text_features(**tokens))[0]
    assert names == [list(pictures)[i] for i in np.argsort(-cosines)]
    index = mmrag.open(tmp_path)
    with caplog.at_level(logging.WARNING, "mmrag"):
        index.search("一只可爱的猫")
        assert caplog.text == ""
        index.search("une voiture rouge dans la rue")
    assert "French" in caplog.text


@pytest.mark.parametrize("family", ["clip", "siglip", "chinese_clip"])
def test_exported_it_gives_the_same_vectors(family, tmp_path, pictures):
    tiny.write(family, tmp_path / family)
    encoder = load_encoder(str(tmp_path / family))
    done = export_encoder(encoder, tmp_path / "out")
    exported = load_encoder(str(tmp_path / "out"), precision="fp32")
    assert exported.engine in ("onnxruntime", "openvino")
    pixels = np.stack([encoder.preprocess(one) for one in pictures])
    assert agree(exported.encode_pixels(pixels), encoder.encode_pixels(pixels))
    assert agree(exported.encode_text(TEXTS), encoder.encode_text(TEXTS))
    assert {one for cosines in done.agreement.values() for one in cosines} == {"image", "text"}
    assert min(one.lowest for one in done.agreement["fp32"].values()) > 0.999
    assert exported.card.languages == encoder.card.languages


# --- real sizes ------------------------------------------------------------------------------------------------------

BIG_TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
REAL = {
    "clip": lambda words: transformers.CLIPConfig(
        text_config={"vocab_size": words, "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    ),
    "siglip": lambda words: transformers.SiglipConfig(text_config={"vocab_size": 32000}),
    "chinese_clip": lambda words: transformers.ChineseCLIPConfig(
        vision_config={**BIG_TEXT, "patch_size": 16}, text_config={"vocab_size": 21128}
    ),
    "altclip": lambda words: transformers.AltCLIPConfig(
        vision_config={"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
        | {"num_attention_heads": 16, "patch_size": 14},
        text_config={"vocab_size": 20000, "pad_token_id": 1},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("family", REAL)
def test_at_real_size(family, tmp_path, pictures):
    model = tiny.write(family, tmp_path / family, config=REAL[family], side=224)
    encoder = load_encoder(str(tmp_path / family))
    pixels = reference_pixels(tmp_path / family, pictures)
    expected = unit(model.get_image_features(pixel_values=pixels))
    assert varied(expected)
    assert agree(encoder.encode_image(pictures), expected)
    assert not agree(encoder.encode_image([pictures[0].rotate(180), *pictures[1:]]), expected)
    tokens = reference_tokens(tmp_path / family, model, TEXTS, encoder.card.max_tokens)
    expected = unit(model.get_text_features(**tokens))
    assert varied(expected)
    assert agree(encoder.encode_text(TEXTS), expected)
    assert not agree(encoder.encode_text([*TEXTS[1:], TEXTS[0]]), expected)
