"""Tiny models of OpenCLIP's, of every kind, against OpenCLIP itself: network, pictures and words."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("open_clip", reason="needs the torch extra")

import open_clip
import torch
import transformers
from open_clip.pretrained import _PRETRAINED
from open_clip.transform import PreprocessCfg, image_transform_v2
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from mmrag.errors import MissingExtraError, ModelError
from mmrag.models import cache
from mmrag.models import open_clip as family
from mmrag.models.open_clip import OpenClipEncoder
from mmrag.models.registry import load_encoder
from tests.models.shaken import distance, shaken, unit

VISION = {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
SIGLIP_TEXT = {**TEXT, "pool_type": "last", "no_causal_mask": True, "proj_bias": True}
COCA_VISION = {
    **VISION,
    "attentional_pool": True,
    "attn_pooler_heads": 2,
    "attn_pooler_queries": 8,
    "output_tokens": True,
}
COCA_TEXT = {**TEXT, "context_length": 76, "embed_cls": True, "output_tokens": True}
CONVNEXT = {"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "linear", "image_size": 64}
EVA = {"timm_model_name": "eva02_tiny_patch14_224", "timm_pool": "token", "timm_proj": None, "image_size": 224}
WORDS = {"hf_model_name": "tiny/roberta", "hf_tokenizer_name": "tiny/roberta", "hf_pooler_type": "mean_pooler"}
CANONICAL = {"hf_tokenizer_name": "tiny/roberta", "tokenizer_kwargs": {"clean": "canonicalize"}}
PARTS = {
    "tiny-clip": {},
    "tiny-quick": {"quick_gelu": True},
    "tiny-wide": {"vision_cfg": {**VISION, "image_size": [32, 64]}},
    "tiny-last": {"custom_text": True, "text_cfg": {**SIGLIP_TEXT, "context_length": 16}},
    "tiny-canonical": {"custom_text": True, "text_cfg": {**SIGLIP_TEXT, **CANONICAL, "context_length": 16}},
    "tiny-coca": {
        "custom_text": True,
        "vision_cfg": COCA_VISION,
        "text_cfg": COCA_TEXT,
        "multimodal_cfg": {"context_length": 76, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
    },
    "tiny-resnet": {"vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 32, "head_width": 32}},
    "tiny-convnext": {"vision_cfg": CONVNEXT},
    "tiny-eva": {"embed_dim": 192, "vision_cfg": EVA},
    "tiny-words": {"text_cfg": WORDS},
}
KINDS = list(PARTS)
TEXTS = [
    "a dog",
    "two children are playing football on a beach while the sun goes down behind the pier",
    "Red.",
    "an old red-brick house, seen_from across the river at night!",
]
COMMIT = "1" * 40


def write_words(folder):
    """A tiny RoBERTa and its tokenizer, as a hub's cache holds them."""
    snapshot = folder / "models--tiny--roberta" / "snapshots" / COMMIT
    (folder / "models--tiny--roberta" / "refs").mkdir(parents=True)
    (folder / "models--tiny--roberta" / "refs" / "main").write_text(COMMIT)
    known = sorted({word.strip(".,!").lower() for text in TEXTS for word in text.replace("_", " ").split()})
    vocabulary = {word: n for n, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", ",", ".", "-", "!", *known])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(snapshot)
    size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    transformers.RobertaConfig(
        vocab_size=len(vocabulary), max_position_embeddings=80, pad_token_id=1, **size
    ).save_pretrained(snapshot)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Architectures that OpenCLIP did not have before, a checkpoint of each, and a hub's cache."""
    folder = tmp_path_factory.mktemp("open_clip")
    write_words(folder / "hub")
    for name, parts in PARTS.items():
        config = {"embed_dim": 32, "vision_cfg": VISION, "text_cfg": TEXT, **parts}
        (folder / f"{name}.json").write_text(json.dumps(config))
    known = dict(open_clip.factory._MODEL_CONFIGS)
    open_clip.add_model_config(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_CACHE", str(folder / "hub"))
        yield {name: folder / f"{name}.pt" for name in PARTS}
    open_clip.factory._MODEL_CONFIG_PATHS.remove(folder)
    open_clip.factory._MODEL_CONFIGS = known


@pytest.fixture(scope="module")
def kind(request, checkpoints):
    """OpenCLIP's own network and our encoder, of the same checkpoint."""
    return pair(request.param, checkpoints)


@pytest.fixture(scope="module")
def clip(checkpoints):
    return pair("tiny-clip", checkpoints)


def pair(name, checkpoints):
    override = {}
    if name == "tiny-words":  # OpenCLIP itself would ask a hub
        snapshot = checkpoints[name].parent / "hub" / "models--tiny--roberta" / "snapshots" / COMMIT
        override = {"text_cfg": {**WORDS, "hf_model_name": str(snapshot), "hf_model_pretrained": False}}
    network = shaken(open_clip.create_model(name, pretrained_text=False, **override))
    torch.save(network.state_dict(), checkpoints[name])
    return network, load_encoder(f"openclip:{name}/{checkpoints[name]}", precision="fp32", device="cpu")


def make_clip(folder):
    """For the contracts; OpenCLIP knows the architecture from then on."""
    folder.mkdir()
    (folder / "contract-clip.json").write_text(json.dumps({"embed_dim": 32, "vision_cfg": VISION, "text_cfg": TEXT}))
    open_clip.add_model_config(folder)
    torch.save(shaken(open_clip.create_model("contract-clip")).state_dict(), folder / "contract-clip.pt")
    return f"openclip:contract-clip/{folder / 'contract-clip.pt'}"


def image_reference(network, pictures):
    transform = image_transform_v2(PreprocessCfg(**network.visual.preprocess_cfg), is_train=False)
    with torch.inference_mode():
        return unit(network.encode_image(torch.stack([transform(picture) for picture in pictures])))


def text_reference(network, encoder, texts):
    """As many tokens as the model has, as OpenCLIP encodes texts."""
    with torch.inference_mode():
        return unit(network.encode_text(reference_tokens(encoder, texts)))


def reference_tokens(encoder, texts):
    text = encoder._config["text_cfg"]
    if "hf_tokenizer_name" not in text:
        return open_clip.get_tokenizer(encoder._architecture)(list(texts))
    options = text.get("tokenizer_kwargs") or {}
    folder = str(cache.snapshot("tiny/roberta"))
    return open_clip.tokenizer.HFTokenizer(folder, context_length=text.get("context_length", 77), **options)(
        list(texts)
    )


@pytest.fixture(scope="module")
def pictures(photographs):
    return [Image.open(path).convert("RGB") for path in sorted(photographs.iterdir())]


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_pictures_equal_open_clip(kind, pictures):
    network, encoder = kind
    expected = image_reference(network, pictures)
    assert distance(encoder.encode_image(pictures), expected) < 1e-4
    mirrored = [picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for picture in pictures]
    assert distance(encoder.encode_image(mirrored), expected) > 1e-2


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_texts_equal_open_clip(kind):
    network, encoder = kind
    expected = text_reference(network, encoder, TEXTS)
    assert distance(encoder.encode_text(TEXTS), expected) < 1e-4
    alone = np.concatenate([encoder.encode_text([text]) for text in TEXTS])
    assert distance(alone, expected) < 1e-4
    assert distance(encoder.encode_text([f"two {text}" for text in TEXTS]), expected) > 1e-2


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_every_pixel_is_open_clips(kind, pictures):
    network, encoder = kind
    transform = image_transform_v2(PreprocessCfg(**network.visual.preprocess_cfg), is_train=False)
    for picture in (*pictures, *(picture.resize((301, 224)) for picture in pictures)):
        assert np.abs(encoder.preprocess(picture) - transform(picture).numpy()).max() < 1e-4


@pytest.mark.parametrize("what", ["layer", "mask", "crop", "mean"])
def test_the_comparison_notices(clip, pictures, what, monkeypatch):
    network, encoder = clip
    other = OpenClipEncoder("tiny-clip", encoder._weights).at_precision("fp32")
    if what == "layer":
        other.network.visual.transformer.resblocks[1].mlp.c_fc.weight *= 1.01
    elif what == "mask":
        other.network.attn_mask = torch.zeros_like(other.network.attn_mask)
    else:
        changed = {"crop_to_nearest": False} if what == "crop" else {"mean": (0.48, 0.46, 0.41)}
        other.preprocessing = family.Preprocessing(**{**vars(other.preprocessing), **changed})
    if what == "mask":
        assert distance(other.encode_text(TEXTS), text_reference(network, encoder, TEXTS)) > 1e-3
    else:
        assert distance(other.encode_image(pictures), image_reference(network, pictures)) > 1e-3


def test_a_short_text_costs_few_tokens(clip):
    _, encoder = clip
    assert encoder.tokenize(["a dog"])["input_ids"].shape == (1, 4)


def test_long_texts_are_cut_with_a_warning(clip, caplog):
    _, encoder = clip
    with caplog.at_level(logging.WARNING, "mmrag"):
        exact, long = encoder.encode_text(["dog " * 75, "dog " * 75 + "cat " * 20])
    assert caplog.text.count("first 77 tokens are read of a text of 380 characters") == 1
    assert np.allclose(exact, long, atol=1e-6)


def test_bfloat16_is_near(clip, pictures):
    _, encoder = clip
    half = encoder.at_precision("bf16")
    assert (half.encode_image(pictures) * encoder.encode_image(pictures)).sum(axis=1).min() > 0.98
    assert (half.encode_text(TEXTS) * encoder.encode_text(TEXTS)).sum(axis=1).min() > 0.98


def test_every_architecture_has_a_card():
    """Without its network: of all that OpenCLIP lists, with each of their tags' preprocessing."""
    for architecture in open_clip.list_models():
        encoder = OpenClipEncoder(architecture, "random")
        assert encoder.card.dimension == open_clip.get_model_config(architecture)["embed_dim"]
        assert encoder.card.max_tokens == open_clip.get_model_config(architecture)["text_cfg"].get("context_length", 77)
        size = encoder.preprocessing
        for tag in open_clip.list_pretrained_tags_by_model(architecture):
            prepared = family._preprocessing(size.height, open_clip.get_pretrained_cfg(architecture, tag))
            assert isinstance(prepared, family.Preprocessing)


def test_a_tag_decides_how_pictures_are_prepared_and_which_gelu():
    tags = {tag: open_clip.get_pretrained_cfg("ViT-B-16-SigLIP", tag) for tag in ["webli"]}
    assert family._preprocessing(224, tags["webli"]).mean == (0.5, 0.5, 0.5)
    assert str(family._preprocessing(224, tags["webli"])).startswith("squash 224x224")
    assert str(family._preprocessing(224, {})).startswith(
        "shortest 224 centre nearest 224x224 filter 3 mean (0.48145466"
    )


def test_a_tag_whose_weights_are_here(checkpoints, clip, monkeypatch, pictures):
    """As a hub's cache holds them, with the quick GELU that the tag asks for."""
    network, _ = clip
    folder = checkpoints["tiny-clip"].parent / "hub" / "models--tiny--clip"
    snapshot = folder / "snapshots" / COMMIT
    tag = {"hf_hub": "tiny/clip/", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "quick_gelu": True}
    monkeypatch.setitem(_PRETRAINED, "tiny-clip", {"best": tag})
    with pytest.raises(
        ModelError, match="openclip:tiny-clip/best is not here; fetch it: mmrag models pull openclip:tiny"
    ):
        load_encoder("openclip:tiny-clip/best")
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    torch.save(network.state_dict(), snapshot / "open_clip_pytorch_model.bin")
    encoder = load_encoder("openclip:tiny-clip/best", precision="fp32", device="cpu")
    assert encoder.card.name == "tiny-clip-best"
    assert encoder.identity.weights.startswith(f"sha256:{encoder.card.revision}")
    assert COMMIT in encoder.card.sources[0].name
    quick = open_clip.create_model("tiny-clip", quick_gelu=True, force_preprocess_cfg=tag)
    quick.load_state_dict(network.state_dict())
    assert distance(encoder.encode_image(pictures), image_reference(quick.eval(), pictures)) < 1e-4


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("ViT-B-33/openai", r"OpenCLIP has no architecture 'ViT-B-33'; near it are: .*ViT-B-32.*mmrag models --all"),
        ("tiny-clip/nowhere", r"'nowhere' is neither 'random', nor the absolute path .* tags for tiny-clip: none"),
        ("tiny-clip/./x.pt", r"'./x.pt' is neither 'random', nor the absolute path of a checkpoint"),
        ("ViT-B-32-256", r"'' is neither .* tags for ViT-B-32-256: datacomp_s34b_b86k"),
        ("ViT-B-32-256/openai", r"'openai' is neither .* tags for ViT-B-32-256: datacomp_s34b_b86k"),
        ("ViT-B-32/laion2b_s34b_b79k", r"is not here; fetch it: mmrag models pull openclip:ViT-B-32/laion2b_s34b_b79k"),
    ],
)
def test_what_cannot_be_opened(checkpoints, reference, message):
    with pytest.raises(ModelError, match=message):
        load_encoder(f"openclip:{reference}")


