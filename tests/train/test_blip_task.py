"""A BLIP that is too small to be useful learns colours and places, with its numbers held against transformers'."""

from __future__ import annotations

import dataclasses
import io
import math

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="needs the train extra")
transformers = pytest.importorskip("transformers", reason="needs the train extra")

from mmrag.errors import InputError, ModelError, RecipeError  # noqa: E402
from mmrag.models.registry import load_encoder, load_generator, load_matcher  # noqa: E402
from mmrag.sources.pairs import Pair  # noqa: E402
from mmrag.train.task import Moment  # noqa: E402
from mmrag.train.tasks import open_task  # noqa: E402
from mmrag.train.tasks.blip import BlipSettings  # noqa: E402
from tests.models.tiny_blip import SIDE, VOCABULARY, tiny_config, write_blip  # noqa: E402
from tests.train.driver import drive  # noqa: E402

COLOURS = {"red": (250, 30, 20), "green": (20, 200, 40), "blue": (20, 40, 240), "yellow": (240, 230, 30)}
HALF = SIDE // 2
PLACES = {"left": (0, 0, HALF, SIDE), "right": (HALF, 0, SIDE, SIDE), "top": (0, 0, SIDE, HALF)}
SETTINGS = {
    "queue": 24,
    "momentum": 0.9,
    "label_smoothing": 0.0,
    "augmentation": {"crop": 0.9, "jitter": 0.1, "flip": False},
}
START = Moment(0, 10, 1, 1)


def picture(colour, place, noise):
    left, top, right, bottom = place
    pixels = np.full((SIDE, SIDE, 3), 128.0)
    pixels[top:bottom, left:right] = colour
    pixels += np.random.default_rng(noise).normal(0, 15, pixels.shape) if noise else 0
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def drawn(noise):
    return [
        Pair(f"{colour} {place}", picture(rgb, box, noise), (f"{colour} on the {place}",))
        for colour, rgb in COLOURS.items()
        for place, box in PLACES.items()
    ]


