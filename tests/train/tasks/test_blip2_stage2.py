"""BLIP-2's second stage with tiny language models of three kinds, which stay as they are."""

from __future__ import annotations

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")
transformers = pytest.importorskip("transformers", reason="needs the torch extra")

from mmrag.errors import ModelError, RecipeError  # noqa: E402
from mmrag.models.registry import load_generator  # noqa: E402
from mmrag.sources.image import read_image  # noqa: E402
from mmrag.train.loop import fit  # noqa: E402
from mmrag.train.recipe import DataPart, LoopPart, OptimizerPart, TrainRecipe  # noqa: E402
from mmrag.train.task import Moment  # noqa: E402
from mmrag.train.tasks import open_task  # noqa: E402
from tests.models.tiny_blip2 import (  # noqa: E402
    language_model,
    one_thread,  # noqa: F401
    opt_tokenizer,
    t5_tokenizer,
    write_retrieval,
    write_untaught,
)
from tests.train.drawn import shuffled  # noqa: E402
from tests.train.squares import drawn_pairs  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

PAIRS = drawn_pairs(1)
START = Moment(0, 1, 1, 1)
KINDS = ("opt", "llama", "t5")


def write_llm(folder, kind, *, steps=0):
    """Write a language model that in so many steps learnt to say again what it has read."""
    tokenizer = t5_tokenizer() if kind == "t5" else opt_tokenizer()
    torch.manual_seed(0)
    auto = transformers.AutoModelForSeq2SeqLM if kind == "t5" else transformers.AutoModelForCausalLM
    network = auto.from_config(language_model(kind, tokenizer))
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            parameter.data = torch.randn(parameter.shape) * (0.5 if "emb" in name or "shared" in name else 0.2)
    if steps:
        _teach(network, tokenizer, steps)
    for part in (network, tokenizer):
        part.save_pretrained(folder)
    return folder


def _teach(network, tokenizer, steps):
    texts = [pair.texts[0] for pair in PAIRS]
    read = tokenizer(texts, return_tensors="pt", padding=True)
    labels = read.input_ids.masked_fill(read.attention_mask == 0, -100)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    network.train()
    for _ in range(steps):
        rows = torch.randperm(len(texts))[:24]
        loss = network(
            input_ids=read.input_ids[rows], attention_mask=read.attention_mask[rows], labels=labels[rows]
        ).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def opened(start, llm, **settings):
    torch.manual_seed(0)
    settings = {"llm": str(llm), "llm_precision": "fp32", **settings}
    task = open_task("blip2-stage2", start=f"blip2:{start}", settings=settings)
    task.network.eval()
    return task


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage2")
    write_retrieval(folder / "start")
    return {"start": folder / "start"} | {kind: write_llm(folder / kind, kind) for kind in KINDS}


def batch_of(task, pairs=PAIRS[:4]):
    return task.collate([task.prepare(pair, np.random.default_rng(0)) for pair in pairs])


@pytest.mark.parametrize("kind", KINDS)
def test_the_language_model_and_the_tower_stay_as_they_are(kind, folders):
    task = opened(folders["start"], folders[kind], llm_precision="bf16")
    frozen = (task._llm.network, task._vision.tower)
    before, began = copy.deepcopy([one.state_dict() for one in frozen]), copy.deepcopy(task.network.state_dict())
    optimizer = torch.optim.SGD([p for layer in task.layers() for p in layer.module.parameters()], lr=0.1)
    for _ in range(2):
        task.losses(batch_of(task), START)["loss"].backward()
        optimizer.step()
    assert task._llm.network.dtype == torch.bfloat16
    for one, old in zip(frozen, before, strict=True):
        assert all(parameter.grad is None for parameter in one.parameters())
        assert all(torch.equal(tensor, old[name]) for name, tensor in one.state_dict().items())
    same = [name for name, tensor in task.network.state_dict().items() if torch.equal(tensor, began[name])]
    assert all(name.endswith("key.bias") for name in same)  # which a softmax ignores


@pytest.mark.parametrize("kind", KINDS)
def test_a_caption_costs_what_the_saved_model_says_it_does(kind, folders, tmp_path):
    task = opened(folders["start"], folders[kind])
    task.save(tmp_path / "out")
    generator = load_generator(f"blip2:{tmp_path / 'out'}")
    question, answers = "what is it?", ["a dog", "two people on red", "cat"]
    asked = opened(folders["start"], folders[kind], prompt=generator.prompt(question), split=0.0)
    asked.network.load_state_dict(task.network.state_dict())
    words = asked._writing.collate([asked._writing.sample(answer, None) for answer in answers])
    images = [read_image(pair.image) for pair in PAIRS[:4]]
    with torch.no_grad():
        soft = asked.network(asked._vision.see(batch_of(asked), torch.device("cpu")))
        costs = [asked._costs(one.expand(len(answers), -1, -1), words).tolist() for one in soft]
    assert np.abs(generator.rank_answers(images, [question] * 4, answers) + costs).max() < 1e-3
    assert np.std(costs, axis=0).min() > 1e-2  # the picture matters


