"""BLIP and BLIP-2 in their real sizes with random weights: speed does not depend on the values of weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parents[1] / ".bench"


def written() -> Path:
    """Give the folder of a BLIP-base at 384 pixels, as a hub has it; written once."""
    folder = BENCH / "blip-itm-base"
    if not (folder / "tokenizer.json").is_file():
        import torch
        import transformers

        torch.manual_seed(0)
        config = transformers.BlipConfig(
            text_config={"num_attention_heads": 12},
            vision_config={"image_size": 384, "initializer_range": 0.02},  # 1e-10, its own, makes denormal numbers
            image_text_hidden_size=256,
        )
        transformers.BlipForImageTextRetrieval(config).save_pretrained(folder)
        transformers.BlipImageProcessorPil().save_pretrained(folder)
        write_tokenizer(folder, words=30518)
    return folder


def blip2_in_memory() -> tuple[Path, Any]:
    """Give the folder of a BLIP-2 with ViT-g at 224 pixels, and its 4.7 GB of weights, which go through no file."""
    import torch
    import transformers

    folder = BENCH / "blip2-itm-vit-g"
    config = transformers.Blip2Config(
        vision_config={"initializer_range": 0.02}, qformer_config={"use_qformer_text_input": True}
    )
    config.image_token_index = None
    config.architectures = ["Blip2ForImageTextRetrieval"]
    config.save_pretrained(folder)
    transformers.BlipImageProcessorPil(size={"height": 224, "width": 224}).save_pretrained(folder)
    write_tokenizer(folder, words=30518)
    torch.manual_seed(0)
    network = transformers.Blip2ForImageTextRetrieval(config)
    network.query_tokens.data.normal_(std=0.02)  # zeros, its own, would all see the same
    return folder, network.eval().requires_grad_(False)


def write_tokenizer(folder: Path, words: int) -> None:
    """Write a tokenizer that knows no word: each is one token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {token: number for number, token in enumerate(special + [f"[{n}]" for n in range(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
