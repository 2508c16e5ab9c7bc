"""Tiny BLIP-2s and InstructBLIPs that write, against transformers' own processor and generation."""

from __future__ import annotations

import logging
from threading import Event

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("transformers", reason="needs the torch extra")

from mmrag.errors import GenerationError, InputError, ModelError  # noqa: E402
from mmrag.models.blip2_generate import written_down  # noqa: E402
from mmrag.models.registry import load_encoder, load_generator  # noqa: E402
from mmrag.roles import Sampling, Turn  # noqa: E402
from tests.models.tiny_blip2 import one_thread, write_generator, write_instruct  # noqa: E402, F401

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = {
    "blip2-opt": (write_generator, "opt"),
    "blip2-t5": (write_generator, "t5"),
    "instructblip-t5": (write_instruct, "t5"),
    "instructblip-llama": (write_instruct, "llama"),
}
ANSWERS = ["red", "two people", "cat", "a man", "dogs", "what"]
QUESTION = "what colour is the dog"


@pytest.fixture(scope="module", params=KINDS)
def tiny(request, tmp_path_factory):
    """Ours, transformers' network and its processor."""
    folder = tmp_path_factory.mktemp("blip2") / request.param
    write, kind = KINDS[request.param]
    network, processor = write(folder, kind)
    return load_generator(f"blip2:{folder}"), network, processor


@pytest.fixture(scope="module")
def pictures(photographs):
    paths = sorted(photographs.iterdir())[:5]
    return [Image.open(path).convert("RGB").reduce(4) for path in paths]


def written(tiny, picture, prompt, **options):
    """What transformers writes of one picture, without the prompt."""
    _, network, processor = tiny
    inputs = processor(images=picture, text=prompt, return_tensors="pt")
    tokens = network.generate(**inputs, **options)[0]
    if network.config.use_decoder_only_language_model:
        tokens = tokens[inputs["input_ids"].shape[1] :]
    return processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()


def is_instruct(tiny):
    return tiny[0].architecture.startswith("Instruct")


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("prompt", ["", "a photo of"])
def test_captions_equal_transformers(tiny, pictures, prompt, beams):
    model = tiny[0]
    given = prompt or ("A short image description." if is_instruct(tiny) else "")
    options = {"max_new_tokens": 12, "num_beams": beams, "do_sample": False}
    expected = [written(tiny, picture, given, **options) for picture in pictures]
    assert len(set(expected)) >= 4
    assert np.mean([len(set(words)) for words in expected]) > 4  # more than one thing over and over
    begins = "" if is_instruct(tiny) else prompt
    found = model.caption(pictures, prompt=prompt, beams=beams, max_tokens=12)
    assert [words.removeprefix(begins).strip() for words in found] == expected
    assert all(words.startswith(begins) for words in found)
    assert model.caption(pictures[::-1], prompt=prompt, beams=beams, max_tokens=12) == found[::-1]


def test_without_words_blip2_begins_as_transformers_does(tiny, pictures):
    """Where the processor is given no text, the network begins with its own token."""
    model, network, processor = tiny
    if is_instruct(tiny):
        with pytest.raises((TypeError, ValueError)):  # InstructBLIP cannot be used so
            network.generate(**processor(images=pictures[0], return_tensors="pt"))
        return
    pixels = processor(images=pictures, return_tensors="pt")
    tokens = network.generate(**pixels, max_new_tokens=8, num_beams=1, do_sample=False)
    expected = processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    assert model.caption(pictures, beams=1, max_tokens=8) == [words.strip() for words in expected]


def test_samples_equal_transformers_from_the_same_seed(tiny, pictures):
    model, network, processor = tiny
    prompt = "a photo of the dog"
    inputs = processor(images=pictures, text=[prompt] * len(pictures), return_tensors="pt")
    torch.manual_seed(7)
    tokens = network.generate(**inputs, do_sample=True, top_p=0.8, top_k=0, num_beams=1, max_new_tokens=8)
    if network.config.use_decoder_only_language_model:
        tokens = tokens[:, inputs["input_ids"].shape[1] :]
    expected = [words.strip() for words in processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)]

    def sampled(seed):
        captions = model.caption(pictures, prompt=prompt, nucleus=0.8, max_tokens=8, seed=seed)
        return [caption.removeprefix(prompt).strip() for caption in captions]

    state = torch.get_rng_state()
    assert sampled(7) == expected
    assert sampled(8) != expected
    assert torch.equal(torch.get_rng_state(), state)


def test_answers_equal_transformers(tiny, pictures):
    model = tiny[0]
    ask = "Question: {} Answer:" if model.checkpoint.path.name == "blip2-opt" else "Question: {} Short answer:"
    questions = [QUESTION, "how many", QUESTION, "is a cat in the picture", QUESTION]
    options = {"max_new_tokens": 6, "num_beams": 3, "do_sample": False, "length_penalty": -1.0}
    pairs = zip(pictures, questions, strict=True)
    expected = [written(tiny, picture, ask.format(question), **options) for picture, question in pairs]
    assert model.answer(pictures, questions, max_tokens=6) == expected
    assert len(set(expected)) > 1


