"""Training a network that is too small to be useful on pictures that are too simple to be real."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="needs the train extra")

from safetensors.torch import load_file  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402

from mmrag.errors import InputError, ModelError  # noqa: E402
from mmrag.models.preprocess import Preprocessing  # noqa: E402
from mmrag.models.towers import (  # noqa: E402
    BertConfig,
    BertTextTower,
    DualEncoder,
    EfficientNetLite,
    EfficientNetLiteConfig,
)
from mmrag.sources.pairs import Pair  # noqa: E402
from mmrag.train import Augmentation, Start, load_start  # noqa: E402
from mmrag.train.builtin_loop import make_optimizer, mix_towers, one_cycle, train, update_average  # noqa: E402
from mmrag.train.builtin_recipe import TrainRecipe  # noqa: E402
from mmrag.train.concepts import TEXTS_PER_CLASS, Concepts, class_names, class_texts  # noqa: E402

COLOURS = {"red": (250, 30, 20), "green": (20, 200, 40), "blue": (20, 40, 240), "yellow": (240, 230, 30)}
PLACES = {"left": (0, 0, 16, 32), "right": (16, 0, 32, 32), "top": (0, 0, 32, 16)}


def picture(colour, place):
    image = Image.new("RGB", (32, 32), (128, 128, 128))
    image.paste(colour, place)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


PAIRS = [
    Pair(f"{colour}-{place}", picture(rgb, box), (f"{colour} {place}", f"a {colour} area {place}"))
    for colour, rgb in COLOURS.items()
    for place, box in PLACES.items()
]
RECIPE = TrainRecipe(
    frozen_stages=3,
    epochs=15,
    batch_size=12,
    learning_rate=3e-3,
    tower_learning_rate=1e-3,
    average=0.5,
    tower_share=0.8,
    augmentation=Augmentation(crop=0.9, jitter=0.1, flip=False),
)


def small_start(classifier=None):
    torch.manual_seed(1)
    words = ["[UNK]", "a", "area", "photo", "of", *COLOURS, *PLACES]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    image = EfficientNetLite(EfficientNetLiteConfig(width=0.25, depth=0.5, features=64))
    text = BertTextTower(BertConfig(vocabulary=len(words), dimension=32, layers=1, heads=2, hidden=64))
    for parameter in image.parameters():  # keep the signal alive through layers that nobody has trained
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    for parameter in text.words.parameters():
        parameter.data *= 3
    preprocessing = Preprocessing(32, 32, 3, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return Start(DualEncoder(image, text), tokenizer.to_str(), preprocessing, max_tokens=8, classifier=classifier)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    start = small_start()
    before = {name: tensor.clone() for name, tensor in start.network.state_dict().items()}
    out = tmp_path_factory.mktemp("trained")
    seen = []
    report = train(PAIRS, val=PAIRS, out=out, start=start, recipe=RECIPE, progress=lambda *done: seen.append(done))
    return out, before, report, seen


def test_it_learns(trained):
    out, _, report, seen = trained
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in log] == list(range(1, 16))
    assert log[-1]["loss"] < log[0]["loss"] / 2
    assert report.figures["text_to_image"]["R@1"] >= 50  # chance: 8
    assert seen[-1] == (180, 180)
    best = max((e["text_to_image"]["R@1"] + e["image_to_text"]["R@1"], -e["epoch"]) for e in log)
    assert report.epoch == -best[1]
    assert not report.interrupted


def test_what_is_frozen_stays_and_the_rest_moves(trained):
    _, before, report, _ = trained
    frozen = ("text.", "image.stages.0.", "image.stages.1.", "image.stages.2.")
    for name, tensor in report.network.state_dict().items():
        assert torch.equal(tensor, before[name]) == name.startswith(frozen), name


def test_the_weights_on_disk_are_the_ones_reported(trained):
    out, _, report, _ = trained
    stored = load_file(out / "weights.safetensors")
    expected = report.network.state_dict()
    assert stored.keys() == expected.keys()
    for name, tensor in stored.items():
        assert tensor.dtype == torch.float16
        torch.testing.assert_close(tensor, expected[name].half())


def test_the_same_seed_gives_the_same_weights(tmp_path):
    short = dataclasses.replace(RECIPE, epochs=2)
    runs = [train(PAIRS, out=tmp_path / str(i), start=small_start(), recipe=short, threads=1 + i) for i in range(2)]
    other = train(PAIRS, out=tmp_path, start=small_start(), recipe=dataclasses.replace(short, seed=1))
    first, again, another = (run.network.head.project.weight for run in (*runs, other))
    torch.testing.assert_close(first, again, atol=1e-6, rtol=1e-5)
    assert (first - another).abs().max() > 1e-3


def test_without_validation_the_last_epoch_is_kept(tmp_path):
    report = train(PAIRS, out=tmp_path, start=small_start(), recipe=dataclasses.replace(RECIPE, epochs=2))
    assert (report.epoch, report.figures) == (2, {})


def test_a_text_tower_can_be_trained_too(tmp_path):
    start = small_start()
    before = start.network.text.words.weight.clone()
    recipe = dataclasses.replace(RECIPE, epochs=1, train_text=True)
    report = train(PAIRS, out=tmp_path, start=start, recipe=recipe)
    assert (report.network.text.words.weight - before).abs().max() > 1e-5


def test_ctrl_c_keeps_what_was_learnt(tmp_path):
    def stop(done, _):
        if done >= 36:
            raise KeyboardInterrupt

    start = small_start()
    before = start.network.head.project.weight.clone()
    report = train(PAIRS, out=tmp_path, start=start, recipe=RECIPE, progress=stop)
    assert report.interrupted
    assert (report.network.head.project.weight - before).abs().max() > 1e-4
    assert (tmp_path / "weights.safetensors").is_file()


def test_a_classifier_adds_pairs(tmp_path):
    start = small_start(classifier=torch.randn(1000, 64))
    recipe = dataclasses.replace(RECIPE, epochs=1, concepts=8)
    report = train(PAIRS, out=tmp_path, start=start, recipe=recipe)
    plain = train(PAIRS, out=tmp_path, start=small_start(), recipe=recipe)
    assert (report.network.head.project.weight - plain.network.head.project.weight).abs().max() > 1e-5


def test_a_concept_comes_with_its_own_names():
    assert len(class_names()) == 1000
    assert class_names()[281] == ("tabby cat", "cat")
    texts = class_texts()
    vectors = torch.arange(len(texts)).float()[:, None].expand(-1, 4)
    features, names, classes = Concepts(torch.randn(1000, 16), vectors).sample(50, torch.Generator().manual_seed(0))
    assert features.shape == (50, 16, 1, 1)
    for vector, index in zip(names, classes.tolist(), strict=True):
        text = texts[int(vector[0])]
        assert int(vector[0]) // TEXTS_PER_CLASS == index
        assert any(words in text for words in class_names()[index])


def test_rates_rise_and_fall():
    rates = [one_cycle(step, 100, warmup=0.2) for step in range(101)]
    assert np.argmax(rates) == 20
    assert rates[0] == pytest.approx(0.04)
    assert rates[20] == 1
    assert rates[100] == pytest.approx(0)
    assert one_cycle(0, 1, warmup=0) == 1


def test_vectors_are_not_decayed():
    network = small_start().network
    scale = torch.nn.Parameter(torch.tensor(1.0))
    groups = make_optimizer(network, scale, dataclasses.replace(RECIPE, weight_decay=0.1)).param_groups
    for group in groups:
        assert all((parameter.ndim > 1) == (group["weight_decay"] > 0) for parameter in group["params"])
    trained = {id(parameter) for group in groups for parameter in group["params"]}
    wanted = [*network.image.stages[3:].parameters(), *network.head.parameters(), scale]
    assert trained == {id(parameter) for parameter in wanted}


def test_an_average_moves_by_what_does_not_stay():
    average, network = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    torch.nn.init.constant_(average.weight, 1.0)
    torch.nn.init.constant_(network.weight, 2.0)
    update_average(average, network, share=0.75)
    assert average.weight.item() == pytest.approx(1.25)


def test_towers_go_part_of_the_way_and_the_head_all_of_it():
    origin, trained = small_start().network, small_start().network
    for parameter in trained.parameters():
        parameter.data += 1
    mixed = mix_towers(origin, trained, share=0.25)
    for name, parameter in mixed.named_parameters():
        moved = 1.0 if name.startswith("head") else 0.25
        torch.testing.assert_close(parameter, origin.get_parameter(name) + moved)


@pytest.mark.parametrize(
    "wrong",
    [
        {"objective": "clip"},
        {"frozen_stages": 10},
        {"epochs": 0},
        {"learning_rate": 0},
        {"average": 1},
        {"tower_share": 2},
        {"seed": -1},
    ],
)
def test_recipes_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong)).split("_")[0]):
        TrainRecipe(**wrong)


def test_a_start_that_is_none_says_so(tmp_path):
    with pytest.raises(ModelError):
        load_start(str(tmp_path))
