from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from mmrag.train.objectives import contrastive  # noqa: E402
from mmrag.train.objectives.contrastive import info_nce, itc, multi_positive_nce, one_way_nce, ramp, sigmoid  # noqa: E402


def unit(n, d, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=-1)


def slow_info_nce(images, texts, scale, groups, smoothing=0.0):
    """Every probability written out, of the texts and pictures that are held against a row."""
    n, total = len(images), 0.0
    for mine, theirs in ((images, texts), (texts, images)):
        for i in range(n):
            against = [j for j in range(n) if j == i or groups[j] != groups[i]]
            weights = {j: math.exp(scale * float(mine[i] @ theirs[j])) for j in against}
            for j in against:
                wanted = (1 - smoothing) * (j == i) + smoothing / len(against)
                total -= wanted * math.log(weights[j] / sum(weights.values()))
    return total / (2 * n)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("groups", [range(5), [0, 1, 0, 2, 0]])
def test_info_nce_is_every_probability_written_out(groups, smoothing):
    images, texts = unit(5, 8, 0), unit(5, 8, 1)
    found = info_nce(images, texts, 3.0, groups=torch.tensor(list(groups)), label_smoothing=smoothing)
    assert float(found) == pytest.approx(slow_info_nce(images, texts, 3.0, list(groups), smoothing), abs=1e-10)


def test_knowing_nothing_costs_the_logarithm_of_the_batch():
    assert float(info_nce(unit(7, 4, 0), unit(7, 4, 1), 0.0)) == pytest.approx(math.log(7))


def test_a_group_is_not_held_against_itself():
    texts = unit(4, 8, 1)
    texts[3] = texts[0]  # two pictures of one thing
    assert float(info_nce(texts, texts, 100.0, groups=torch.tensor([0, 1, 2, 0]))) == pytest.approx(0.0, abs=1e-3)
    assert float(info_nce(texts, texts, 100.0)) == pytest.approx(math.log(2) / 2, abs=1e-3)


def test_a_batch_of_one_group_has_nothing_to_learn():
    images = unit(3, 8, 0).requires_grad_()
    loss = info_nce(images, unit(3, 8, 1), 50.0, groups=torch.zeros(3, dtype=torch.int64), label_smoothing=0.1)
    loss.backward()
    assert loss.item() == pytest.approx(0)
    assert images.grad.abs().max() == pytest.approx(0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradients_of_info_nce_are_finite_differences(smoothing):
    groups = torch.tensor([0, 1, 0, 2])
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    given = (unit(4, 3, 0).requires_grad_(), unit(4, 3, 1).requires_grad_(), scale)
    assert torch.autograd.gradcheck(lambda *a: info_nce(*a, groups=groups, label_smoothing=smoothing), given)


def test_parts_of_the_rows_make_up_the_whole():
    """The local loss of two processes: their mean is that of the joined batch, and so are their gradients."""
    images, texts, groups = unit(6, 8, 0), unit(6, 8, 1), torch.tensor([0, 1, 2, 0, 1, 3])
    whole = one_way_nce(images, texts, 7.0, row_groups=groups, column_groups=groups, label_smoothing=0.1)
    parts = [
        one_way_nce(
            images[first : first + 3], texts, 7.0,
            offset=first, row_groups=groups[first : first + 3], column_groups=groups, label_smoothing=0.1,
        )
        for first in (0, 3)
    ]  # fmt: skip
    assert float(whole) == pytest.approx(float(sum(parts)) / 2)
    sigmoids = [
        sigmoid(images[f : f + 3], texts, 7.0, -2.0, offset=f, image_groups=groups[f : f + 3], text_groups=groups)
        for f in (0, 3)
    ]
    joined = sigmoid(images, texts, 7.0, -2.0, image_groups=groups, text_groups=groups)
    assert float(joined) == pytest.approx(float(sum(sigmoids)) / 2)


def test_several_texts_of_an_image_share_its_target():
    images, texts = unit(2, 8, 0), unit(3, 8, 1)
    scores = (4.0 * images @ texts.T).tolist()

    def cost(row, positives):
        total = sum(map(math.exp, row))
        return -sum(math.log(math.exp(row[j]) / total) for j in positives) / len(positives)

    by_image = (cost(scores[0], [0, 2]) + cost(scores[1], [1])) / 2
    columns = list(zip(*scores, strict=True))
    by_text = (cost(columns[0], [0]) + cost(columns[1], [1]) + cost(columns[2], [0])) / 3
    groups = {"image_groups": torch.tensor([7, 9]), "text_groups": torch.tensor([7, 9, 7])}
    assert float(multi_positive_nce(images, texts, 4.0, **groups)) == pytest.approx((by_image + by_text) / 2)


def test_one_text_an_image_is_plain_info_nce():
    images, texts, rows = unit(5, 8, 0), unit(5, 8, 1), torch.arange(5)
    found = multi_positive_nce(images, texts, 9.0, image_groups=rows, text_groups=rows)
    assert float(found) == pytest.approx(float(info_nce(images, texts, 9.0)))


def slow_sigmoid(images, texts, scale, bias, groups):
    total = 0.0
    for i in range(len(images)):
        for j in range(len(texts)):
            sign = 1 if i == j else -1
            if i == j or groups[i] != groups[j]:
                total += math.log1p(math.exp(-sign * (scale * float(images[i] @ texts[j]) + bias)))
    return total / len(images)


@pytest.mark.parametrize("rows_at_once", [1, 2, 64])
@pytest.mark.parametrize("groups", [range(5), [0, 1, 0, 2, 0]])
def test_sigmoid_is_every_pair_written_out(groups, rows_at_once):
    images, texts, groups = unit(5, 8, 0), unit(5, 8, 1), torch.tensor(list(groups))
    found = sigmoid(images, texts, 10.0, -3.0, image_groups=groups, text_groups=groups, rows_at_once=rows_at_once)
    assert float(found) == pytest.approx(slow_sigmoid(images, texts, 10.0, -3.0, groups.tolist()))


def test_gradients_of_sigmoid_are_finite_differences():
    scale, bias = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (5.0, -2.0))
    given = (unit(4, 3, 0).requires_grad_(), unit(4, 3, 1).requires_grad_(), scale, bias)
    assert torch.autograd.gradcheck(lambda *a: sigmoid(*a, rows_at_once=3), given)