def test_words_of_a_hub_that_are_not_here(checkpoints, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    encoder = load_encoder("openclip:tiny-words/random", device="cpu")
    for ask in (lambda: encoder.encode_text(["a dog"]), lambda: encoder.network):
        with pytest.raises(
            ModelError, match=r"the tokenizer of tiny/roberta, which is not here; fetch it: mmrag models"
        ):
            ask()


def test_a_checkpoint_of_another_model(checkpoints, tmp_path):
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pt")
    encoder = load_encoder(f"openclip:tiny-clip/{tmp_path / 'other.pt'}", device="cpu")
    with pytest.raises(ModelError, match=r"OpenCLIP cannot load openclip:tiny-clip/.*other\.pt: "):
        encoder.encode_text(["a dog"])


def test_a_checkpoint_runs_no_code(checkpoints, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"evil": Evil()}, tmp_path / "evil.pt")
    encoder = load_encoder(f"openclip:tiny-clip/{tmp_path / 'evil.pt'}", device="cpu")
    with pytest.raises(ModelError, match="OpenCLIP cannot load"):
        encoder.encode_text(["a dog"])
    assert not (tmp_path / "ran").exists()


def test_open_clip_is_an_extra(monkeypatch):
    monkeypatch.setattr(family.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"open_clip.*pip install 'mmrag\[torch\]'"):
        load_encoder("openclip:ViT-B-32/random")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["ViT-B-32-256", "coca_ViT-B-32", "convnext_base", "RN50", "EVA02-B-16"])
def test_real_sizes_equal_open_clip(architecture, pictures):
    encoder = load_encoder(f"openclip:{architecture}/random", precision="fp32", device="cpu")
    network = shaken(open_clip.create_model(architecture))
    encoder.network.load_state_dict(network.state_dict())
    assert distance(encoder.encode_image(pictures), image_reference(network, pictures)) < 1e-4
    assert distance(encoder.encode_text(TEXTS), text_reference(network, encoder, TEXTS)) < 1e-4
