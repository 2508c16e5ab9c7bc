"""Tiny cross-encoders whose random weights see both texts."""

from __future__ import annotations

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = (
    *("the", "a", "dog", "cat", "plays", "in", "on", "snow", "beach", "sea", "mountain", "red", "green", "car"),
    *("stands", "sky", "night", "of", "with", "two", "man", "woman", "reads", "book"),
    *("is", "are", "dogs", "playing", "deep", "cup", "coffee", "table", "rocket", "at", "from", "its", "launch", "pad"),
)

TOKENS = 40


def write_tokenizer(folder):
    vocabulary = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    transformers.BertTokenizer(vocab=vocabulary, model_max_length=TOKENS).save_pretrained(folder)
    return len(vocabulary)


def shake(network, seed=0):
    """Give every weight a size that lets what comes in decide what goes out."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter += 0.1 * noise
            else:
                gain = {"classifier.weight": 5.0, "classifier.out_proj.weight": 8.0}.get(name, 1.5)
                parameter.copy_(noise if "embedding" in name else noise * gain * parameter.shape[1] ** -0.5)


def write_roberta(folder):
    """Write an XLM-RoBERTa, whose positions begin behind the padding's number: of 42 it reads 40."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({token: n for n, token in enumerate(tokens)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B:0 </s>:0", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    inputs = ["input_ids", "attention_mask"]
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=TOKENS, model_input_names=inputs, **names
    ).save_pretrained(folder)
    config = transformers.XLMRobertaConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=TOKENS + 2,
        type_vocab_size=1,
        pad_token_id=1,
        num_labels=1,
    )
    network = transformers.XLMRobertaForSequenceClassification(config)
    shake(network)
    network.save_pretrained(folder)


def write(kind, folder):
    """Write a folder as sentence-transformers has it."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "roberta":
        write_roberta(folder)
        return
    vocabulary = write_tokenizer(folder)
    if kind == "bert":
        config = transformers.BertConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=64,
            num_labels=1,
        )
        network = transformers.BertForSequenceClassification(config)
    else:
        config = transformers.DistilBertConfig(
            vocab_size=vocabulary,
            n_layers=3,
            n_heads=4,
            dim=32,
            hidden_dim=64,
            max_position_embeddings=64,
            num_labels=1,
        )
        network = transformers.DistilBertForSequenceClassification(config)
    shake(network)
    network.save_pretrained(folder)


def make_cross_encoder(folder):
    write("bert", folder)
    return f"cross:{folder}"
