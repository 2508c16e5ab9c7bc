from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from mmrag.train.objectives.distill import cosine_distance, relational  # noqa: E402


def unit(n, d, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=-1)


def test_a_distance_is_blind_to_length_and_sees_direction():
    teacher = unit(5, 4, 0)
    assert float(cosine_distance(3 * teacher, teacher)) == pytest.approx(0)
    assert float(cosine_distance(-teacher, teacher)) == pytest.approx(2)


def test_relations_are_every_divergence_written_out():
    rows, columns, teacher_rows, teacher_columns = unit(2, 4, 0), unit(3, 4, 1), unit(2, 6, 2), unit(3, 6, 3)

    def softmax(row, others, scale):
        weights = [math.exp(scale * float(row @ other)) for other in others]
        return [weight / sum(weights) for weight in weights]

    total = 0.0
    for row, teacher_row in zip(rows, teacher_rows, strict=True):
        said, wanted = softmax(row, columns, 5.0), softmax(teacher_row, teacher_columns, 8.0)
        total += sum(q * math.log(q / p) for p, q in zip(said, wanted, strict=True))
    given = (rows, columns, teacher_rows, teacher_columns)
    assert float(relational(*given, scale=5.0, teacher_scale=8.0)) == pytest.approx(total / 2)


def test_a_space_turned_around_has_the_same_relations():
    teacher = unit(6, 4, 0)
    turned = teacher @ torch.linalg.qr(unit(4, 4, 1))[0]
    same = relational(turned, turned, teacher, teacher, scale=9.0, teacher_scale=9.0)
    assert float(same) == pytest.approx(0, abs=1e-9)
    assert float(cosine_distance(turned, teacher)) > 0.1


def test_the_teacher_is_not_taught():
    teacher, student = unit(3, 4, 0).requires_grad_(), unit(3, 4, 1).requires_grad_()
    relational(student, student, teacher, teacher, scale=9.0, teacher_scale=9.0).backward()
    assert teacher.grad is None
    assert student.grad.abs().max() > 0
