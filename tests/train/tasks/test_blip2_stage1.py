"""BLIP-2's first stage on tiny real Q-Formers: who can see whom, what is learnt, what is written."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("transformers", reason="needs the torch extra")

from mmrag.errors import ModelError, RecipeError  # noqa: E402
from mmrag.models.registry import load_encoder, load_matcher  # noqa: E402
from mmrag.sources.image import read_image  # noqa: E402
from mmrag.train.loop import fit  # noqa: E402
from mmrag.train.objectives.qformer import itc_mask, itg_mask, itm_mask, query_cosines  # noqa: E402
from mmrag.train.recipe import DataPart, LoopPart, OptimizerPart, TrainRecipe  # noqa: E402
from mmrag.train.task import Moment  # noqa: E402
from mmrag.train.tasks import blip2_stage1, open_task  # noqa: E402
from tests.models.tiny_blip2 import QUERIES, one_thread, write_retrieval, write_untaught  # noqa: E402, F401
from tests.train.drawn import shuffled  # noqa: E402
from tests.train.squares import drawn_pairs  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

PAIRS = drawn_pairs(1)
START = Moment(0, 1, 1, 1)
TEXT = 5  # tokens, of which the last is padding


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage1") / "tiny"
    write_retrieval(folder)
    return folder


@pytest.fixture(scope="module")
def task(folder):
    return opened(folder)


def opened(folder, **settings):
    torch.manual_seed(0)
    task = open_task("blip2-stage1", start=f"blip2:{folder}", settings=settings)
    task.network.eval()
    return task


def batch_of(task, pairs=PAIRS[:6]):
    return task.collate([task.prepare(pair, np.random.default_rng(0)) for pair in pairs])


@torch.no_grad()
def losses_of(task, pairs=PAIRS[:6]):
    torch.manual_seed(0)
    return {name: loss.item() for name, loss in task.losses(batch_of(task, pairs), START).items()}


# --- who sees whom ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def read(network, states, ids, mask):
    """The hidden states of all places ``(queries + t, width)``."""
    return torch.cat(network.read(states, ids, mask), dim=1)[0]


@pytest.fixture(scope="module")
def exact(task):
    """In double precision, where the least glance leaves a trace."""
    return copy.deepcopy(task.network).double()


@pytest.fixture(scope="module")
def seen(task):
    """What a picture's patches are, twice, and a text."""
    states = torch.randn(2, 1, 17, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return states, torch.tensor([[2, 90, 91, 92, 0]])


def changed(before, after):
    """Which places differ at all."""
    return (before != after).any(dim=1)


@pytest.mark.parametrize("kind", [itc_mask, itm_mask, itg_mask], ids=lambda one: one.__name__)
def test_no_place_knows_of_what_its_mask_hides(kind, exact, seen, monkeypatch):
    states, ids = seen
    mask = kind(QUERIES, torch.tensor([[1, 1, 1, 1, 0]]))
    before = read(exact, states[0], ids, mask)
    for place in range(QUERIES + TEXT):
        other, tokens = ids.clone(), exact.queries.query_tokens
        with monkeypatch.context() as patch:
            if place < QUERIES:
                different = tokens.detach().clone()
                different[0, place] = different[0, place].flip(0)  # another, also after a norm
                patch.setattr(tokens, "data", different)
            else:
                other[0, place - QUERIES] = 95
            after = read(exact, states[0], other, mask)
        expected = mask[0, 0, :, place].clone()
        expected[place] = True  # what is changed differs from itself, be it padding
        assert torch.equal(changed(before, after), expected), place


@pytest.mark.parametrize(("kind", "words_know"), [(itc_mask, False), (itm_mask, True), (itg_mask, True)])
def test_words_know_of_the_picture_what_the_queries_tell_them(kind, words_know, exact, seen):
    states, ids = seen
    mask = kind(QUERIES, torch.ones(1, TEXT, dtype=torch.long))
    differs = changed(*(read(exact, one, ids, mask) for one in states))
    assert differs[:QUERIES].all()
    assert differs[QUERIES:].all() == differs[QUERIES:].any() == words_know


# --- what is computed -------------------------------------------------------------------------------------------------


def test_all_that_is_trained_and_nothing_else_has_gradients(folder):
    task = opened(folder)
    task.losses(batch_of(task), START)["loss"].backward()
    trained = {name for name, parameter in task.network.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in task.network.named_parameters()}
    listed = [parameter for layer in task.layers() for parameter in layer.module.parameters()]
    assert len(listed) == len({id(one) for one in listed}) == len(trained)
    assert not any(parameter.requires_grad for parameter in task._vision.tower.parameters())


def test_the_loss_is_what_the_settings_weigh(folder, task):
    losses = losses_of(task)
    weighed = losses_of(opened(folder, itc=0.0, itm=2.0))
    assert losses["loss"] == pytest.approx(sum(losses[name] for name in ("itc", "itm", "itg")), rel=1e-5)
    assert weighed["loss"] == pytest.approx(2 * losses["itm"] + losses["itg"], rel=1e-5)


def test_a_pictures_other_caption_is_no_negative(task):
    pair = PAIRS[0]
    alone, twice = losses_of(task, [pair]), losses_of(task, [pair, pair])
    assert alone["itc"] == twice["itc"] == pytest.approx(0, abs=1e-6)
    assert twice["itm"] == pytest.approx(alone["itm"], rel=1e-5)  # of matching pairs alone


@torch.no_grad()
def test_the_contrast_of_two_processes_is_that_of_the_joined_batch(task, monkeypatch):
    joined = batch_of(task, PAIRS[:8])
    states = task._vision.see(joined, torch.device("cpu"))
    expected, scores = task._contrast(states, joined)
    image_vectors, text_vectors = task._embed(states, joined)
    everyones = {1: joined["groups"], 2: text_vectors, 3: image_vectors}
    monkeypatch.setattr(blip2_stage1, "gather", lambda tensor: everyones[tensor.ndim])
    parts = []
    for rank in range(2):
        monkeypatch.setattr(blip2_stage1, "rank", lambda rank=rank: rank)
        own = slice(4 * rank, 4 * rank + 4)
        loss, own_scores = task._contrast(states[own], {name: joined[name][own] for name in ("groups", "ids", "mask")})
        assert torch.allclose(own_scores, scores[own, own], atol=1e-5)
        parts.append(loss.item())
    assert sum(parts) / 2 == pytest.approx(expected.item(), rel=1e-5)
    assert parts[0] != pytest.approx(parts[1], rel=1e-3)


def test_what_the_tower_sees_is_kept_as_far_as_there_is_room(folder, task):
    expected = task._vision.see(batch_of(task, PAIRS), torch.device("cpu"))
    one = 2 * 17 * 48  # bytes of a picture, in half precision
    kept = opened(folder, cache_bytes=40 * one)
    kept.begin(PAIRS)
    batch = batch_of(kept, PAIRS)
    assert (len(batch["states"]), len(batch["pixels"])) == (32, 16)
    order = torch.randperm(len(PAIRS)).tolist()
    mixed = kept._vision.see(batch_of(kept, [PAIRS[row] for row in order]), torch.device("cpu"))
    assert torch.allclose(mixed, expected[order], atol=2e-3, rtol=2e-3)
    augmented = opened(folder, cache_bytes=40 * one, augmentation={"flip": False})
    augmented.begin(PAIRS)
    assert "states" not in batch_of(augmented)


# --- what is written --------------------------------------------------------------------------------------------------


def test_the_folder_embeds_and_judges_as_was_trained(task, tmp_path):
    task.save(tmp_path / "out")
    name = f"blip2:{tmp_path / 'out'}"
    encoder, matcher = load_encoder(name), load_matcher(name)
    batch, images = batch_of(task), [read_image(pair.image) for pair in PAIRS[:6]]
    texts = [pair.texts[0] for pair in PAIRS[:6]]
    with torch.no_grad():
        states = task._vision.see(batch, torch.device("cpu"))
        image_vectors, text_vectors = task._embed(states, batch)
        queries, _ = task.network.read(states, batch["ids"], itm_mask(QUERIES, batch["mask"]))
        logits = task.network.judge(queries)[:, 1]
    assert np.abs(encoder.encode_image(images) - image_vectors.numpy()).max() < 1e-5
    assert np.abs(encoder.encode_text(texts) - text_vectors.numpy()).max() < 1e-5
    judgement = matcher.match(texts, matcher.features(images))
    assert np.abs(judgement.logits.diagonal() - logits.numpy()).max() < 1e-4
    assert np.abs(judgement.cosines - query_cosines(image_vectors, text_vectors).T.numpy()).max() < 1e-5


def test_a_further_training_begins_where_one_ended(task, tmp_path):
    task.save(tmp_path / "out")
    again = opened(tmp_path / "out")
    assert [layer.fresh for layer in again.layers()].count(True) == 0
    assert [layer.fresh for layer in task.layers()].count(True) == 1
    for name, tensor in task.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], tensor), name
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["qformer_config"]["vocab_size"] == again._texts.writes + 1
    assert losses_of(again) == pytest.approx(losses_of(task), rel=1e-6)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tokens": 2}, "max_tokens must be at least 3"),
        ({"itc": 0.0, "itm": 0.0, "itg": 0.0}, "one of them must be above 0"),
        ({"label_smoothing": 1.0}, "below 1, not 1.0"),
        ({"cache_bytes": -1}, "cache_bytes must not be negative"),
        ({"itx": 1}, "did you mean 'it"),
    ],
)
def test_settings_that_make_no_sense(settings, message, folder):
    with pytest.raises(RecipeError, match=message):
        opened(folder, **settings)


