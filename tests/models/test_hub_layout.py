"""Tiny models of transformers', in folders as a hub has them, against transformers itself."""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="needs the torch extra")
transformers = pytest.importorskip("transformers", reason="needs the torch extra")
pytest.importorskip("open_clip", reason="needs the torch extra")

from tokenizers import Tokenizer, models, pre_tokenizers, processors  # noqa: E402

from mmrag.errors import ModelError  # noqa: E402
from mmrag.models.folder import ModelFolder  # noqa: E402
from mmrag.models.onnx import OnnxEncoder  # noqa: E402
from mmrag.models.open_clip import tokenizer_json  # noqa: E402
from mmrag.models.registry import load_encoder  # noqa: E402

TEXTS = ["a dog", "two children are playing football on a beach while the sun goes down", "red", "an old red house"]
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SIDE = 64
SIGLIP_TOKENS = 16


class Tower(torch.nn.Module):
    """One tower with two outputs, of which the first is not the vectors."""

    def __init__(self, tower, pooled):
        super().__init__()
        self.tower, self.pooled = tower, pooled

    def forward(self, given):
        out = self.tower(given)
        return out.last_hidden_state, out[self.pooled]


def write_tower(path, tower, pooled, example, shapes):
    path.parent.mkdir(exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own insides
        torch.onnx.export(
            Tower(tower, pooled).eval(),
            (example,),
            path,
            input_names=["pixel_values" if example.ndim == 4 else "input_ids"],
            output_names=["last_hidden_state", pooled],
            dynamic_shapes=(shapes,),
            dynamo=True,
            verbose=False,
        )


def shaken(model, seed):
    """A model with random weights that says different things of different inputs."""
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim <= 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
        else:
            parameter.data = torch.randn_like(parameter) * (1 if "embedding" in name else parameter[0].numel() ** -0.5)
    return model.eval()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A tiny CLIP and its folder."""
    folder = tmp_path_factory.mktemp("hub") / "clip-tiny"
    config = transformers.CLIPConfig(
        vision_config={**VISION, "image_size": SIDE, "patch_size": 16, "projection_dim": 24},
        text_config={**VISION, "vocab_size": 49408, "eos_token_id": 49407, "projection_dim": 24},
        projection_dim=24,
    )
    model = shaken(transformers.CLIPModel(config), 0)
    towers = {}
    for name in ("Vision", "Text"):
        kind = getattr(transformers, f"CLIP{name}ModelWithProjection")
        towers[name] = kind(getattr(config, f"{name.lower()}_config")).eval()
        towers[name].load_state_dict(model.state_dict(), strict=False)
    batch, tokens = torch.export.Dim("batch"), torch.export.Dim("tokens", max=77)
    folder.mkdir()
    pixels, ids = torch.zeros(2, 3, SIDE, SIDE), torch.full((2, 9), 49407)
    write_tower(folder / "onnx" / "vision_model.onnx", towers["Vision"], "image_embeds", pixels, {0: batch})
    write_tower(folder / "onnx" / "text_model.onnx", towers["Text"], "text_embeds", ids, {0: batch, 1: tokens})
    model.config.save_pretrained(folder)
    size = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    transformers.CLIPImageProcessor(**size).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer_json(), "utf-8")
    return model, folder


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    """A tiny SigLIP and its folder. It pads with the end token, as SigLIP does, and not with its <pad>."""
    folder = tmp_path_factory.mktemp("hub") / "siglip-tiny"
    words = sorted({word for text in TEXTS for word in text.split()})
    config = transformers.SiglipConfig(
        vision_config={**VISION, "image_size": SIDE, "patch_size": 16},
        text_config={
            **VISION,
            "vocab_size": len(words) + 3,
            "max_position_embeddings": SIGLIP_TOKENS,
            "projection_size": VISION["hidden_size"],
        },
    )
    model = shaken(transformers.SiglipModel(config), 1)
    batch = {0: torch.export.Dim("batch")}
    folder.mkdir()
    pixels, ids = torch.zeros(2, 3, SIDE, SIDE), torch.zeros(2, SIGLIP_TOKENS, dtype=torch.long)
    write_tower(folder / "onnx" / "vision_model.onnx", model.vision_model, "pooler_output", pixels, batch)
    write_tower(folder / "onnx" / "text_model.onnx", model.text_model, "pooler_output", ids, batch)
    model.config.save_pretrained(folder)
    transformers.SiglipImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    vocabulary = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "</s>"}))
    return model, folder


@pytest.fixture
def copy(clip, tmp_path):
    """A copy of the CLIP's folder, to damage."""
    return shutil.copytree(clip[1], tmp_path / "another-name")


def unit(output):
    vectors = output.pooler_output
    return (vectors / vectors.norm(dim=-1, keepdim=True)).detach().numpy()


def cosines(a, b):
    return (a * b).sum(axis=1)


def image_reference(model, pixels):
    return unit(model.get_image_features(pixel_values=torch.as_tensor(pixels)))


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_pictures_equal_transformers(family, request):
    model, folder = request.getfixturevalue(family)
    pixels = np.random.default_rng(0).normal(size=(5, 3, SIDE, SIDE)).astype(np.float32)
    expected = image_reference(model, pixels)
    found = OnnxEncoder(folder, precision="fp32").encode_pixels(pixels)
    assert (expected @ expected.T).min() < 0.95  # what is seen does matter
    assert np.abs(found - expected).max() < 1e-4 * expected.std()


@pytest.mark.parametrize(
    ("family", "processor"),
    [
        ("clip", "CLIPImageProcessorPil"),
        ("clip", "CLIPImageProcessor"),
        ("siglip", "SiglipImageProcessorPil"),
        ("siglip", "SiglipImageProcessor"),
    ],
)
def test_photographs_through_both_preprocessings(family, processor, request, photographs):
    model, folder = request.getfixturevalue(family)
    pictures = [Image.open(path).convert("RGB") for path in sorted(photographs.iterdir())]
    theirs = getattr(transformers, processor).from_pretrained(folder)
    expected = image_reference(model, theirs(pictures, return_tensors="pt")["pixel_values"])
    found = load_encoder(str(folder), precision="fp32").encode_image(pictures)
    assert cosines(found, expected).min() >= 0.999
    assert cosines(found[1:], expected[:-1]).max() < 0.999


def test_texts_equal_clip_at_77_tokens(clip):
    model, folder = clip
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding(length=77, pad_id=49407)
    tokens = tokenizer.encode_batch(TEXTS)
    ids, mask = (torch.tensor([getattr(one, name) for one in tokens]) for name in ("ids", "attention_mask"))
    expected = unit(model.get_text_features(input_ids=ids, attention_mask=mask))
    encoder = load_encoder(f"onnx:{folder}")
    assert (expected @ expected.T).min() < 0.9
    assert np.abs(encoder.encode_text(TEXTS) - expected).max() < 1e-4 * expected.std()
    alone = np.concatenate([encoder.encode_text([text]) for text in TEXTS])
    assert np.abs(alone - expected).max() < 1e-4 * expected.std()


def test_texts_equal_siglip_padded_with_its_end_token(siglip):
    model, folder = siglip
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = [one.ids + [1] * (SIGLIP_TOKENS - len(one.ids)) for one in tokenizer.encode_batch(TEXTS)]
    expected = unit(model.get_text_features(input_ids=torch.tensor(ids)))
    encoder = load_encoder(f"onnx:{folder}")
    assert encoder.card.text_padding == "full"
    assert (expected @ expected.T).min() < 0.9
    assert np.abs(encoder.encode_text(TEXTS) - expected).max() < 1e-4 * expected.std()
    alone = np.concatenate([encoder.encode_text([text]) for text in TEXTS])
    assert np.abs(alone - expected).max() < 1e-4 * expected.std()


def test_padding_may_stand_in_the_tokenizer_itself(siglip, tmp_path):
    folder = shutil.copytree(siglip[1], tmp_path / "copy")
    expected = OnnxEncoder(folder).encode_text(TEXTS)
    (folder / "tokenizer_config.json").unlink()
    assert np.abs(OnnxEncoder(folder).encode_text(TEXTS) - expected).max() > 0.01  # <pad>, for want of better knowledge
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding(length=SIGLIP_TOKENS, pad_id=1)
    tokenizer.save(str(folder / "tokenizer.json"))
    assert np.array_equal(OnnxEncoder(folder).encode_text(TEXTS), expected)


def test_a_card_is_made_of_the_configuration(clip, siglip):
    made = ModelFolder.read(clip[1]).card
    assert (made.name, made.dimension, made.max_tokens, made.text_padding) == ("clip", 24, 77, "longest")
    made = ModelFolder.read(siglip[1]).card
    assert (made.name, made.dimension, made.max_tokens, made.text_padding) == ("siglip", 32, SIGLIP_TOKENS, "full")


def test_a_model_is_the_same_wherever_it_lies(clip, copy):
    original = load_encoder(str(clip[1])).identity
    assert load_encoder(str(copy)).identity == original
    shutil.copy(copy / "onnx" / "vision_model.onnx", copy / "onnx" / "vision_model_quantized.onnx")
    assert load_encoder(str(copy)).identity == original
    tokenizer = (copy / "tokenizer.json").read_text("utf-8")
    (copy / "tokenizer.json").write_text(f"{tokenizer} ", "utf-8")
    assert "revision" in original.difference(load_encoder(str(copy)).identity)


@pytest.mark.parametrize("suffix", ["_int8", "_quantized", "_uint8"])
def test_a_quantized_file_is_int8(copy, suffix):
    shutil.copy(copy / "onnx" / "vision_model.onnx", copy / "onnx" / f"vision_model{suffix}.onnx")
    encoder = load_encoder(str(copy), precision="int8")
    assert (encoder.engine, encoder.precision) == ("onnxruntime", "int8")
    encoder.verify()


@pytest.mark.parametrize("name", ["onnx/vision_model.onnx", "onnx/text_model.onnx"])
def test_a_missing_tower(copy, name):
    (copy / name).unlink()
    with pytest.raises(ModelError, match=rf"{name}' is missing|{name} is missing"):
        load_encoder(str(copy))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, r"is not a model folder: it has neither card\.toml nor config\.json"),
        ("config.json", "{", r"config\.json cannot be read: Expecting"),
        ("config.json", "[]", r"config\.json is not a model's configuration"),
        ("config.json", '{"model_type": "bert"}', r"config\.json does not say how long vectors and texts are"),
        ("config.json", '{"model_type": "clip", "text_config": 3}', r"config\.json is not a model's configuration"),
        ("preprocessor_config.json", None, r"cannot read .*preprocessor_config\.json: No such file"),
        ("preprocessor_config.json", "{", r"preprocessor_config\.json is not a preprocessor file"),
        ("preprocessor_config.json", "[]", r"preprocessor_config\.json is not a preprocessor file"),
        ("preprocessor_config.json", '{"size": {"longest_edge": 9}}', "is not a preprocessor file: KeyError"),
        ("preprocessor_config.json", '{"size": {"shortest_edge": 9}}', "or a shortest edge with a centre crop can be"),
        (
            "preprocessor_config.json",
            '{"size": {"shortest_edge": 9}, "do_center_crop": true, "crop_size": 10}',
            "the crop of 10 × 10 is larger than the shortest edge",
        ),
        (
            "preprocessor_config.json",
            '{"size": {"height": 9, "width": 9}, "rescale_factor": 0.5}',
            "pictures must be resized, rescaled by 1/255 and normalised",
        ),
    ],
)
def test_damage_is_named(copy, name, content, message):
    (copy / name).unlink()
    if content is not None:
        (copy / name).write_text(content)
    with pytest.raises(ModelError, match=message):
        load_encoder(f"onnx:{copy}")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", None, r"has no tokenizer\.json"),
        ("tokenizer.json", "{", r"tokenizer\.json is damaged"),
        ("tokenizer_config.json", "[]", r"tokenizer_config\.json is damaged"),
        ("onnx/text_model.onnx", "nonsense", r"text_model\.onnx cannot be loaded"),
    ],
)
def test_damage_to_the_text_tower_is_named(copy, name, content, message):
    (copy / name).unlink(missing_ok=True)
    if content is not None:
        (copy / name).write_text(content)
    with pytest.raises(ModelError, match=message):
        load_encoder(f"onnx:{copy}").encode_text(["a dog"])


def test_there_is_no_such_folder(tmp_path):
    with pytest.raises(ModelError, match=r"there is no model folder '.*nowhere'"):
        load_encoder(f"onnx:{tmp_path / 'nowhere'}")
