"""Losses as pure functions of vectors and scores, and the objectives by the names that recipes use."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Objective = Callable[..., Tensor]


def info_nce(
    image_vectors: Tensor,
    text_vectors: Tensor,
    scale: Tensor | float,
    *,
    label_smoothing: float = 0.0,
    groups: Tensor | None = None,
) -> Tensor:
    """Tell each image's own text from the other texts of the batch, and the reverse.

    The symmetric cross-entropy of ConVIRT (https://arxiv.org/abs/2010.00747) and CLIP
    (https://arxiv.org/abs/2103.00020, figure 3).

    Parameters
    ----------
    image_vectors, text_vectors : ``(n, d)`` of unit length
        Row i of one belongs to row i of the other.
    scale : scalar
        One over the temperature.
    label_smoothing : float from 0 to 1
        Share of the target spread evenly over the batch.
    groups : integers ``(n,)`` or None
        Rows of one group mean the same thing and are not held against each other.

    Returns
    -------
    scalar
        Mean over the batch and both directions, in nats.

    Examples
    --------
    >>> vectors = torch.eye(4)
    >>> round(float(info_nce(vectors, vectors, 0.0)), 4)  # blind: the logarithm of 4
    1.3863
    >>> round(float(info_nce(vectors, vectors, 100.0)), 4)
    0.0
    """
    scores = scale * image_vectors @ text_vectors.T  # (images, texts)
    if groups is not None:
        same = groups[:, None] == groups[None, :]
        same.fill_diagonal_(False)
        # not -inf, of which label smoothing would make an infinite loss
        scores = torch.where(same, scores.amin().detach(), scores)
    own = torch.arange(len(scores), device=scores.device)
    image_to_text = F.cross_entropy(scores, own, label_smoothing=label_smoothing)
    text_to_image = F.cross_entropy(scores.T, own, label_smoothing=label_smoothing)
    return (image_to_text + text_to_image) / 2


OBJECTIVES: dict[str, Objective] = {"info_nce": info_nce}
