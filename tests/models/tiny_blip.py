"""Tiny BLIPs with random weights, in folders as a hub has them. They do look at the picture, unlike fresh ones."""

from __future__ import annotations

import string

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

SIDE = 48
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SENTENCES = (
    "a red blue car two dogs are playing in deep snow man cat cup of coffee on the table rocket at night",
    "what colour is it how many who where yes no picture",
)
WORDS = [word for sentence in SENTENCES for word in sentence.split()]
LETTERS = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)]
VOCABULARY = list(dict.fromkeys([*SPECIAL, *WORDS, *LETTERS]))


def tokenizer_json(*, with_blips_own=False):
    """BERT's layout on a small vocabulary; hubs store it without BLIP's own two tokens."""
    vocabulary = {token: number for number, token in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens([*SPECIAL, *(["[DEC]", "[ENC]"] if with_blips_own else [])])
    return tokenizer.to_str()


def tiny_config(layers=3):
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": layers, "num_attention_heads": 4}
    return transformers.BlipConfig(
        text_config={
            **size,
            "num_attention_heads": 2,
            "vocab_size": len(VOCABULARY) + 2,
            "max_position_embeddings": 40,
            "bos_token_id": len(VOCABULARY),
            "sep_token_id": 3,
            "eos_token_id": 3,
        },
        vision_config={**size, "image_size": SIDE, "patch_size": 16},
        image_text_hidden_size=24,
    )


def real_config():
    """BLIP-base at 384 pixels, as on the hub."""
    return transformers.BlipConfig(
        text_config={"num_attention_heads": 12}, vision_config={"image_size": 384}, image_text_hidden_size=256
    )


def shaken(model, seed=0):
    """Random weights, of which different pictures and texts make different things, token after token."""
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim <= 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
        elif "embedding" in name and "patch" not in name:
            gain = 0.2 if "vision" in name else 2 if "position" in name else 1
            parameter.data = torch.randn_like(parameter) * gain
        else:
            gain = 0.5 if "crossattention.output" in name else 4 if "itm_head" in name else 1
            gain *= 1.5 if "vision" in name else 1
            parameter.data = torch.randn_like(parameter) * parameter[0].numel() ** -0.5 * gain
    return model.eval()


def write_blip(folder, kind, config=None, *, seed=0):
    """Write one of transformers' three BLIPs, its tokenizer and its preprocessor; give it back, in memory."""
    transformers.utils.logging.disable_progress_bar()
    config = config or tiny_config()
    model = shaken(getattr(transformers, kind)(config), seed)
    model.save_pretrained(folder)
    side = config.vision_config.image_size
    transformers.BlipImageProcessorPil(size={"height": side, "width": side}).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer_json(), "utf-8")
    return model


def make_retrieval(folder):
    """Write a tiny BLIP that embeds and judges, and give the name by which mmrag loads it."""
    write_blip(folder, "BlipForImageTextRetrieval")
    return f"blip:{folder}"
