"""GradCache's gradients are the whole batch's."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

import numpy as np  # noqa: E402

from mmrag.train.gradcache import cached_backward, parts, random_state, set_random_state  # noqa: E402
from mmrag.train.task import Moment  # noqa: E402
from tests.train.toy_task import PAIRS, ToyTask  # noqa: E402

MOMENT = Moment(0, 1, 1, 1)


def batch_of(task, count=11):
    return task.collate([task.prepare(pair, np.random.default_rng(row)) for row, pair in enumerate(PAIRS[:count])])


def gradients(task):
    return {name: parameter.grad for name, parameter in task.network.named_parameters()}


@pytest.mark.parametrize("objective", ["info_nce", "sigmoid"])
@pytest.mark.parametrize("size", [1, 4, 11, 50])
def test_gradients_equal_those_of_the_whole_batch(objective, size):
    whole, cached = ToyTask(objective=objective), ToyTask(objective=objective)
    batch = batch_of(whole)
    expected = whole.losses(batch, MOMENT)
    expected["loss"].backward()
    losses = cached_backward(cached, batch, MOMENT, size=size)
    torch.testing.assert_close(losses["loss"], expected["loss"].detach())
    assert cached.largest_part == min(size, 11)
    for name, gradient in gradients(cached).items():
        torch.testing.assert_close(gradient, gradients(whole)[name], atol=1e-5, rtol=1e-5, msg=name)
        assert gradient.abs().max() > 1e-6, name


class PartByPart(ToyTask):
    """Embeds the whole batch in parts with one graph: what GradCache must equal when dropout is on."""

    def embed(self, batch):
        vectors = [super(PartByPart, self).embed(part) for part in parts(batch, 4)]
        return tuple(torch.cat(side) for side in zip(*vectors, strict=True))


def test_dropout_draws_the_same_in_both_passes():
    whole, cached = PartByPart(dropout=0.4), ToyTask(dropout=0.4)
    batch = batch_of(whole)
    before = random_state(torch.device("cpu"))
    whole.losses(batch, MOMENT)["loss"].backward()
    after = random_state(torch.device("cpu"))["cpu"]
    set_random_state(before)
    cached_backward(cached, batch, MOMENT, size=4)
    for name, gradient in gradients(cached).items():
        torch.testing.assert_close(gradient, gradients(whole)[name], atol=1e-5, rtol=1e-5, msg=name)
    assert torch.equal(after, random_state(torch.device("cpu"))["cpu"])  # and goes on as if it had drawn once


def test_a_frozen_tower_gets_no_gradient():
    task = ToyTask()
    task.network.image.requires_grad_(False)
    cached_backward(task, batch_of(task), MOMENT, size=4)
    assert all(parameter.grad is None for parameter in task.network.image.parameters())
    assert task.network.text[0].weight.grad.abs().max() > 0


def test_the_loss_is_scaled_before_it_goes_back():
    plain, scaled = ToyTask(), ToyTask()
    batch = batch_of(plain)
    cached_backward(plain, batch, MOMENT, size=4)
    cached_backward(scaled, batch, MOMENT, size=4, scale=lambda loss: loss * 8)
    for name, gradient in gradients(scaled).items():
        torch.testing.assert_close(gradient, gradients(plain)[name] * 8)


def test_parts_cut_what_has_a_row_for_each_sample():
    batch = {"groups": torch.arange(5), "text": {"ids": torch.arange(10).view(5, 2)}, "names": list("abcde"), "size": 7}
    first, second = parts(batch, 3)
    assert first["text"]["ids"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert (second["names"], second["size"], second["groups"].tolist()) == (["d", "e"], 7, [3, 4])
