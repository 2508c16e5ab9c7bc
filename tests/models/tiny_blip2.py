"""Tiny BLIP-2s and InstructBLIPs in folders as a hub has them, with random weights that do look at pictures."""

from __future__ import annotations

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

WORDS = "a an the of on in is are two red dog dogs cat man people photo picture question answer short what colour many"
TEXTS = ["a dog", "two people are on the red picture", "red", "a photo of a cat, in the short picture of a man", "dogs"]
VISION = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
}
QFORMER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "encoder_hidden_size": 48,
}
QUERIES = 6
IMAGE = "<image>"


def shaken(network, seed):
    """Random weights with which the outputs depend on picture, query and text; as initialised, BLIP-2 is blind."""
    random = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        noise = torch.randn(parameter.shape, generator=random)
        if "norm" in name.lower() and name.endswith("weight"):
            parameter.data = 1 + 0.1 * noise
        elif parameter.ndim == 1:
            parameter.data = 0.1 * noise
        elif "embedding" in name or "query_tokens" in name or "shared" in name or "embed_" in name:
            parameter.data = noise if "patch" not in name else 3 * noise * parameter[0].numel() ** -0.5
        else:
            sharp = 2 if any(part in name for part in ("query.", "key.", "q_proj", "k_proj")) else 1
            parameter.data = sharp * noise * parameter.shape[-1] ** -0.5
    return network.eval()


def talkative(network, seed):
    """Random weights with which the language model neither stops at once nor says one thing over and over."""
    shaken(network, seed)
    factors = {
        "shared.": 0.1,
        "embed_": 0.3,
        "out_proj": 2,
        "o_proj": 2,
        "relative_attention_bias": 8,
        "DenseReluDense.wo": 3,
    }
    for name, parameter in network.language_model.named_parameters():
        for part, factor in factors.items():
            parameter.data *= factor if part in name else 1
        if name == "lm_head.weight" and network.config.is_encoder_decoder:
            parameter.data *= 6
            parameter.data[1] *= 0.1  # the end of a text
    network.language_projection.weight.data *= 3
    return network


@pytest.fixture(scope="module")
def one_thread():
    """Tiny networks are slower on several threads, and much slower where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def bert_tokenizer():
    """WordPiece, lower case, [CLS] … [SEP], as BERT."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,:?!"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{one}" for one in letters), *WORDS.split()]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(one, vocabulary[one]) for one in ("[CLS]", "[SEP]")]
    )
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([IMAGE])
    return _wrapped(tokenizer, pad="[PAD]", unk="[UNK]", cls="[CLS]", sep="[SEP]")


def opt_tokenizer():
    """Bytes that can be written, and their pairs with a space; </s> begins a text, as OPT's."""
    written = [chr(code) for code in range(33, 127)]
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *written, "Ġ", "Ċ", *(f"Ġ{one}" for one in written)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("Ġ", one) for one in written], unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 2)])
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", IMAGE])
    return _wrapped(tokenizer, pad="<pad>", bos="</s>", eos="</s>", unk="<unk>")


def t5_tokenizer():
    """Pieces of words that a text's end follows, as T5's."""
    letters = "▁abcdefghijklmnopqrstuvwxyz0123456789.,:?!QA"
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), *((one, -6.0) for one in letters)]
    pieces += [(f"▁{word}", -3.0) for word in WORDS.split()]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(["<pad>", "</s>", IMAGE])
    return _wrapped(tokenizer, pad="<pad>", eos="</s>", unk="<unk>")


def _wrapped(tokenizer, **special):
    named = {f"{name}_token": token for name, token in special.items()}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)


