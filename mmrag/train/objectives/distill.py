"""How far a student's vectors are from a teacher's, which need not have the same dimension."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def cosine_distance(vectors: Tensor, teacher_vectors: Tensor) -> Tensor:
    """Mean of one minus the cosine between a student's and its teacher's vectors, from 0 to 2.

    Parameters
    ----------
    vectors, teacher_vectors : ``(n, d)``
        Of the same things, of any length.

    Examples
    --------
    >>> float(cosine_distance(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])))
    0.5
    """
    return (1 - F.cosine_similarity(vectors, teacher_vectors, dim=1)).mean()


def relational(
    rows: Tensor,
    columns: Tensor,
    teacher_rows: Tensor,
    teacher_columns: Tensor,
    *,
    scale: Tensor | float,
    teacher_scale: float,
) -> Tensor:
    """Order the columns by similarity to each row as a teacher does, whose space may be another.

    The divergence (Kullback-Leibler) of the student's softmax over the columns from the teacher's: contrastive
    relational distillation of CLIP-KD (https://arxiv.org/abs/2307.12732, equation 4).

    Parameters
    ----------
    rows, columns : ``(n, d)`` and ``(m, d)`` of unit length
        The student's, such as of pictures and of texts.
    teacher_rows, teacher_columns : ``(n, e)`` and ``(m, e)`` of unit length
        The teacher's, of the same things.
    scale, teacher_scale : scalar
        One over the temperature of each.

    Returns
    -------
    scalar
        Mean over the rows, in nats, at least 0.
    """
    said = (scale * rows @ columns.T).log_softmax(dim=1)
    with torch.no_grad():
        wanted = (teacher_scale * teacher_rows @ teacher_columns.T).log_softmax(dim=1)
    return F.kl_div(said, wanted, reduction="batchmean", log_target=True)
