"""BLIP-base at 384 pixels with random weights, written once: speed does not depend on the values of weights."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / ".bench" / "blip-itm-base"


def written() -> Path:
    """Give the folder, as a hub has it. Its tokenizer knows no word: each is one token."""
    if not (FOLDER / "tokenizer.json").is_file():
        import torch
        import transformers
        from tokenizers import Tokenizer, models, pre_tokenizers, processors

        torch.manual_seed(0)
        config = transformers.BlipConfig(
            text_config={"num_attention_heads": 12},
            vision_config={"image_size": 384, "initializer_range": 0.02},  # 1e-10, its own, makes denormal numbers
            image_text_hidden_size=256,
        )
        transformers.BlipForImageTextRetrieval(config).save_pretrained(FOLDER)
        transformers.BlipImageProcessorPil().save_pretrained(FOLDER)
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
        vocabulary = {token: number for number, token in enumerate(special + [f"[{n}]" for n in range(30518)])}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        tokenizer.save(str(FOLDER / "tokenizer.json"))
    return FOLDER