def likelihood(tiny, picture, prompt, answer):
    """Log-probability of an answer, from transformers' whole network run over all its tokens."""
    _, network, processor = tiny
    inputs = processor(images=picture, text=prompt, return_tensors="pt")
    if network.config.use_decoder_only_language_model:
        end = network.config.text_config.eos_token_id
        ids = [*processor.tokenizer(f" {answer}", add_special_tokens=False).input_ids, end]
        labels = torch.tensor([ids])
        for name, more in (("input_ids", labels), ("attention_mask", torch.ones_like(labels))):
            inputs[name] = torch.cat([inputs[name], more], dim=1)
        with torch.inference_mode():
            logits = network(**inputs).logits[:, -len(ids) - 1 : -1]
    else:
        labels = torch.tensor([processor.tokenizer(answer).input_ids])
        with torch.inference_mode():
            logits = network(**inputs, labels=labels).logits
    return -torch.nn.functional.cross_entropy(logits[0], labels[0], reduction="sum").item()


def test_ranked_answers_equal_transformers(tiny, pictures):
    model = tiny[0]
    prompt = model.prompt(QUESTION)
    found = model.rank_answers(pictures, [QUESTION] * len(pictures), ANSWERS)
    expected = np.array([[likelihood(tiny, picture, prompt, answer) for answer in ANSWERS] for picture in pictures])
    spread = expected.std(axis=0).mean()  # across pictures
    assert spread > 0.3
    assert np.abs(found - expected).max() < 1e-4 * spread
    assert np.array_equal(np.argsort(-found), np.argsort(-expected))
    other = model.rank_answers(pictures, ["how many"] * len(pictures), ANSWERS)
    assert np.abs(other - found).max() > 0.5
    mirrored = model.rank_answers([picture.transpose(0) for picture in pictures], [QUESTION] * len(pictures), ANSWERS)
    assert np.abs(mirrored - found).max() > 0.1


@pytest.mark.parametrize("tiny", [kind for kind in KINDS if kind.startswith("instruct")], indirect=True)
def test_the_queries_of_instructblip_read_the_instruction(tiny, pictures):
    """And it matters to what is written: other words for the Q-Former alone give another caption."""
    model, network, processor = tiny
    prompt = "a photo of the dog"
    inputs = processor(images=pictures[0], text=prompt, return_tensors="pt")
    other = processor(images=pictures[0], text="is the dog of a photo", return_tensors="pt")
    assert model.tokenize(prompt)["qformer_input_ids"] == inputs["qformer_input_ids"][0].tolist()
    inputs["qformer_input_ids"] = other["qformer_input_ids"]
    inputs["qformer_attention_mask"] = other["qformer_attention_mask"]
    tokens = network.generate(**inputs, max_new_tokens=12, num_beams=1, do_sample=False)
    caption = processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)[0].removeprefix(prompt).strip()
    assert model.caption(pictures[:1], prompt=prompt, beams=1, max_tokens=12)[0] != caption


@pytest.mark.parametrize("tiny", [kind for kind in KINDS if kind.startswith("blip2")], indirect=True)
def test_the_queries_of_blip2_read_nothing(tiny):
    assert set(tiny[0].tokenize("a dog")) == {"input_ids"}


def test_a_picture_is_seen_once_whatever_the_number_of_beams(tiny, pictures):
    model, seen = tiny[0], []
    hook = model.network.vision_model.register_forward_hook(lambda _, __, out: seen.append(len(out.last_hidden_state)))
    model.caption(pictures, beams=4, max_tokens=6)
    model.rank_answers(pictures, [QUESTION] * len(pictures), ANSWERS)
    hook.remove()
    assert sum(seen) == 2 * len(pictures)


def test_long_questions_are_cut_with_a_warning(tiny, pictures, caplog):
    model = tiny[0]
    with caplog.at_level(logging.WARNING, "mmrag"):
        short, long = (model.tokenize("dog " * count)["input_ids"] for count in (20, 600))
    assert "only the first 512 tokens are read of a text of 2400 characters: dog dog" in caplog.text
    assert len(short) < 100 < len(long) <= 512


def test_what_cannot_be_asked(tiny, pictures):
    model = tiny[0]
    for wrong in (0, 1.5):
        with pytest.raises(InputError, match=rf"nucleus is a probability, above 0 and at most 1, not {wrong}"):
            model.caption(pictures, nucleus=wrong)
    with pytest.raises(InputError, match="beams and max_tokens are at least 1, not 0 and 30"):
        model.caption(pictures, beams=0)
    with pytest.raises(InputError, match="beams and max_tokens are at least 1, not 3 and 0"):
        model.answer(pictures[:1], [QUESTION], max_tokens=0)
    with pytest.raises(InputError, match="one question for each of the 5 pictures, in a list"):
        model.answer(pictures, [QUESTION])
    with pytest.raises(InputError, match="one question for each of the 1 pictures, in a list"):
        model.answer(pictures[:1], "x")
    with pytest.raises(InputError, match="an answer is empty"):
        model.rank_answers(pictures[:1], [QUESTION], ["red", " "])