def test_nothing_of_the_batch_squared_is_kept_for_the_gradients():
    n = 64
    images, texts = unit(n, 4, 0).requires_grad_(), unit(n, 4, 1).requires_grad_()

    def kept(rows_at_once):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda one: sizes.append(one.numel()) or one, lambda one: one):
            contrastive.sigmoid(images, texts, 10.0, -3.0, rows_at_once=rows_at_once)
        return max(sizes, default=0)

    assert kept(8) <= n * 4
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: sizes.append(one.numel()) or one, lambda one: one):
        torch.nn.functional.logsigmoid(images @ texts.T).sum()  # the plain way does
    assert max(sizes) == n * n


def test_a_twins_belief_is_part_of_the_target():
    """ALBEF's equation 6, cell by cell, with two of four keys in the queue and one of those a positive."""
    images, texts, image_keys, text_keys = unit(2, 8, 0), unit(2, 8, 1), unit(4, 8, 2), unit(4, 8, 3)
    groups, key_groups, scale, alpha = torch.tensor([5, 6]), torch.tensor([5, 6, 8, 5]), 6.0, 0.3

    def softmax(row):
        return [math.exp(value) / sum(map(math.exp, row)) for value in row]

    total = 0.0
    for mine, twins, keys in ((images, image_keys, text_keys), (texts, text_keys, image_keys)):
        for i in range(2):
            said = softmax([scale * float(mine[i] @ key) for key in keys])
            believed = softmax([scale * float(twins[i] @ key) for key in keys])
            positives = [int(group == groups[i]) for group in key_groups]
            for j in range(4):
                target = alpha * believed[j] + (1 - alpha) * positives[j] / sum(positives)
                total -= target * math.log(said[j])
    keys = {"groups": groups, "key_groups": key_groups, "alpha": alpha}
    assert float(itc(images, texts, image_keys, text_keys, scale, **keys)) == pytest.approx(total / 4)


def test_without_queue_and_belief_itc_is_info_nce():
    images, texts, rows = unit(5, 8, 0), unit(5, 8, 1), torch.arange(5)
    found = itc(images, texts, images, texts, 9.0, groups=rows, key_groups=rows, alpha=0.0)
    assert float(found) == pytest.approx(float(info_nce(images, texts, 9.0)))


def test_the_twin_is_trusted_more_and_more():
    assert [ramp(0.4, done, epochs=2) for done in (0, 1, 2, 9)] == [0, 0.2, 0.4, 0.4]
