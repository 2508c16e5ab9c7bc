from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from mmrag.train.objectives.language import IGNORED, hide_tokens, lm, mlm  # noqa: E402

IDS = torch.tensor([[8, 3, 4, 5], [8, 3, 6, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])


def random_logits():
    return torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def slow_lm(logits, prompt, smoothing):
    costs = []
    for row in range(2):
        for place in range(max(1, prompt), 4):
            if MASK[row, place]:
                said = [math.exp(value) for value in logits[row, place - 1].tolist()]
                logs = [math.log(value / sum(said)) for value in said]
                costs.append(-(1 - smoothing) * logs[IDS[row, place]] - smoothing * sum(logs) / 9)
    return sum(costs) / len(costs)


@pytest.mark.parametrize("prompt", [0, 1, 2, 3])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_lm_is_every_token_written_out(prompt, smoothing):
    logits = random_logits()
    found = lm(logits, IDS, MASK, prompt=prompt, label_smoothing=smoothing)
    assert float(found) == pytest.approx(slow_lm(logits, prompt, smoothing))


def test_nobody_learns_from_the_prompt_or_the_padding():
    logits = random_logits().requires_grad_()
    lm(logits, IDS, MASK, prompt=2).backward()
    learnt = logits.grad.abs().sum(dim=2) > 0
    assert learnt.tolist() == [[False, True, True, False], [False, True, False, False]]


def test_texts_that_are_all_prompt_cost_nothing():
    assert float(lm(random_logits(), IDS, MASK, prompt=4)) == 0


def test_a_share_is_hidden_in_the_three_ways():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(10, 1000, (400, 250), generator=generator)
    can_hide = torch.rand(ids.shape, generator=generator) < 0.5
    shown, labels = hide_tokens(ids, can_hide, mask_id=4, vocabulary=1000, generator=generator)
    asked = labels != IGNORED
    assert not (asked & ~can_hide).any()
    assert torch.equal(shown[~asked], ids[~asked])
    assert torch.equal(labels[asked], ids[asked])
    assert float(asked.sum() / can_hide.sum()) == pytest.approx(0.15, abs=0.01)
    assert float((shown[asked] == 4).float().mean()) == pytest.approx(0.8, abs=0.02)
    assert float((shown[asked] == ids[asked]).float().mean()) == pytest.approx(0.1, abs=0.02)


def test_mlm_asks_about_what_was_hidden_only():
    logits = random_logits()
    labels = torch.full((2, 4), IGNORED)
    labels[1, 2] = 6
    assert float(mlm(logits, labels)) == pytest.approx(-float(logits[1, 2].log_softmax(0)[6]))