PAIRS, HELD_OUT = drawn(noise=0), drawn(noise=1)
SHUFFLED = [
    dataclasses.replace(one, texts=other.texts) for one, other in zip(PAIRS, PAIRS[5:] + PAIRS[:5], strict=True)
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blips")
    for name, kind in (
        ("reads", "BlipForImageTextRetrieval"),
        ("writes", "BlipForConditionalGeneration"),
        ("answers", "BlipForQuestionAnswering"),
    ):
        write_blip(folder / name, kind, tiny_config(2))
    return folder


def opened(folder, **changes):
    torch.manual_seed(0)
    return open_task("blip", start=f"blip:{folder}", settings=SETTINGS | changes)


def batch_of(task, pairs, seed=0):
    return task.collate([task.prepare(pair, np.random.default_rng((seed, row))) for row, pair in enumerate(pairs)])


def learnt(folder, pairs, seed=0):
    """What is measured before and after, and the task."""
    task = opened(folder)
    before = task.measure(HELD_OUT)
    log = drive(task, pairs, epochs=60, batch_size=12, rate=1e-2, seed=seed)
    return before, log, task.measure(HELD_OUT), task


@pytest.fixture(scope="module")
def trained(folders):
    return learnt(folders / "reads", PAIRS)


def recall(figures):
    return (figures["text_to_image"]["R@1"] + figures["image_to_text"]["R@1"]) / 2


def blind_loss(task):
    """Nats a token of the best writer that sees no picture: twelve equally likely texts."""
    tokens = batch_of(task, HELD_OUT)["written_mask"].sum() - len(HELD_OUT)
    return math.log(12) * len(HELD_OUT) / int(tokens)


def assert_learnt(before, log, after, task):
    assert recall(after) >= recall(before) + 40
    assert task.score(after) == recall(after)
    assert after["lm_loss"] < blind_loss(task) < before["lm_loss"]
    assert all(log[-1][part] < log[0][part] for part in ("itc", "itm", "lm"))


def test_it_learns(trained):
    assert_learnt(*trained)


def test_from_shuffled_texts_it_learns_nothing_of_pictures(folders):
    _, _, after, task = learnt(folders / "reads", SHUFFLED)
    assert recall(after) <= 20  # chance: 8
    assert after["lm_loss"] > blind_loss(task)


@pytest.mark.soak
@pytest.mark.parametrize("start", ["reads", "writes"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_it_learns_from_every_seed_and_start(folders, start, seed):
    assert_learnt(*learnt(folders / start, PAIRS, seed))
    _, _, after, task = learnt(folders / start, SHUFFLED, seed)
    assert recall(after) <= 20
    assert after["lm_loss"] > blind_loss(task)


@pytest.mark.soak
def test_it_learns_to_judge(folders):
    task = opened(folders / "reads", itc=0.5, lm=0.5)
    drive(task, PAIRS, epochs=400, batch_size=12, rate=5e-3)
    assert task.measure(HELD_OUT)["itm_accuracy"] >= 80  # chance: 50


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    trained[3].save(folder)
    return folder


@torch.no_grad()
def test_one_folder_plays_all_three_roles(trained, saved):
    task, images = trained[3], [Image.open(io.BytesIO(pair.image)) for pair in HELD_OUT]
    texts = [pair.texts[0] for pair in HELD_OUT]
    network, batch = task.network.eval(), task.collate([held_out(task, pair) for pair in HELD_OUT])
    states = network.see(batch["pixels"])
    encoder, matcher, writer = load_encoder(str(saved)), load_matcher(str(saved)), load_generator(str(saved))
    assert encoder.card.roles == ("encoder", "matcher", "generator")
    np.testing.assert_allclose(encoder.encode_image(images), network.image_vectors(states), atol=1e-4)
    vectors = network.text_vectors(batch["read_ids"], batch["read_mask"])
    np.testing.assert_allclose(encoder.encode_text(texts), vectors, atol=1e-4)
    ids = batch["read_ids"].clone()
    ids[:, 0] = len(VOCABULARY) + 1  # [ENC]
    logits = network.match(ids, batch["read_mask"], states)[:, 1]
    np.testing.assert_allclose(np.diag(matcher.match(texts, matcher.features(images)).logits), logits, atol=1e-3)
    right = [caption == text for caption, text in zip(writer.caption(images), texts, strict=True)]
    assert sum(right) >= 4  # of twelve texts that it may write; a blind writer is right once


def held_out(task, pair):
    """A sample without augmentation."""
    plain = dataclasses.replace(task._settings, augmentation=None)
    task = type(task)(task._model, plain)
    return task.prepare(pair, np.random.default_rng(0))


@torch.no_grad()
def test_transformers_opens_it_too_and_says_the_same(trained, saved):
    """Its LM loss is transformers' own, and so are its ITM logits at equal tokens."""
    task = trained[3]
    network, batch = task.network.eval(), task.collate([held_out(task, pair) for pair in HELD_OUT])
    states = network.see(batch["pixels"])
    captioner = transformers.BlipForConditionalGeneration.from_pretrained(saved).eval()
    captioner.text_decoder.label_smoothing = 0.1
    ids = batch["written_ids"].clone()
    ids[:, 0] = len(VOCABULARY)  # [DEC]
    labels = ids.masked_fill(batch["written_mask"] == 0, -100)
    theirs = captioner(
        pixel_values=batch["pixels"], input_ids=ids, attention_mask=batch["written_mask"], labels=labels
    ).loss
    assert float(task._lm(states, batch, label_smoothing=0.1)) == pytest.approx(float(theirs), abs=1e-5)
    retrieval = transformers.BlipForImageTextRetrieval.from_pretrained(saved).eval()
    read = {"input_ids": batch["read_ids"], "attention_mask": batch["read_mask"]}
    judged = retrieval(pixel_values=batch["pixels"], **read).itm_score
    torch.testing.assert_close(network.match(batch["read_ids"], batch["read_mask"], states), judged)
    cosines = retrieval(pixel_values=batch["pixels"], use_itm_head=False, **read).itm_score
    vectors = network.text_vectors(batch["read_ids"], batch["read_mask"])
    torch.testing.assert_close(network.image_vectors(states) @ vectors.T, cosines)


def test_what_was_trained_can_be_trained_on(trained, saved):
    again = opened(saved).measure(HELD_OUT)
    assert again == trained[2]


def test_reader_and_writer_share_all_but_self_attention(trained):
    reader, writer = trained[3].network.reader.text_encoder, trained[3].network.writer.bert
    named = dict(writer.named_parameters())
    for name, parameter in reader.named_parameters():
        assert (named[name] is parameter) == (".attention." not in name), name
        assert torch.equal(named[name], parameter) == (".attention." not in name), name


@pytest.mark.parametrize("kind", ["reads", "writes"])
def test_every_weight_is_trained_once_and_the_twin_never(folders, kind):
    network = opened(folders / kind).network
    layers = network.parts()
    parts = [parameter for layer in layers for parameter in layer.module.parameters()]
    assert len(set(parts)) == len(parts)
    everything = {*network.reader.parameters(), *network.writer.parameters(), network.log_scale}
    assert set(parts) == everything
    assert not set(network.twin.parameters()) & everything
    assert {layer.name for layer in layers if layer.fresh} == {"reads": {"words", "word bias"}, "writes": {"heads"}}[
        kind
    ]
    depths = {layer.name: layer.depth for layer in layers}
    assert (depths["text 1"], depths["vision 2"], depths["vision 3"], depths["heads"]) == (1, 2, 3, 0)


def test_a_captioning_checkpoint_begins_as_good_a_writer_as_it_was(folders):
    task = opened(folders / "writes")
    batch = batch_of(task, HELD_OUT)
    captioner = transformers.BlipForConditionalGeneration.from_pretrained(folders / "writes").eval()
    ids = batch["written_ids"].clone()
    ids[:, 0] = len(VOCABULARY)
    with torch.no_grad():
        theirs = captioner(pixel_values=batch["pixels"], input_ids=ids, attention_mask=batch["written_mask"]).logits
        ours = task.network.eval().write(ids, batch["written_mask"], task.network.see(batch["pixels"]))
    torch.testing.assert_close(ours, theirs)


def test_the_twin_and_the_queue_follow_after_a_step(folders):
    task = opened(folders / "reads")
    network, batch = task.network, batch_of(task, PAIRS)
    twin = network.twin.vision_proj.weight.clone()
    task.losses(batch, START)
    assert len(network.queue) == 0  # what was seen waits for the step
    with torch.no_grad():
        network.reader.vision_proj.weight += 1
        network.log_scale += 100
    task.after_step(START)
    torch.testing.assert_close(network.twin.vision_proj.weight, twin + 0.1)
    assert network.queue.groups.tolist() == batch["groups"].tolist()
    assert network.scale.item() == pytest.approx(1000)
    assert task.logged() == {"temperature": pytest.approx(0.001)}


def test_a_caption_of_the_same_picture_is_no_negative(folders):
    """With a batch of one picture there is nothing to tell apart, and nothing breaks."""
    task = opened(folders / "reads")
    same = [dataclasses.replace(PAIRS[0], texts=pair.texts) for pair in PAIRS[:3]]
    judged = task.losses(batch_of(task, same), START)["itm"]
    network, batch = task.network, batch_of(task, same)
    ids = batch["read_ids"].clone()
    ids[:, 0] = len(VOCABULARY) + 1
    logits = network.match(ids, batch["read_mask"], network.see(batch["pixels"]))
    own = torch.nn.functional.cross_entropy(logits, torch.ones(3, dtype=torch.int64))
    assert judged.item() == pytest.approx(own.item(), abs=1e-5)


def test_weights_add_up_and_nought_leaves_out(folders):
    task = opened(folders / "reads", itc=2.0, itm=0.0, lm=0.5)
    losses = task.losses(batch_of(task, PAIRS), START)
    assert losses.keys() == {"loss", "itc", "lm"}
    assert losses["loss"].item() == pytest.approx(2 * losses["itc"].item() + 0.5 * losses["lm"].item(), rel=1e-5)
    writer = opened(folders / "reads", itc=0.0, itm=0.0)
    figures = writer.measure(HELD_OUT)
    assert "itm_accuracy" not in figures
    assert writer.score(figures) == -figures["lm_loss"]


def test_a_prompt_is_given_and_not_learned(folders):
    """The gradient of what is said about the prompt's own tokens is nothing."""
    task = opened(folders / "reads", prompt="a car ")
    batch = batch_of(task, PAIRS[:2])
    plain = batch_of(opened(folders / "reads"), PAIRS[:2])
    assert batch["written_ids"].shape[1] == plain["written_ids"].shape[1] + 2
    assert torch.equal(batch["read_ids"], plain["read_ids"])
    other = {**batch, "written_ids": batch["written_ids"].clone()}
    other["written_ids"][:, 1] = 9  # another first word of the prompt: asked of nobody, but seen
    states = task.network.see(batch["pixels"])
    said, _ = (task._lm(states, one, label_smoothing=0.0).item() for one in (batch, other))
    logits = task.network.write(task._beginning_with("written", batch["written_ids"]), batch["written_mask"], states)
    logs = logits[:, :-1].log_softmax(-1).gather(-1, batch["written_ids"][:, 1:, None])[..., 0]
    asked = batch["written_mask"][:, 1:].bool()
    asked[:, :2] = False
    assert said == pytest.approx(-logs[asked].mean().item(), rel=1e-5)


def test_pictures_that_cannot_be_read_are_left_out_of_the_measure(folders, caplog):
    task = opened(folders / "reads")
    broken = dataclasses.replace(HELD_OUT[0], image=b"no picture")
    assert task.measure([broken, *HELD_OUT])["n_images"] == 12
    assert "pair 0 cannot be measured on" in caplog.text
    with pytest.raises(InputError, match="of 1 pairs to measure on, no picture can be read"):
        task.measure([broken])


def test_a_start_that_is_no_blip_to_train_says_so(folders):
    with pytest.raises(ModelError, match="begin with blip-itm-base or blip-caption-base"):
        opened(folders / "answers")


@pytest.mark.parametrize(
    "wrong",
    [{"itc": 0, "itm": 0, "lm": 0}, {"itm": -1}, {"momentum": 1}, {"alpha": 2}, {"temperature": 0}, {"queue": -1}],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(RecipeError, match=next(iter(wrong))):
        BlipSettings(**wrong)
