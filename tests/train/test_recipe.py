from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs the train extra")

from mmrag.errors import RecipeError
from mmrag.recipe import recipe_folder
from mmrag.train.recipe import TrainRecipe, load_recipe, read_change

WRITTEN = """
task = "contrastive"
start = "clip-vit-b32"
[settings]
objective = "info_nce"
[settings.augmentation]
crop = 0.8
[data]
batch_size = 64
[optimizer]
learning_rate = 1e-4
betas = [0.9, 0.999]
[loop]
precision = "bf16"
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(WRITTEN)
    return str(file)


def test_tables_become_parts(path):
    recipe = load_recipe(path)
    assert (recipe.task, recipe.start, recipe.data.batch_size, recipe.loop.precision) == (
        *("contrastive", "clip-vit-b32", 64, "bf16"),
    )
    assert recipe.optimizer.betas == (0.9, 0.999)
    assert recipe.settings == {"objective": "info_nce", "augmentation": {"crop": 0.8}}
    assert recipe.loop.epochs == TrainRecipe("a", "b").loop.epochs


def test_changes_take_the_place_of_what_is_written(path):
    changes = {
        "loop.epochs": 3,
        "settings.augmentation.crop": 0.5,
        "start": "./mine",
        "optimizer.schedule": "one_cycle",
    }
    recipe = load_recipe(path, changes=changes)
    assert (recipe.loop.epochs, recipe.start, recipe.optimizer.schedule) == (3, "./mine", "one_cycle")
    assert recipe.settings["augmentation"] == {"crop": 0.5}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("loop.epochs=3", ("loop.epochs", 3)),
        ("optimizer.betas=[0.8, 0.9]", ("optimizer.betas", [0.8, 0.9])),
        ("loop.checkpoint_gradients = true", ("loop.checkpoint_gradients", True)),
        ("start=./my-model", ("start", "./my-model")),
        ('start="1"', ("start", "1")),
    ],
)
def test_changes_are_written_as_in_toml(written, read):
    assert read_change(written) == read


@pytest.mark.parametrize("written", ["loop.epochs", "=3", "loop..epochs=3"])
def test_what_is_no_change_is_refused(written):
    with pytest.raises(RecipeError, match=r"KEY=VALUE, such as optimizer\.learning_rate=1e-4"):
        read_change(written)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer.learning_rat": 1}, r"unknown key 'learning_rat' \(did you mean 'learning_rate'\?\)"),
        ({"task.name": 1}, "task is no table, it is 'contrastive'"),
        ({"loop.precision": "int4"}, "precision must be one of 'fp32', 'bf16', 'fp16', not 'int4'"),
        ({"loop.epochs": 0}, "epochs must be at least 1, not 0"),
        ({"data.batch_size": "big"}, "batch_size must be int, not 'big'"),
        ({"data.seed": -1}, "seed must be at least 0, not -1"),
        ({"optimizer.learning_rate": 0.0}, "learning_rate and fresh_learning_rate must be above 0"),
        ({"optimizer.fresh_learning_rate": 0.0}, "learning_rate and fresh_learning_rate must be above 0"),
        ({"optimizer.layer_decay": 1.5}, "layer_decay must be above 0 and at most 1, not 1.5"),
        ({"optimizer.betas": [0.9]}, "betas must be two numbers"),
        ({"optimizer.warmup": 1.0}, "warmup must be from 0 to below 1, not 1.0"),
        ({"optimizer.clip_norm": -1.0}, "clip_norm must be at least 0"),
        ({"loop.average": 1.0}, "average must be from 0 to below 1"),
        ({"loop.tower_share": 0.0}, "tower_share must be above 0 and at most 1"),
        ({"loop.grad_cache": 8, "loop.accumulate": 2}, "set accumulate = 1"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(path, changes, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(path, changes=changes)


def test_a_name_that_does_not_ship_is_refused():
    with pytest.raises(RecipeError, match=r"there is no recipe 'nonsense' in trainers/.*a path must end in \.toml"):
        load_recipe("nonsense")


def test_what_ships_loads():
    for path in recipe_folder("trainers").glob("*.toml"):
        assert load_recipe(path.stem).task, path