def language_model(kind, tokenizer):
    """A tiny language model's configuration."""
    size = {"vocab_size": len(tokenizer), "hidden_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    if kind == "opt":  # as of BLIP-2, it ends at the end of a line
        end = tokenizer("\n").input_ids[-1]
        return transformers.OPTConfig(
            **size, ffn_dim=80, word_embed_proj_dim=40, max_position_embeddings=600, eos_token_id=end, pad_token_id=1
        )
    if kind == "llama":
        return transformers.LlamaConfig(
            **size, intermediate_size=80, bos_token_id=2, eos_token_id=2, pad_token_id=1, tie_word_embeddings=False
        )
    return transformers.T5Config(
        vocab_size=len(tokenizer),
        d_model=40,
        d_kv=10,
        d_ff=80,
        num_layers=2,
        num_heads=4,
        bos_token_id=1,
        decoder_start_token_id=0,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )


def write_retrieval(folder, *, vision=VISION, qformer=QFORMER, queries=QUERIES, dimension=16, head=3, seed=0):
    """Write a `Blip2ForImageTextRetrieval`, whose logits grow with `head`; returns it and transformers' processor."""
    tokenizer = bert_tokenizer()
    config = transformers.Blip2Config(
        vision_config=vision,
        qformer_config={"vocab_size": len(tokenizer), "use_qformer_text_input": True, **qformer},
        text_config={"model_type": "opt", "vocab_size": 9, "hidden_size": 8, "num_attention_heads": 2},
        num_query_tokens=queries,
        image_text_hidden_size=dimension,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
    )
    network = shaken(transformers.Blip2ForImageTextRetrieval(config), seed)
    network.itm_head.weight.data *= head
    images = _save(folder, network, tokenizer)
    return network, transformers.Blip2Processor(images, tokenizer, num_query_tokens=queries)


def make_retrieval(folder):
    """Write a tiny BLIP-2 that embeds and judges, and give the name by which mmrag loads it."""
    write_retrieval(folder)
    return f"blip2:{folder}"


def write_generator(folder, kind, *, seed=0):
    """Write a `Blip2ForConditionalGeneration` of "opt" or "t5"; returns it and transformers' own processor."""
    tokenizer = {"opt": opt_tokenizer, "t5": t5_tokenizer}[kind]()
    config = transformers.Blip2Config(
        vision_config=VISION,
        qformer_config=QFORMER,
        text_config=language_model(kind, tokenizer).to_dict(),
        num_query_tokens=QUERIES,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
    )
    network = talkative(transformers.Blip2ForConditionalGeneration(config), seed)
    images = _save(folder, network, tokenizer)
    return network, transformers.Blip2Processor(images, tokenizer, num_query_tokens=QUERIES)


def write_instruct(folder, kind, *, seed=0):
    """Write an `InstructBlipForConditionalGeneration` of "llama" or "t5", and give its processor, too."""
    tokenizer, instructions = {"llama": opt_tokenizer, "t5": t5_tokenizer}[kind](), bert_tokenizer()
    config = transformers.InstructBlipConfig(
        vision_config=VISION,
        qformer_config={"vocab_size": len(instructions), **QFORMER},
        text_config=language_model(kind, tokenizer).to_dict(),
        num_query_tokens=QUERIES,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
    )
    network = talkative(transformers.InstructBlipForConditionalGeneration(config), seed)
    instructions.save_pretrained(folder / "qformer_tokenizer")
    images = _save(folder, network, tokenizer)
    return network, transformers.InstructBlipProcessor(images, tokenizer, instructions, num_query_tokens=QUERIES)


def make_opt(folder):
    """Write a tiny BLIP-2 with OPT, and give the name by which mmrag loads it."""
    write_generator(folder, "opt")
    return f"blip2:{folder}"


def make_t5(folder):
    """Write a tiny BLIP-2 with T5, and give the name by which mmrag loads it."""
    write_generator(folder, "t5")
    return f"blip2:{folder}"


def make_instruct(folder):
    """Write a tiny InstructBLIP with Llama, and give the name by which mmrag loads it."""
    write_instruct(folder, "llama")
    return f"blip2:{folder}"


def _save(folder, network, tokenizer):
    side = network.config.vision_config.image_size
    images = transformers.BlipImageProcessorPil(size={"height": side, "width": side})
    for part in (images, tokenizer, network):
        part.save_pretrained(folder)
    return images


def write_untaught(folder, *, seed=0):
    """Write a BLIP-2 whose image tower sees, and whose Q-Former knows nothing yet and can be taught."""
    qformer = {**QFORMER, "num_hidden_layers": 2, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    network, _ = write_retrieval(folder, qformer=qformer, seed=seed)
    random = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if name.startswith("vision_model"):
            continue
        if parameter.ndim > 1:
            parameter.data = torch.randn(parameter.shape, generator=random) * (0.5 if name == "query_tokens" else 0.2)
        else:
            parameter.data.fill_(float("norm" in name.lower() and name.endswith("weight")))
    network.save_pretrained(folder)
    return folder
