"""The loop, with two linear towers on drawn pictures."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from safetensors.torch import load_file  # noqa: E402

from mmrag.errors import InputError, TrainingError  # noqa: E402
from mmrag.sources.pairs import Pair  # noqa: E402
from mmrag.train.loop import fit  # noqa: E402
from mmrag.train.recipe import DataPart, LoopPart, OptimizerPart, TrainRecipe  # noqa: E402
from tests.train.toy_task import HELD_OUT, PAIRS, RegressionTask, ToyTask  # noqa: E402

RECIPE = TrainRecipe(
    task="toy",
    start="nowhere",
    data=DataPart(batch_size=12),
    optimizer=OptimizerPart(learning_rate=3e-3, weight_decay=0.01),
    loop=LoopPart(epochs=8, average=0.8),
)


def changed(**parts):
    """Give `RECIPE` with other values: changed(loop={"epochs": 2})."""
    made = {name: dataclasses.replace(getattr(RECIPE, name), **values) for name, values in parts.items()}
    return dataclasses.replace(RECIPE, **made)


def weights(out):
    return load_file(out / "model.safetensors")


def entries(out, kind):
    return [entry for entry in map(json.loads, (out / "log.jsonl").read_text().splitlines()) if entry["kind"] == kind]


def assert_same(one, other, **tolerance):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], **(tolerance or {"atol": 0, "rtol": 0}))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "trained"
    told = []
    report = fit(ToyTask(normed=True), PAIRS, val=HELD_OUT, out=out, recipe=RECIPE, reporter=told.append)
    return out, report, told


def test_it_learns_what_it_did_not_see(trained):
    _, report, _ = trained
    assert report.start_figures["text_to_image"]["R@1"] <= 25  # chance: 8
    assert report.figures["text_to_image"]["R@1"] >= 75
    assert (report.epochs, report.steps) == (8, 32)


def test_shuffled_texts_teach_nothing(tmp_path):
    order = np.random.default_rng(0).permutation(len(PAIRS))
    shuffled = [Pair(pair.id, pair.image, PAIRS[row].texts) for pair, row in zip(PAIRS, order, strict=True)]
    report = fit(ToyTask(normed=True), shuffled, val=HELD_OUT, out=tmp_path / "out", recipe=RECIPE)
    assert report.figures["text_to_image"]["R@1"] <= 40


def test_the_best_epoch_is_kept_and_written(trained):
    out, report, _ = trained
    epochs = entries(out, "epoch")
    scores = [entry["figures"]["text_to_image"]["R@1"] + entry["figures"]["image_to_text"]["R@1"] for entry in epochs]
    assert [entry["epoch"] for entry in epochs] == list(range(9))
    assert report.epoch == int(np.argmax(scores))
    task = ToyTask(normed=True)
    task.network.load_state_dict(weights(out))
    task.network.eval()
    assert task.measure(HELD_OUT) == report.figures


def test_the_log_has_every_step_and_the_reporter_hears_it(trained):
    out, _, told = trained
    steps = entries(out, "step")
    assert [entry["step"] for entry in steps] == list(range(1, 33))
    assert {"loss", "temperature", "learning_rate", "gradient_norm", "samples_per_second"} <= steps[0].keys()
    assert steps[-1]["loss"] < steps[0]["loss"] / 2
    written = list(map(json.loads, (out / "log.jsonl").read_text().splitlines()))
    assert [(entry["kind"], entry["step"]) for entry in told] == [(entry["kind"], entry["step"]) for entry in written]


def test_nothing_of_the_run_is_left_but_model_log_and_plots(trained):
    out, _, _ = trained
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "log.jsonl", "training.html", "training.png"}


def test_measuring_changes_nothing(tmp_path):
    once = changed(loop={"epochs": 2})
    with_val, without = tmp_path / "a", tmp_path / "b"
    fit(ToyTask(dropout=0.2), PAIRS, val=HELD_OUT, out=with_val, recipe=once)
    fit(ToyTask(dropout=0.2), PAIRS, out=without, recipe=once)
    losses = [[entry["loss"] for entry in entries(out, "step")] for out in (with_val, without)]
    assert losses[0] == losses[1]


def test_parts_have_the_gradients_of_the_whole_where_the_loss_is_a_mean(tmp_path):
    for parts in (1, 3):
        fit(RegressionTask(), PAIRS, out=tmp_path / str(parts), recipe=changed(loop={"accumulate": parts, "epochs": 2}))
    assert_same(weights(tmp_path / "1"), weights(tmp_path / "3"), atol=1e-5, rtol=1e-4)
    one, three = (entries(tmp_path / name, "step") for name in ("1", "3"))
    assert [entry["half"] for entry in one] == pytest.approx([entry["half"] for entry in three], rel=1e-3)


def test_grad_cache_trains_as_the_whole_batch_does(tmp_path):
    whole, cached = ToyTask(), ToyTask()
    fit(whole, PAIRS, out=tmp_path / "whole", recipe=changed(loop={"epochs": 2}))
    fit(cached, PAIRS, out=tmp_path / "cached", recipe=changed(loop={"epochs": 2, "grad_cache": 4}))
    assert (whole.largest_part, cached.largest_part) == (12, 4)
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "cached"), atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_too(tmp_path, precision):
    recipe = changed(loop={"precision": precision})
    report = fit(ToyTask(), PAIRS, val=HELD_OUT, out=tmp_path / "out", recipe=recipe)
    assert report.figures["text_to_image"]["R@1"] >= 60
    assert all(tensor.dtype == torch.float32 for tensor in weights(tmp_path / "out").values())


def test_a_run_without_progress_ends_early_and_keeps_the_start(tmp_path):
    recipe = changed(optimizer={"learning_rate": 1e-12}, loop={"patience": 2})
    report = fit(ToyTask(), PAIRS, val=HELD_OUT, out=tmp_path / "out", recipe=recipe)
    assert (report.epoch, report.epochs) == (0, 2)
    assert report.figures == report.start_figures


def test_the_towers_kept_lie_part_of_the_way(tmp_path):
    start = ToyTask().network.state_dict()
    kept = {}
    for share in (1.0, 0.25):
        out = tmp_path / str(share)
        fit(ToyTask(), PAIRS, out=out, recipe=changed(loop={"epochs": 1, "tower_share": share, "average": 0.0}))
        kept[share] = weights(out)
    for name, tensor in kept[0.25].items():
        way = 1.0 if name.startswith("image.4") else 0.25  # the head is fresh
        torch.testing.assert_close(tensor, start[name] + way * (kept[1.0][name] - start[name]))


def test_a_loss_that_is_no_number_ends_the_run_and_says_what_to_try(tmp_path):
    task = ToyTask()
    task.poison_from = 5
    with pytest.raises(TrainingError, match=r"step 15: try a lower optimizer.learning_rate than 0.003"):
        fit(task, PAIRS, out=tmp_path / "out", recipe=RECIPE)
    assert all(tensor.isfinite().all() for tensor in task.network.state_dict().values())


def test_a_used_folder_is_refused(trained, tmp_path):
    out, _, _ = trained
    with pytest.raises(InputError, match="is not empty"):
        fit(ToyTask(), PAIRS, out=out, recipe=RECIPE)
    with pytest.raises(InputError, match="is finished"):
        fit(ToyTask(), PAIRS, out=out, recipe=RECIPE, resume=True)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty"):
        fit(ToyTask(), PAIRS, out=tmp_path, recipe=RECIPE, resume=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_batches_that_cannot_be_divided_are_refused(tmp_path):
    with pytest.raises(InputError, match="multiple of 5"):
        fit(ToyTask(), PAIRS, out=tmp_path / "a", recipe=changed(loop={"accumulate": 5}))
    with pytest.raises(InputError, match="1 pairs are too few"):
        fit(ToyTask(), PAIRS[:1], out=tmp_path / "b", recipe=RECIPE)


def test_grad_cache_is_for_losses_of_vectors(tmp_path):
    with pytest.raises(InputError, match=r"loop\.grad_cache"):
        fit(RegressionTask(), PAIRS, out=tmp_path / "out", recipe=changed(loop={"grad_cache": 4}))


def test_what_cannot_compute_activations_again_says_so(tmp_path):
    with pytest.raises(InputError, match=r"set loop\.checkpoint_gradients"):
        fit(ToyTask(), PAIRS, out=tmp_path / "out", recipe=changed(loop={"checkpoint_gradients": True}))


def test_too_little_memory_says_what_to_change(tmp_path, monkeypatch):
    def full(self, batch, moment):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nand more")

    monkeypatch.setattr(ToyTask, "losses", full)
    with pytest.raises(TrainingError, match=r"loop\.grad_cache.*Tried to allocate 2\.00 GiB\.\)$"):
        fit(ToyTask(), PAIRS, out=tmp_path / "out", recipe=RECIPE)


def test_a_device_that_is_not_here_is_named(tmp_path):
    with pytest.raises(InputError, match="torch cannot compute on 'nowhere' here"):
        fit(ToyTask(), PAIRS, out=tmp_path / "out", recipe=RECIPE, device="nowhere")
    assert not (tmp_path / "out").exists()