def test_nothing_in_nothing_out(tiny):
    model = tiny[0]
    assert model.caption([]) == []
    assert model.answer([], []) == []
    assert model.rank_answers([], [], ANSWERS).shape == (0, len(ANSWERS))


def told(model, turns, **sampling):
    """What it writes of a conversation."""
    return "".join(piece.text for piece in model.generate(turns, Sampling(**{"max_tokens": 12, **sampling})))


def test_a_conversation_about_a_picture_equals_transformers(tiny, pictures):
    model = tiny[0]
    prompt = "is it red? Question: what is it Answer: a dog. Question: what colour is the dog Answer:"
    options = {"max_new_tokens": 12, "num_beams": 1, "do_sample": False}
    expected = [written(tiny, picture, prompt, **options) for picture in pictures]
    assert len(set(expected)) >= 4
    said = [Turn("system", "is it red?"), Turn("user", "what is it"), Turn("assistant", "a dog.")]
    found = [told(model, [*said, Turn("user", QUESTION, (picture,))]) for picture in pictures]
    assert [words.strip() for words in found] == expected
    assert told(model, [said[1], Turn("user", QUESTION, (pictures[0],))]).strip() != expected[0]


def test_sources_stand_before_the_questions():
    turns = [
        Turn("system", "Be brief."),
        Turn("user", "Who?"),
        Turn("assistant", "Two people"),
        Turn("user", "[1] A beach.\n\n[2] A dog.\n\nWhere?"),
    ]
    assert written_down(turns, ["sand.", "a cat"]) == (
        "Be brief. Picture 1: sand. Picture 2: a cat. [1] A beach. [2] A dog. "
        "Question: Who? Answer: Two people. Question: Where? Answer:"
    )


def test_of_several_pictures_each_is_asked_about_and_the_answers_are_composed(tiny, pictures):
    model, network, processor = tiny
    seen = model.answer(pictures[:2], [QUESTION] * 2)
    prompt = f"Picture 1: {seen[0]}. Picture 2: {seen[1]}. Question: {QUESTION} Answer:".replace("..", ".")
    ids = processor.tokenizer(prompt, return_tensors="pt").input_ids
    words = network.language_model.get_input_embeddings()(ids)
    mask = torch.ones_like(ids)
    output = network.language_model.generate(
        inputs_embeds=words, attention_mask=mask, max_new_tokens=12, num_beams=1, do_sample=False
    )
    expected = processor.tokenizer.decode(output[0], skip_special_tokens=True).strip()
    assert told(model, [Turn("user", QUESTION, tuple(pictures[:2]))]).strip() == expected


def test_a_conversation_is_counted_with_its_pictures(tiny, pictures):
    model = tiny[0]
    alone = model.count_turns([Turn("user", QUESTION)])
    assert alone == len(tiny[2].tokenizer(f"Question: {QUESTION} Answer:").input_ids)
    assert model.count_turns([Turn("user", QUESTION, (pictures[0],))]) == alone + model.image_tokens == alone + 6
    with pytest.raises(GenerationError, match=r"the conversation has [\d,]+ tokens, and .* reads [\d,]+"):
        model.generate([Turn("user", "dog " * 3000, (pictures[0],))])


def test_a_conversation_is_cancelled_between_pictures(tiny, pictures):
    """Each picture takes a while, and all of them are not waited for."""
    model, cancel, seen = tiny[0], Event(), []

    def see(_, __, out):
        seen.append(len(out.last_hidden_state))
        cancel.set()

    hook = model.network.vision_model.register_forward_hook(see)
    pieces = list(model.generate([Turn("user", QUESTION, tuple(pictures * 4))], cancel=cancel))
    with model.running():  # once it is free, nothing is written any more
        hook.remove()
    assert [piece.end for piece in pieces] == ["cancelled"]
    assert len(seen) < 20


def test_roles(tiny):
    model = tiny[0]
    assert (model.card.roles, model.card.dimension) == (("generator",), 0)
    with pytest.raises(
        ModelError, match=r"is no encoder: it plays the role of generator\. blip2:Salesforce/.*-vit-g is"
    ):
        load_encoder(f"blip2:{model.checkpoint.path}")


def test_an_answer_that_has_not_begun_is_none(tiny, pictures):
    asked = [Turn("user", QUESTION, (pictures[0],))]
    told = [list(tiny[0].generate(turns, Sampling(max_tokens=4))) for turns in (asked, [*asked, Turn("assistant", "")])]
    assert told[0] == told[1]
