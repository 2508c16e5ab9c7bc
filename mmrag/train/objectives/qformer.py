"""BLIP-2's first stage (https://arxiv.org/abs/2301.12597, section 3.1): who sees whom in the Q-Former, and ITC.

Queries and text are one sequence, the queries first. Each mask is bool ``(n, 1, queries + t, queries + t)``, as
attention takes it: True where the row's place may look at the column's (figure 2 of the paper).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def itc_mask(queries: int, text_mask: Tensor) -> Tensor:
    """Uni-modal: queries and text do not see each other, so that neither's vector knows of the other.

    Parameters
    ----------
    queries : int
        How many there are.
    text_mask : ``(n, t)``
        1 where there is a token and 0 where there is padding, which nobody sees.

    Examples
    --------
    >>> itc_mask(1, torch.tensor([[1, 1, 0]])).int()[0, 0].tolist()
    [[1, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0]]
    """
    mask = itm_mask(queries, text_mask)
    mask[..., :queries, queries:] = False
    mask[..., queries:, :queries] = False
    return mask


def itm_mask(queries: int, text_mask: Tensor) -> Tensor:
    """Bi-directional: everyone sees everyone, so that a query can ask about the text; parameters as `itc_mask`'s.

    Examples
    --------
    >>> itm_mask(1, torch.tensor([[1, 0]])).int()[0, 0].tolist()
    [[1, 1, 0], [1, 1, 0], [1, 1, 0]]
    """
    seen = torch.cat([text_mask.new_ones(len(text_mask), queries), text_mask], dim=1).bool()
    return seen[:, None, None, :].repeat(1, 1, seen.shape[1], 1)


def itg_mask(queries: int, text_mask: Tensor) -> Tensor:
    """Multi-modal causal: a token sees queries and earlier tokens, a query no text; parameters as `itc_mask`'s.

    Examples
    --------
    >>> itg_mask(1, torch.tensor([[1, 1]])).int()[0, 0].tolist()
    [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    """
    mask = itm_mask(queries, text_mask)
    mask[..., :queries, queries:] = False
    mask[..., queries:, queries:] &= torch.ones_like(mask[..., queries:, queries:]).tril()
    return mask


def query_cosines(image_vectors: Tensor, text_vectors: Tensor) -> Tensor:
    """Compare pictures with texts: the highest cosine of a picture's queries.

    Parameters
    ----------
    image_vectors : ``(n, queries, d)`` of unit length
    text_vectors : ``(m, d)`` of unit length

    Returns
    -------
    ``(n, m)``

    Examples
    --------
    >>> query_cosines(torch.eye(2)[None], torch.tensor([[0.6, 0.8]])).tolist()
    [[0.800000011920929]]
    """
    return torch.einsum("nqd,md->nmq", image_vectors, text_vectors).amax(dim=2)


def itc(scores: Tensor, own: Tensor, *, same: Tensor, label_smoothing: float = 0.1) -> Tensor:
    """Find each row's own column: one direction of image–text contrast, on scores that are no plain product.

    Parameters
    ----------
    scores : ``(n, m)``
        Cosines times the scale.
    own : int64 ``(n,)``
        The column of each row.
    same : bool ``(n, m)``
        Columns that mean the same as the row's own, and are not held against it.
    label_smoothing : float from 0 to 1
        Share of the target that is spread over the columns that a row is held against, its own included.

    Returns
    -------
    scalar
        Mean over the rows, in nats.

    Examples
    --------
    >>> nothing = torch.zeros(2, 2, dtype=torch.bool)
    >>> round(float(itc(torch.zeros(2, 2), torch.arange(2), same=nothing)), 4)  # blind: the logarithm of 2
    0.6931
    """
    allowed = ~same | F.one_hot(own, scores.shape[1]).bool()
    log_shares = scores.masked_fill(~allowed, -torch.inf).log_softmax(dim=1)
    exact = -log_shares.gather(1, own[:, None])[:, 0]
    spread = -log_shares.masked_fill(~allowed, 0.0).sum(dim=1) / allowed.sum(dim=1)
    return ((1 - label_smoothing) * exact + label_smoothing * spread).mean()