def test_a_start_of_another_kind(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    with pytest.raises(ModelError, match="is a BertModel, and BLIP-2 is trained from a Blip2ForImageTextRetrieval"):
        opened(tmp_path)


# --- what is learnt ---------------------------------------------------------------------------------------------------


def learnt(tmp_path, pairs, *, seed, epochs):
    """What came of a training, measured on pictures that it did not see."""
    task = opened(write_untaught(tmp_path / f"start{seed}", seed=seed), cache_bytes=1 << 27)
    recipe = TrainRecipe(
        task="blip2-stage1",
        start="",
        data=DataPart(batch_size=24, seed=seed),
        optimizer=OptimizerPart(learning_rate=5e-3, weight_decay=0.01),
        loop=LoopPart(epochs=epochs),
    )
    return fit(task, pairs, val=drawn_pairs(1, seed=100 + seed), out=tmp_path / "out", recipe=recipe)


def test_it_learns(tmp_path):
    report = learnt(tmp_path, drawn_pairs(2), seed=0, epochs=6)
    before, after = report.start_figures, report.figures
    assert before["text_to_image"]["R@5"] < 25 < 40 < after["text_to_image"]["R@5"]
    assert after["itg"] < before["itg"] / 3


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
def test_it_learns_from_pictures_that_fit_their_texts_alone(tmp_path, seed):
    pairs = drawn_pairs(4, seed=seed)
    report = learnt(tmp_path / "fit", pairs, seed=seed, epochs=10)
    confused = learnt(tmp_path / "shuffled", shuffled(pairs, seed), seed=seed, epochs=10).figures
    assert report.figures["text_to_image"]["R@1"] > 15 > report.start_figures["text_to_image"]["R@1"]
    assert report.figures["text_to_image"]["R@5"] > 75
    assert confused["text_to_image"]["R@5"] < 30
    assert confused["text_to_image"]["R@1"] < 15
    assert report.figures["itg"] < confused["itg"] - 0.1
