"""Two towers learn pictures that were drawn for them; every recipe, and every setting by what it promises."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

torch = pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("transformers", reason="needs the torch extra")

import mmrag  # noqa: E402
from mmrag.errors import ItemError, ModelError, RecipeError  # noqa: E402
from mmrag.models.registry import load_encoder, open_model  # noqa: E402
from mmrag.sources.image import read_image  # noqa: E402
from mmrag.sources.pairs import Pair  # noqa: E402
from mmrag.train.loop import fit  # noqa: E402
from mmrag.train.patches import drop_patches  # noqa: E402
from mmrag.train.recipe import DataPart, LoopPart, OptimizerPart, TrainRecipe, load_recipe  # noqa: E402
from mmrag.train.task import Moment  # noqa: E402
from mmrag.train.tasks import contrastive, open_task  # noqa: E402
from tests.train.drawn import make_model, pairs, shuffled  # noqa: E402

TRAINERS = Path(__file__).parents[2] / "trainers"
FAMILY = {"clip": "clip", "siglip": "siglip", "lit": "clip", "chinese-clip": "chinese_clip", "lora": "clip"}
EPOCHS = {"siglip": 20, "lit": 20, "lora": 20, "chinese-clip": 20}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {family: make_model(family, folder / family) for family in ("clip", "siglip", "chinese_clip", "align")}


@pytest.fixture
def clip(models):
    return lambda **settings: open_task("contrastive", start=models["clip"], settings=settings)


def rng(seed=0):
    return np.random.default_rng(seed)


def batch_of(task, some, seed=0):
    return task.collate([task.prepare(pair, rng((seed, row))) for row, pair in enumerate(some)])


def learn(task, some, out, *, val=None, epochs=4, rate=2e-3, seed=0, batch_size=16, grad_cache=0):
    recipe = TrainRecipe(
        task="contrastive",
        start="tiny",
        data=DataPart(batch_size=batch_size, seed=seed),
        optimizer=OptimizerPart(learning_rate=rate),
        loop=LoopPart(epochs=epochs, grad_cache=grad_cache),
    )
    return fit(task, some, val=val, out=out, recipe=recipe)


def logged(out, name="loss"):
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [entry[name] for entry in entries if entry["kind"] == "step"]


# --- it learns --------------------------------------------------------------------------------------------------------


def run_recipe(name, models, out, *, mixed=False, seed=0):
    """Train with the settings of a recipe; gives the task, and its score on pictures held out, before and after."""
    recipe = load_recipe(str(TRAINERS / f"{name}.toml"))
    key = recipe.data.text_key or "en"
    task = open_task(recipe.task, start=models[FAMILY[name]], settings=recipe.settings)
    held_out, seen = pairs(1000 + seed, key=key), pairs(seed, each=4, key=key)
    before = task.score(task.measure(held_out))
    learn(task, shuffled(seen, seed) if mixed else seen, out, epochs=EPOCHS.get(name, 10), rate=3e-3, seed=seed)
    return task, before, task.score(task.measure(held_out))


@pytest.mark.parametrize("name", FAMILY)
def test_every_recipe_learns_and_its_folder_opens(name, models, tmp_path):
    task, before, after = run_recipe(name, models, tmp_path / "mine")
    assert after >= before + 8
    held_out = pairs(7, key="zh" if name == "chinese-clip" else "en")
    encoder = load_encoder(str(tmp_path / "mine"))
    images = encoder.encode_image([read_image(pair.image) for pair in held_out])
    texts = encoder.encode_text([text for pair in held_out for text in pair.texts])
    found = task._vectors.encode(held_out)
    tolerance = 2e-3 if name == "lit" else 1e-6  # vectors of a frozen tower are kept in half precision
    assert np.abs(images - found.image_vectors).max() < tolerance
    assert np.abs(texts - found.text_vectors).max() < 1e-6
    assert images.std(axis=0).mean() > 0.01


def test_nothing_is_learnt_from_shuffled_texts(models, tmp_path):
    _, before, after = run_recipe("clip", models, tmp_path / "mine", mixed=True)
    assert after < before + 8


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", FAMILY)
def test_every_recipe_learns_whatever_the_seed(name, seed, models, tmp_path):
    _, before, after = run_recipe(name, models, tmp_path / "mine", seed=seed)
    _, _, mixed = run_recipe(name, models, tmp_path / "mixed", mixed=True, seed=seed)
    assert after >= before + 8
    assert mixed < before + 8


def test_a_photograph_is_found_by_the_folder_that_was_written(clip, tmp_path, monkeypatch):
    task = clip()
    task.save(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for pair in pairs(3)[:4]:
        (tmp_path / "images" / f"{pair.id}.png").write_bytes(pair.image)
    index = mmrag.create(tmp_path, model="./mine")
    index.add("./images")
    assert len(index.search("red left", k=4)) == 4
    card = load_encoder("./mine").card
    assert (card.name, card.family, card.languages) == ("mine", "hf", ("en",))
    assert card.summary == "clip, trained on 0 pictures and their texts."
    assert card.logit_scale == pytest.approx(task.network.scale.item())
    assert card.sources[0].use == "the start of both towers"


# --- the same pixels and tokens as at search time ---------------------------------------------------------------------


def test_without_augmentation_a_batch_is_what_a_search_sees(clip, models):
    some = [Pair("wide", wide(), ("a red area left",))]
    batch = batch_of(clip(), some)
    encoder = load_encoder(models["clip"])
    assert np.array_equal(batch["pixels"][0].numpy(), encoder.preprocess(Image.open(io.BytesIO(wide())).convert("RGB")))
    assert np.array_equal(batch["input_ids"].numpy(), encoder.tokenize(["a red area left"])["input_ids"])


def test_augmentation_keeps_proportions(clip):
    task = clip(augmentation={"crop": 1.0, "ratio": 1.0, "jitter": 0.0, "flip": False})
    pair = Pair("wide", wide(), ("x",))
    views = np.stack([task.prepare(pair, rng(seed))["pixels"] for seed in range(8)])
    dark = (views.mean(axis=1) < 0).sum(axis=(1, 2))  # of a disc 30 pixels wide, shown at 64 / 80 of its size
    assert dark.max() == pytest.approx(math.pi * (15.5 * 64 / 80) ** 2, rel=0.05)  # both edges are drawn
    assert len({view.tobytes() for view in views}) > 1


def wide():
    """A black disc on white, twice as wide as high."""
    image = Image.new("RGB", (160, 80), "white")
    ImageDraw.Draw(image).ellipse((65, 25, 95, 55), "black")
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


# --- what is trained --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["clip", "siglip", "chinese_clip"])
def test_every_parameter_is_in_one_layer_and_deeper_towards_the_input(family, models):
    task = open_task("contrastive", start=models[family], settings={"objective": "sigmoid"})
    layers = task.layers()
    held = [id(one) for layer in layers for one in layer.module.parameters()]
    assert len(held) == len(set(held))
    assert set(held) == {id(one) for one in task.network.parameters()}
    depth = {id(one): layer.depth for layer in layers for one in layer.module.parameters()}
    named = {name.partition(".")[2]: depth[id(one)] for name, one in task.network.named_parameters() if "." in name}
    blocks = {
        "vision_model.embeddings.patch_embedding.weight": 3,
        "vision_model.encoder.layers.0.self_attn.q_proj.weight": 2,
        "vision_model.encoder.layers.1.self_attn.q_proj.weight": 1,
        "vision_model.post_layernorm.weight": 0,
        "logit_scale": 0,
    }
    assert {name: named[name] for name in blocks} == blocks
    words = [name for name in named if "token_embedding.weight" in name or "word_embeddings.weight" in name]
    assert [named[name] for name in words] == [3]


def test_a_frozen_tower_sees_each_picture_once_and_the_losses_are_the_same(clip, tmp_path):
    def run(freeze, out):
        task, seen = clip(freeze=freeze), []
        see = type(task._encoder).image_vectors
        task._encoder.image_vectors = lambda network, pixels: (
            seen.append(len(pixels)) or see(task._encoder, network, pixels)
        )
        if not freeze:  # the same, computed again and again
            parts = task.network.parts
            task.network.parts = lambda tower: parts(tower) if tower == "text" else []
        learn(task, some, tmp_path / out, val=pairs(9), epochs=3)
        return sum(seen), logged(tmp_path / out)

    some = pairs(0, each=2)
    once, cached = run(["image"], "cached")
    often, plain = run([], "plain")
    assert (once, often) == (32 + 16, 3 * 32 + 4 * 16)  # three epochs; measured before and after each
    assert cached == pytest.approx(plain, abs=5e-3)
    assert max(plain) - min(plain) > 0.05


def test_a_frozen_text_tower_reads_each_text_once(clip, tmp_path):
    task, read = clip(freeze=["text"]), []
    words = type(task._encoder).text_vectors
    task._encoder.text_vectors = lambda network, tokens: (
        read.append(len(tokens["input_ids"])) or words(task._encoder, network, tokens)
    )
    before = {name: one.clone() for name, one in task.network.parameters_of("text")}
    learn(task, pairs(0, each=2), tmp_path / "out", epochs=2)
    assert sum(read) == 32  # two texts of sixteen kinds
    assert all(torch.equal(one, before[name]) for name, one in task.network.parameters_of("text"))


def test_a_picture_that_could_not_be_read_has_no_vector(clip, caplog):
    task = clip(freeze=["image"])
    broken = Pair("broken", b"no picture", ("x",))
    task.begin([*pairs(0), broken])
    assert "pair 16 cannot be read" in caplog.text
    with pytest.raises(ItemError, match="no vector of the frozen tower"):
        task.prepare(broken, rng())


def test_the_text_tower_learns_alone_at_first(clip, tmp_path):
    task = clip(text_first=1)
    start = {tower: [one.clone() for _, one in task.network.parameters_of(tower)] for tower in ("image", "text")}

    def moved(tower):
        found = [one for _, one in task.network.parameters_of(tower)]
        return any(not torch.equal(one, other) for one, other in zip(found, start[tower], strict=True))

    after_step, moves = task.after_step, []
    task.after_step = lambda moment: after_step(moment) or moves.append((moved("image"), moved("text")))
    learn(task, pairs(0), tmp_path / "out", epochs=2, batch_size=8)
    assert moves == [(False, True), (False, True), (True, True), (True, True)]


def test_patches_are_left_out_in_training_only(clip):
    task, lengths = clip(patch_dropout=0.5), []
    layer = task.network.model.vision_model.encoder.layers[0]
    layer.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    batch = batch_of(task, pairs(0)[:4])
    task.network.train()
    dropped = task.embed(batch)[0]
    task.network.eval()
    whole = task.embed(batch)[0]
    assert lengths == [1 + 8, 1 + 16]
    assert torch.equal(whole, clip().embed(batch)[0])
    assert not torch.allclose(dropped, whole, atol=1e-3)
    with pytest.raises(ModelError, match="patch_dropout needs a vision transformer"):
        drop_patches(torch.nn.Linear(1, 1), 0.5, name="a line")


def test_lora_begins_as_the_start_and_moves_nothing_else(clip, tmp_path):
    task, plain = clip(lora={"rank": 2, "towers": ["text"]}, freeze=["image"]), clip()
    some = pairs(0)
    assert torch.equal(task.embed(batch_of(plain, some))[1], plain.embed(batch_of(plain, some))[1])
    before = {name: one.clone() for name, one in task.network.named_parameters()}
    learn(task, some, tmp_path / "out", epochs=2)
    moved = {name for name, one in task.network.named_parameters() if not torch.equal(one, before[name])}
    assert moved
    assert all("lora_" in name or name.endswith("logit_scale") for name in moved)
    assert {layer.name: layer.fresh for layer in task.layers()} == {"text low rank": True, "temperature": False}


def test_a_folder_of_lora_opens_without_peft(clip, tmp_path):
    task = clip(lora={"rank": 2})
    for name, one in task.network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(one, std=0.1)
    task.save(tmp_path / "mine")
    code = (
        "import sys; sys.modules['peft'] = None\n"
        "from mmrag.models.registry import load_encoder\n"
        f"print(load_encoder({str(tmp_path / 'mine')!r}).encode_text(['red left']).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    found = task._vectors.encode([Pair("x", pairs(0)[0].image, ("red left",))]).text_vectors
    assert np.abs(np.array(json.loads(done.stdout)) - found).max() < 1e-5
    assert (
        np.abs(found - clip()._vectors.encode([Pair("x", pairs(0)[0].image, ("red left",))]).text_vectors).max() > 0.01
    )


@pytest.mark.parametrize(("temperature", "bound"), [(0.02, 100.0), (1 / 150, 150.0)])
def test_the_temperature_is_bounded(clip, temperature, bound):
    task = clip(temperature=temperature)
    task.network.log_scale.data.fill_(9.0)
    task.after_step(Moment(1, 2, 1, 1))
    assert task.network.scale.item() == pytest.approx(bound, rel=1e-4)
    assert task.logged() == {"temperature": pytest.approx(1 / bound, rel=1e-4)}


# --- more than a batch ------------------------------------------------------------------------------------------------


def test_each_pair_brings_those_that_it_is_confused_with(clip):
    task, some = clip(hard_negatives=2), pairs(0)
    task.begin(some)
    found = task._vectors.encode(some)
    scores = found.text_vectors[::2] @ found.image_vectors.T  # of each picture's first text
    for row, pair in enumerate(some):
        others = [other["group"] for other in task.prepare(pair, rng())["others"]]
        own = scores[row, row]
        allowed = [n for n in np.argsort(-scores[row]) if n != row and scores[row, n] < 0.95 * own][:2]
        expected = [int(found.groups[n]) for n in allowed]
        assert others == expected + [found.groups[row]] * (2 - len(expected))
    batch = batch_of(task, some[:4])
    assert [len(batch[name]) for name in ("pixels", "groups", "input_ids")] == [12, 12, 12]


def test_negatives_follow_the_weights_and_a_checkpoint(clip):
    task, some = clip(hard_negatives=1), pairs(0)
    task.begin(some)
    first = task.network.negatives.table.clone()
    for _, one in task.network.parameters_of("image"):
        one.data += 0.3 * torch.randn(one.shape, generator=torch.Generator().manual_seed(0))
    task.after_step(Moment(1, 4, 1, 2))
    assert torch.equal(task.network.negatives.table, first)  # not before the epoch is over
    task.after_step(Moment(2, 4, 1, 2))
    second = task.network.negatives.table.clone()
    assert not torch.equal(second, first)
    task.network.load_state_dict(task.network.state_dict() | {"negatives.table": first})
    task.network.train()
    group = task.prepare(some[0], rng())["group"]
    assert task.network.negatives.of(group) == [row for row in first[0].tolist() if row >= 0]


def test_a_teacher_keeps_what_is_known(clip, tmp_path):
    some = shuffled(pairs(0, each=2))

    def drift(task, out):
        before = similarities(task)
        learn(task, some, tmp_path / out, epochs=4)
        return np.abs(similarities(task) - before).mean()

    def similarities(task):
        found = task._vectors.encode(pairs(5))
        return found.text_vectors @ found.image_vectors.T

    alone, taught = drift(clip(), "alone"), drift(clip(distill={"weight": 20.0}), "taught")
    assert taught < 0.7 * alone
    assert logged(tmp_path / "taught", "distance")[0] == pytest.approx(0, abs=1e-4)  # the start is its own teacher


def test_a_teacher_may_have_other_dimensions(clip):
    task = clip(distill={"teacher": "toy:1"})
    task.begin(pairs(0))
    batch = batch_of(task, pairs(0))
    assert batch["teacher_image_vectors"].shape[1] != task.embed(batch)[0].shape[1]
    assert task.losses(batch, Moment(0, 1, 1, 1))["distance"] > 0


@pytest.mark.parametrize(
    "settings", [{"label_smoothing": 0.1}, {"objective": "sigmoid"}, {"distill": {"teacher": "toy:1", "weight": 2.0}}]
)
def test_two_processes_compute_what_one_does(settings, clip, monkeypatch):
    task, chance = clip(**settings), torch.Generator().manual_seed(0)
    names = ("images", "texts", "teacher_image_vectors", "teacher_text_vectors")
    whole = {name: torch.nn.functional.normalize(torch.randn(8, 24, generator=chance), dim=1) for name in names}
    whole["groups"] = torch.tensor([1, 2, 3, 3, 4, 5, 1, 6])  # equal pictures in one process and in both
    vectors = [whole.pop("images").requires_grad_(), whole.pop("texts").requires_grad_()]
    moment = Moment(0, 1, 1, 1)
    alone = task.contrast(*vectors, whole, moment)["loss"]
    shares = []
    for process in range(2):
        rows = slice(4 * process, 4 * process + 4)
        parts = {name: one[rows] for name, one in whole.items()}
        mine = [one[rows] for one in vectors]
        all_of = {
            id(part): one for part, one in zip([*mine, *parts.values()], [*vectors, *whole.values()], strict=True)
        }
        monkeypatch.setattr(contrastive, "rank", lambda process=process: process)
        monkeypatch.setattr(contrastive, "gather", lambda part, all_of=all_of: all_of[id(part)])
        shares.append(task.contrast(*mine, parts, moment)["loss"])
    together = sum(shares) / 2
    assert together.item() == pytest.approx(alone.item(), rel=1e-5)
    for one, other in zip(torch.autograd.grad(together, vectors), torch.autograd.grad(alone, vectors), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("settings", [{"objective": "itc", "twin": {"queue": 32}}, {"objective": "sigmoid"}])
def test_the_other_objectives_learn_a_clip(settings, clip, tmp_path):
    task = clip(**settings, temperature=0.1)
    held_out = pairs(1000)
    before = task.score(task.measure(held_out))
    learn(task, pairs(0, each=4), tmp_path / "out", epochs=24, rate=3e-3)
    assert task.score(task.measure(held_out)) >= before + 8


def test_a_twin_follows_and_fills_the_queue(clip):
    task = clip(objective="itc", twin={"queue": 8, "momentum": 0.5})
    batch = batch_of(task, pairs(0)[:6])
    task.network.train()
    assert not task.network.twin.training
    task.losses(batch, Moment(0, 2, 1, 1))
    assert len(task.network.queue) == 0  # what was seen waits for its step, which may not be taken
    name, one = next(iter(task.network.parameters_of("image")))
    before = one.detach().clone()
    one.data += 1.0
    task.after_step(Moment(1, 2, 1, 1))
    assert torch.allclose(dict(task.network.twin.named_parameters())[name], before + 0.5)
    assert task.network.queue.groups.tolist() == batch["groups"].tolist()
    assert not any(id(one) in held_by(task) for one in task.network.twin.parameters())


def test_half_precision_is_for_networks_and_not_for_logits(clip):
    task = clip(temperature=0.01)
    batch = batch_of(task, pairs(0)[:6])
    vectors = [torch.nn.functional.normalize(torch.randn(6, 64), dim=-1) for _ in range(2)]
    whole = task.contrast(*vectors, batch, Moment(0, 1, 1, 1))["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(task.contrast(*vectors, batch, Moment(0, 1, 1, 1))["loss"], whole)


def held_by(task):
    return {id(one) for layer in task.layers() for one in layer.module.parameters()}


# --- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"freeze": ["image", "text"]}, "leaves nothing to train"),
        ({"freeze": ["words"]}, "must be one of 'image', 'text'"),
        ({"freeze": ["text"], "lora": {}}, "either frozen or adapted"),
        ({"text_first": 1, "freeze": ["text"]}, "freeze must be empty"),
        ({"patch_dropout": 0.5, "freeze": ["image"]}, "freeze must not name it"),
        ({"label_smoothing": 0.1, "objective": "sigmoid"}, 'label_smoothing is for the objective "info_nce"'),
        ({"patch_dropout": 1.0}, "at least 0 and below 1"),
        ({"hard_negatives": -1}, "must not be negative"),
        ({"lora": {"rank": 0}}, "a rank of at least 1"),
        ({"twin": {"momentum": 1.0}}, "momentum in"),
        ({"objektive": "itc"}, "did you mean 'objective'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message, clip):
    with pytest.raises(RecipeError, match=message):
        clip(**settings)


def test_only_two_towers_with_a_temperature_can_be_trained(models):
    with pytest.raises(ModelError, match=r"builtin \(.*\) is no model that this task trains"):
        open_task("contrastive", start="builtin", settings={})
    with pytest.raises(ModelError, match="has no learned temperature"):
        open_task("contrastive", start=models["align"], settings={})


def test_augmentation_of_a_frozen_tower_is_told_to_be_off(clip, caplog):
    clip(freeze=["image"], augmentation={})
    assert "augmentation is off" in caplog.text


def test_a_folder_that_was_trained_can_be_trained_further(clip, tmp_path):
    clip().save(tmp_path / "mine")
    task = open_task("contrastive", start=str(tmp_path / "mine"), settings={})
    assert torch.equal(task.network.log_scale, clip().network.log_scale)
    assert open_model(str(tmp_path / "mine")).card.name == "mine"