@pytest.mark.parametrize("kind", KINDS)
def test_the_saved_model_writes_what_was_trained_to_be_written(kind, folders, tmp_path):
    task = opened(folders["start"], folders[kind], prompt="a photo of" if kind == "opt" else "")
    task.save(tmp_path / "out")
    prompt, images = task._settings.prompt, [read_image(pair.image) for pair in PAIRS[:2]]
    captions = load_generator(f"blip2:{tmp_path / 'out'}").caption(images, prompt=prompt, beams=1, max_tokens=6)
    with torch.no_grad():
        soft = task.network(task._vision.see(batch_of(task, PAIRS[:2]), torch.device("cpu")))
        written = [_written(task, one[None], task._writing.ids(prompt), kind) for one in soft]
    said = [task._writing.tokenizer.decode(ids, skip_special_tokens=True) for ids in written]
    assert [caption.removeprefix(prompt).strip() for caption in captions] == [one.strip() for one in said]
    assert all(said)


def _written(task, soft, read, kind):
    """Write greedily by teacher forcing: the likeliest token is asked for anew after each."""
    said = []
    for _ in range(6):
        ids = torch.tensor([read if kind == "t5" else [*read, *said, 0]])
        batch = {"ids": ids, "mask": torch.ones_like(ids), "labels": torch.tensor([[*said, 0]])}
        likeliest = int(task._writing.logits(task._llm.network, soft, batch)[0, -1].argmax())
        if likeliest == task._writing._end:
            break
        said.append(likeliest)
    return said


def test_only_the_caption_is_to_be_said(folders):
    task = opened(folders["start"], folders["opt"], prompt="a photo of")
    words = task._writing.sample("a dog", None)
    before = len(task._writing.ids("a photo of"))
    assert words["said"][:before] == [-100] * before
    tokenizer = task._writing.tokenizer
    assert tokenizer.decode(words["said"][before:-1]) == " a dog"
    assert words["said"][-1] == task._llm.network.config.eos_token_id
    assert words["read"][before:] == words["said"][before:]


def test_an_encoder_reads_the_first_words_of_some_captions(folders):
    task = opened(folders["start"], folders["t5"], prompt="a photo of")
    decode = task._writing.tokenizer.decode
    splits = set()
    for seed in range(20):
        words = task._writing.sample("red dog on cat", np.random.default_rng(seed))
        read, said = (decode(words[name], skip_special_tokens=True) for name in ("read", "said"))
        assert f"{read} {said}" == "a photo of red dog on cat"
        splits.add(read)
    assert splits == {"a photo of red", "a photo of red dog", "a photo of red dog on"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": 2.0}, "split must be from 0 to 1, not 2.0"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"max_tokens": 4, "prompt": "a photo of"}, "leaves no room for a caption in max_tokens = 4"),
        ({"llm_precision": "fp16"}, "'fp32', 'bf16'"),
    ],
)
def test_settings_that_make_no_sense(settings, message, folders):
    with pytest.raises(RecipeError, match=message):
        opened(folders["start"], folders["opt"], **settings)


def test_a_language_model_that_is_not_here(folders, tmp_path):
    with pytest.raises(ModelError):
        opened(folders["start"], tmp_path)


def learnt(folder, pairs, *, seed, epochs):
    """What came of a training, measured on pictures that it did not see."""
    start, llm = write_untaught(folder / "start", seed=seed), write_llm(folder / "t5", "t5", steps=150)
    task = opened(start, llm, cache_bytes=1 << 27, split=0.0)
    recipe = TrainRecipe(
        task="blip2-stage2",
        start="",
        data=DataPart(batch_size=24, seed=seed),
        optimizer=OptimizerPart(learning_rate=5e-3, weight_decay=0.01),
        loop=LoopPart(epochs=epochs),
    )
    return fit(task, pairs, val=drawn_pairs(1, seed=100 + seed), out=folder / "out", recipe=recipe)


def test_it_learns(tmp_path):
    report = learnt(tmp_path, drawn_pairs(4), seed=0, epochs=8)
    assert report.figures["lm"] < report.start_figures["lm"] - 0.1
    assert report.figures["sight"] > max(0.05, report.start_figures["sight"])


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
def test_it_learns_from_pictures_that_fit_their_texts_alone(tmp_path, seed):
    pairs = drawn_pairs(4, seed=seed)
    report = learnt(tmp_path / "fit", pairs, seed=seed, epochs=10)
    confused = learnt(tmp_path / "shuffled", shuffled(pairs, seed), seed=seed, epochs=10).figures
    assert report.figures["lm"] < min(report.start_figures["lm"], confused["lm"]) - 0.1
    assert report.figures["sight"] > 0.1 > confused["sight"]
