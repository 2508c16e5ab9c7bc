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
QWEN_TEMPLATE = (  # Qwen's, but for its own system turn and what pictures and videos may also be called
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ content['text'] }}"
    "{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
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


def write_qwen(folder, *, seed=0):
    """Write a Qwen2-VL: a picture is as many tokens as it is large; returns it and its processor."""
    tokenizer = opt_tokenizer()
    names = ("image_pad", "video_pad", "vision_start", "vision_end", "im_start", "im_end")
    signs = {name: f"<|{name}|>" for name in names}
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE, *signs.values()], "eos_token": signs["im_end"]})
    ids = {name: tokenizer.convert_tokens_to_ids(sign) for name, sign in signs.items()}
    size = {"hidden_size": 40, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {"vocab_size": len(tokenizer), "num_key_value_heads": 4, "max_position_embeddings": 4096}
    rope = {"rope_type": "default", "mrope_section": [1, 2, 2], "rope_theta": 10_000.0}
    config = transformers.Qwen2VLConfig(
        vision_config={"depth": 2, "embed_dim": 32, "num_heads": 2, "hidden_size": 40, "patch_size": PATCH},
        text_config={**size, **text, "rope_parameters": rope, "eos_token_id": ids["im_end"], "pad_token_id": 1},
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
    )
    images = transformers.Qwen2VLImageProcessor(min_pixels=SIDE**2, max_pixels=16 * SIDE**2)
    processor = transformers.Qwen2VLProcessor(
        images, tokenizer, transformers.Qwen2VLVideoProcessor(), chat_template=QWEN_TEMPLATE
    )
    return _saved(folder, transformers.Qwen2VLForConditionalGeneration(config), processor, seed)


def _text(tokenizer):
    return language_model("llama", tokenizer)


def _saved(folder, network, processor, seed):
    shaken(network, seed)
    for name, parameter in network.named_parameters():
        if "projector" in name or "connector" in name or "merger" in name:
            parameter.data *= 2
        if "o_proj" in name and "vision" not in name:
            parameter.data *= 2
    processor.save_pretrained(folder)
    network.save_pretrained(folder)
    return network, processor


def make_llava(folder):
    """Write a tiny LLaVA, and give the name by which mmrag loads it."""
    write_llava(folder, seed=1)  # whose first words are no white space
    return f"hf:{folder}"


def make_idefics(folder):
    """Write a tiny Idefics3, and give the name by which mmrag loads it."""
    write_idefics(folder)
    return f"hf:{folder}"


def make_qwen(folder):
    """Write a tiny Qwen2-VL, and give the name by which mmrag loads it."""
    write_qwen(folder)
    return f"hf:{folder}"
