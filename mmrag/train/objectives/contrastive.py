"""Telling a picture's own text from others: InfoNCE, pairwise sigmoid, and ITC with a momentum encoder's targets."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

ROWS_AT_ONCE = 1024


def info_nce(
    image_vectors: Tensor,
    text_vectors: Tensor,
    scale: Tensor | float,
    *,
    label_smoothing: float = 0.0,
    groups: Tensor | None = None,
) -> Tensor:
    """Tell each image's own text from the other texts of the batch, and the reverse.

    The symmetric cross-entropy of ConVIRT (https://arxiv.org/abs/2010.00747, equations 2 and 3) and CLIP
    (https://arxiv.org/abs/2103.00020, figure 3).

    Parameters
    ----------
    image_vectors, text_vectors : ``(n, d)`` of unit length
        Row i of one belongs to row i of the other.
    scale : scalar
        One over the temperature.
    label_smoothing : float from 0 to 1
        Share of the target spread evenly over the batch.
    groups : int64 ``(n,)`` or None
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
    >>> round(float(info_nce(vectors, vectors, 10.0)), 4)
    0.0001
    """
    image_to_text = one_way_nce(
        image_vectors, text_vectors, scale, label_smoothing=label_smoothing, row_groups=groups, column_groups=groups
    )
    text_to_image = one_way_nce(
        text_vectors, image_vectors, scale, label_smoothing=label_smoothing, row_groups=groups, column_groups=groups
    )
    return (image_to_text + text_to_image) / 2


def one_way_nce(
    rows: Tensor,
    columns: Tensor,
    scale: Tensor | float,
    *,
    offset: int = 0,
    label_smoothing: float = 0.0,
    row_groups: Tensor | None = None,
    column_groups: Tensor | None = None,
) -> Tensor:
    """Find each row's own column among all columns: one direction of `info_nce`.

    Of several processes, each holds its own rows against the columns of all ("local loss"): the mean over the
    processes is the loss of the joined batch, and no process ever holds a matrix of the joined batch's size squared.

    Parameters
    ----------
    rows : ``(n, d)`` of unit length
        This process's.
    columns : ``(m, d)`` of unit length
        Of all processes, in their order.
    scale : scalar
        One over the temperature.
    offset : int
        Row i belongs to column ``offset + i``.
    label_smoothing : float from 0 to 1
        Share of the target spread evenly over the columns that a row is held against, its own included.
    row_groups, column_groups : int64 ``(n,)`` and ``(m,)``, or None
        A row is not held against the other columns of its group.

    Returns
    -------
    scalar
        Mean over the rows, in nats.
    """
    own = torch.arange(offset, offset + len(rows), device=rows.device)
    scores = scale * rows @ columns.T  # (n, m)
    allowed = _allowed(own, len(columns), row_groups, column_groups)
    log_shares = scores.masked_fill(~allowed, -torch.inf).log_softmax(dim=1)
    loss = -log_shares.gather(1, own[:, None]).mean()
    if label_smoothing:
        # no share of the target falls on what is left out, whose share of the prediction is zero
        spread = -log_shares.masked_fill(~allowed, 0.0).sum(dim=1) / allowed.sum(dim=1)
        loss = (1 - label_smoothing) * loss + label_smoothing * spread.mean()
    return loss


def multi_positive_nce(
    image_vectors: Tensor,
    text_vectors: Tensor,
    scale: Tensor | float,
    *,
    image_groups: Tensor,
    text_groups: Tensor,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Find all texts of each of n images among m texts, and the images of each text.

    The target is spread evenly over a row's positives, as ALBEF is fine-tuned for retrieval
    (https://arxiv.org/abs/2107.07651, appendix A) and UniCL is trained (https://arxiv.org/abs/2204.03610,
    equations 2 and 3). With one text an image it is `info_nce`.

    Parameters
    ----------
    image_vectors, text_vectors : ``(n, d)`` and ``(m, d)`` of unit length
        Every row needs a positive among the others' rows.
    scale : scalar
        One over the temperature.
    image_groups, text_groups : int64 ``(n,)`` and ``(m,)``
        A text belongs to the images of its group.
    label_smoothing : float from 0 to 1
        Share of the target spread evenly over all columns.

    Returns
    -------
    scalar
        Mean over the rows of both directions, in nats.
    """
    scores = scale * image_vectors @ text_vectors.T  # (n, m)
    positives = (image_groups[:, None] == text_groups[None, :]).to(scores.dtype)

    def one_way(scores: Tensor, positives: Tensor) -> Tensor:
        spread = label_smoothing / scores.shape[1]
        return soft_cross_entropy(scores, (1 - label_smoothing) * _shares(positives) + spread)

    return (one_way(scores, positives) + one_way(scores.T, positives.T)) / 2


def sigmoid(
    image_vectors: Tensor,
    text_vectors: Tensor,
    scale: Tensor | float,
    bias: Tensor | float,
    *,
    offset: int = 0,
    image_groups: Tensor | None = None,
    text_groups: Tensor | None = None,
    rows_at_once: int = ROWS_AT_ONCE,
) -> Tensor:
    """Judge each pair of an image and a text by itself.

    SigLIP (https://arxiv.org/abs/2303.15343, equation 1 and section 3.3). A part of the images is judged at a time,
    and judged again for the gradients, so that memory grows with the batch and not with its square.

    Parameters
    ----------
    image_vectors, text_vectors : ``(n, d)`` and ``(m, d)`` of unit length
        Image i belongs to text ``offset + i``.
    scale, bias : scalar
        A pair's logit is the cosine times `scale` plus `bias`.
    offset : int
        Where this process's texts begin among those of all.
    image_groups, text_groups : int64 ``(n,)`` and ``(m,)``, or None
        A pair within a group that is not an image's own is not judged.
    rows_at_once : int
        How many images are judged at a time.

    Returns
    -------
    scalar
        Sum over the pairs divided by n, in nats.

    Examples
    --------
    >>> vectors = torch.eye(4)
    >>> round(float(sigmoid(vectors, vectors, 0.0, 0.0)), 4)  # four coins an image: 4 × the logarithm of 2
    2.7726
    """
    own = torch.arange(offset, offset + len(image_vectors), device=image_vectors.device)
    total = image_vectors.new_zeros(())
    for first in range(0, len(image_vectors), rows_at_once):
        some = slice(first, first + rows_at_once)
        groups = None if image_groups is None else image_groups[some]
        total = total + checkpoint(
            _sigmoid_sum, image_vectors[some], text_vectors, scale, bias, own[some], groups, text_groups,
            use_reentrant=False,
        )  # fmt: skip
    return total / len(image_vectors)


def _sigmoid_sum(
    rows: Tensor,
    columns: Tensor,
    scale: Tensor | float,
    bias: Tensor | float,
    own: Tensor,
    row_groups: Tensor | None,
    column_groups: Tensor | None,
) -> Tensor:
    sign = -torch.ones(len(rows), len(columns), dtype=rows.dtype, device=rows.device)
    sign.scatter_(1, own[:, None], 1.0)
    log_likelihoods = F.logsigmoid(sign * (scale * rows @ columns.T + bias))
    return -log_likelihoods.masked_fill(~_allowed(own, len(columns), row_groups, column_groups), 0.0).sum()


def itc(
    image_vectors: Tensor,
    text_vectors: Tensor,
    image_keys: Tensor,
    text_keys: Tensor,
    scale: Tensor | float,
    *,
    groups: Tensor,
    key_groups: Tensor,
    alpha: float,
) -> Tensor:
    """Tell texts and images apart as a slower twin of the network does, which forgives what a caption leaves out.

    The image–text contrastive loss of ALBEF (https://arxiv.org/abs/2107.07651, equation 6) and BLIP
    (https://arxiv.org/abs/2201.12086, section 3.2). The target is `alpha` of what the twin believes and the rest
    spread evenly over the keys of a row's own group.

    Parameters
    ----------
    image_vectors, text_vectors : ``(n, d)`` of unit length
        The network's.
    image_keys, text_keys : ``(m, d)`` of unit length
        The twin's, without gradients: of the first n rows those of this batch, then those of a queue.
    scale : scalar
        One over the temperature.
    groups, key_groups : int64 ``(n,)`` and ``(m,)``
        What is of one group belongs together, so another caption of an image in the queue is a positive.
    alpha : float from 0 to 1
        See `ramp`.

    Returns
    -------
    scalar
        Mean over the batch and both directions, in nats.
    """
    positives = _shares((groups[:, None] == key_groups[None, :]).to(image_vectors.dtype))  # (n, m)

    def one_way(rows: Tensor, twin_rows: Tensor, keys: Tensor) -> Tensor:
        with torch.no_grad():
            believed = (scale * twin_rows @ keys.T).softmax(dim=1)
            target = alpha * believed + (1 - alpha) * positives
        return soft_cross_entropy(scale * rows @ keys.T, target)

    count = len(image_vectors)
    image_to_text = one_way(image_vectors, image_keys[:count], text_keys)
    text_to_image = one_way(text_vectors, text_keys[:count], image_keys)
    return (image_to_text + text_to_image) / 2


def ramp(alpha: float, epochs_done: float, *, epochs: float = 1.0) -> float:
    """Give the share of the twin's belief: it rises evenly to `alpha`, for at first the twin knows nothing.

    ALBEF's takes one epoch, BLIP's two.

    Examples
    --------
    >>> [ramp(0.4, done) for done in (0.0, 0.5, 1.0, 3.0)]
    [0.0, 0.2, 0.4, 0.4]
    """
    return alpha * min(1.0, epochs_done / epochs)


def soft_cross_entropy(scores: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of scores ``(n, m)`` with rows of shares ``(n, m)``; mean over the rows, in nats."""
    return -(targets * scores.log_softmax(dim=1)).sum(dim=1).mean()


def _shares(weights: Tensor) -> Tensor:
    return weights / weights.sum(dim=1, keepdim=True)


def _allowed(own: Tensor, columns: int, row_groups: Tensor | None, column_groups: Tensor | None) -> Tensor:
    """Tell which columns ``(n, columns)`` a row is held against: its own, and those of other groups."""
    is_own = own[:, None] == torch.arange(columns, device=own.device)[None, :]
    if row_groups is None or column_groups is None:
        return torch.ones_like(is_own)
    return is_own | (row_groups[:, None] != column_groups[None, :])
