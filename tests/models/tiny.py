"""Tiny models with random weights, in folders as a hub has them."""

from __future__ import annotations

import json

import numpy as np
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from mmrag.models.open_clip import tokenizer_json
from tests.models.shaken import shaken

SIDE = 64
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**TOWER, "image_size": SIDE, "patch_size": 16}
TEXTS = [
    "a dog",
    "Two children are playing football on a beach, while the Sun goes down!",
    "red",
    "一只可爱的猫坐在沙发上",
    "海边的日落",
    "🐶🏖️ naïve café",
    "an old red house " * 40,
]
"""Short and long ones, in two scripts; the last is longer than any tiny model reads."""


def agree(found, expected):
    """Whether unit vectors are equal, to a ten-thousandth of how much they vary."""
    return np.abs(found - expected).max() <= 1e-4 * expected.std()


def varied(vectors):
    """Whether the vectors of different inputs are different, and no two of them are one."""
    others = (vectors @ vectors.T)[~np.eye(len(vectors), dtype=bool)]
    return others.min() < 0.9 and others.max() < 0.9999


def unit(features):
    vectors = getattr(features, "pooler_output", features).detach().numpy()
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


# --- tokenizers: files in a folder, and how many words they know ------------------------------------------------------


def clip_tokenizer(folder):
    """CLIP's own, under the names that its special tokens have on the hub."""
    content = tokenizer_json().replace("<start_of_text>", "<|startoftext|>")
    (folder / "tokenizer.json").write_text(content.replace("<end_of_text>", "<|endoftext|>"), "utf-8")
    end = "<|endoftext|>"
    _settings(folder, "CLIPTokenizer", {"model_max_length": 77, "pad_token": end, "unk_token": end})
    return 49408


def bert_tokenizer(folder):
    """A vocab.txt and nothing else, as Chinese-CLIP has it."""
    pieces = sorted({char for text in TEXTS for char in text if not char.isspace()})
    pieces += ["dog", "red", "old", "##s", "##ing", *(f"##{char}" for char in "abcdefghijklmnopqrstuvwxyz")]
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(known)), "utf-8")
    _settings(folder, "BertTokenizer", {})
    return len(dict.fromkeys(known))


def xlm_tokenizer(folder):
    """Unigrams between <s> and </s>, as XLM-RoBERTa has them."""
    pieces = sorted({char for text in TEXTS for char in text} - {" "} | {"▁", "▁red", "▁old", "▁house", "▁dog"})
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *pieces, "<mask>"]
    tokenizer = Tokenizer(models.Unigram([(token, -float(i) / 10) for i, token in enumerate(tokens)], unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    ends = [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    tokenizer.save(str(folder / "tokenizer.json"))
    _settings(folder, "XLMRobertaTokenizer", {"pad_token": "<pad>"})
    return len(tokens)


def siglip_tokenizer(folder):
    """Words that end in the token that it also pads with; no mask."""
    words = sorted({word.lower() for text in TEXTS for word in text.split()})
    vocabulary = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"pad_token": "</s>", "model_max_length": 16, "model_input_names": ["input_ids"]}
    _settings(folder, "PreTrainedTokenizerFast", settings)
    return len(vocabulary)


def siglip2_tokenizer(folder):
    """Byte pairs as Gemma has them, of lower-case texts."""
    letters = sorted({char for text in TEXTS for char in text.lower().replace(" ", "▁")})
    vocabulary = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    merges = [("d", "o"), ("do", "g"), ("r", "e"), ("re", "d")]
    vocabulary += ["".join(pair) for pair in merges]
    numbers = {piece: number for number, piece in enumerate(dict.fromkeys(vocabulary))}
    tokenizer = transformers.Siglip2Tokenizer(vocab=numbers, merges=merges, padding_side="right")
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_input_names": ["input_ids"]}))
    return len(numbers)


def _settings(folder, kind, settings):
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind, **settings}))


# --- models -----------------------------------------------------------------------------------------------------------


def clip(words):
    text = {**TOWER, "vocab_size": words, "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    return transformers.CLIPConfig(vision_config=VISION, text_config=text, projection_dim=24)


def clipseg(words):
    text = {**TOWER, "vocab_size": words, "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    config = transformers.CLIPSegConfig(vision_config=VISION, text_config=text, projection_dim=24)
    config.extract_layers = [0, 1]
    return config


def siglip(words):
    text = {**TOWER, "vocab_size": words, "max_position_embeddings": 16, "projection_size": 32}
    return transformers.SiglipConfig(vision_config=VISION, text_config=text)


def altclip(words):
    text = {**TOWER, "vocab_size": words, "max_position_embeddings": 66, "project_dim": 24, "pad_token_id": 1}
    return transformers.AltCLIPConfig(vision_config=VISION, text_config=text, projection_dim=24)


def chinese_clip(words):
    text = {**TOWER, "vocab_size": words, "max_position_embeddings": 64}
    return transformers.ChineseCLIPConfig(vision_config=VISION, text_config=text, projection_dim=24)


def metaclip_2(words):
    text = {**TOWER, "vocab_size": words, "eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1}
    return transformers.MetaClip2Config(vision_config=VISION, text_config=text, projection_dim=24)


def align(words):
    vision = {"image_size": SIDE, "hidden_dim": 32, "width_coefficient": 0.2, "depth_coefficient": 0.1}
    text = {**TOWER, "vocab_size": words, "max_position_embeddings": 64}
    return transformers.AlignConfig(vision_config=vision, text_config=text, projection_dim=64)


def dual(words):
    vision = transformers.ViTConfig(**VISION)
    text = transformers.BertConfig(**TOWER, vocab_size=words, max_position_embeddings=64)
    return transformers.VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=24)


FAMILIES = {
    "clip": (clip, clip_tokenizer, "CLIPImageProcessorPil"),
    "clipseg": (clipseg, clip_tokenizer, "ViTImageProcessorPil"),
    "siglip": (siglip, siglip_tokenizer, "SiglipImageProcessorPil"),
    "siglip_of_2": (siglip, siglip2_tokenizer, "SiglipImageProcessorPil"),
    "altclip": (altclip, xlm_tokenizer, "CLIPImageProcessorPil"),
    "chinese_clip": (chinese_clip, bert_tokenizer, "ChineseCLIPImageProcessorPil"),
    "metaclip_2": (metaclip_2, xlm_tokenizer, "CLIPImageProcessorPil"),
    "align": (align, bert_tokenizer, "EfficientNetImageProcessorPil"),
    "vision-text-dual-encoder": (dual, bert_tokenizer, "ViTImageProcessorPil"),
}


def write(family, folder, *, config=None, side=SIDE):
    """Write a folder as a hub has it, and give the model in it; tiny, unless there is another configuration."""
    usual, tokenizer, processor = FAMILIES[family]
    folder.mkdir(parents=True)
    config = (config or usual)(tokenizer(folder))
    model = shaken(transformers.AutoModel.from_config(config))
    for parameter in model.parameters():
        if parameter.ndim == 4 and family == "align":  # which shrinks what it sees, layer by layer
            parameter.data *= 1.4
    model.save_pretrained(folder)
    size = {"shortest_edge": side} if "CLIP" in processor else {"height": side, "width": side}
    getattr(transformers, processor)(size=size, crop_size={"height": side, "width": side}).save_pretrained(folder)
    return model


def make_clip(folder):
    write("clip", folder)
    return f"hf:{folder}"
