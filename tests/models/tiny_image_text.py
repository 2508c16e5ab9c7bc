"""Tiny language models that see, in folders as a hub has them, with random weights that do look at pictures."""

from __future__ import annotations

import transformers

from tests.models.tiny_blip2 import IMAGE, language_model, opt_tokenizer, shaken

SIDE = 56
PATCH = 14
VISION = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": PATCH,
}
LLAVA_TEMPLATE = (  # llava-hf's, but for the tags that it never uses
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' ' }}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
IDEFICS_TEMPLATE = (  # HuggingFaceM4's
    "{% for message in messages %}{{ message['role'] | capitalize + ':' }}{% for line in message['content'] %}"
    "{% if line['type'] == 'text' %}{{ line['text'] }}{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def write_llava(folder, *, template=LLAVA_TEMPLATE, seed=0):
    """Write a LLaVA; returns it and transformers' own processor."""
    tokenizer = opt_tokenizer()
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION),
        text_config=_text(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=-1,
    )
    processor = transformers.LlavaProcessor(
        transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    return _saved(folder, transformers.LlavaForConditionalGeneration(config), processor, seed)


def write_idefics(folder, *, seed=0):
    """Write an Idefics3, as SmolVLM is one: large pictures are cut into tiles; returns it and its processor."""
    tokenizer = opt_tokenizer()
    cells = [f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)]
    signs = ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *cells]
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE, *signs], "eos_token": signs[2]})
    config = transformers.Idefics3Config(
        vision_config={**VISION, "model_type": "idefics3_vision"},
        text_config=_text(tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        scale_factor=2,
        pad_token_id=1,
    )
    images = transformers.Idefics3ImageProcessor(
        size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=True
    )
    tokens = (SIDE // PATCH) ** 2 // 4
    processor = transformers.Idefics3Processor(images, tokenizer, image_seq_len=tokens, chat_template=IDEFICS_TEMPLATE)
    return _saved(folder, transformers.Idefics3ForConditionalGeneration(config), processor, seed)


def _text(tokenizer):
    return language_model("llama", tokenizer)


def _saved(folder, network, processor, seed):
    shaken(network, seed)
    for name, parameter in network.named_parameters():
        if "projector" in name or "connector" in name:
            parameter.data *= 2
        if "o_proj" in name and "vision" not in name:
            parameter.data *= 2
    processor.save_pretrained(folder)
    network.save_pretrained(folder)
    return network, processor


def make_llava(folder):
    """Write a tiny LLaVA, and give the name by which mmrag loads it."""
    write_llava(folder)
    return f"hf:{folder}"


def make_idefics(folder):
    """Write a tiny Idefics3, and give the name by which mmrag loads it."""
    write_idefics(folder)
    return f"hf:{folder}"
