"""Image–text matching (ITM): a picture and a text are looked at together, and judged."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

NONE = -1
"""Instead of a negative, where all columns are of a row's own group."""

_LEAST_WEIGHT = 1e-4


@torch.no_grad()
def hard_negatives(
    scores: Tensor, row_groups: Tensor, column_groups: Tensor, *, generator: torch.Generator | None = None
) -> Tensor:
    """Draw a negative for each row, the likelier the more similar it is, never one of the row's own group.

    As in ALBEF (https://arxiv.org/abs/2107.07651, section 3.3) and BLIP (https://arxiv.org/abs/2201.12086, section
    3.2): the weight of a column is its share of the softmax over the row, and, as in BLIP's code, at least 1e-4.

    Parameters
    ----------
    scores : ``(n, m)``
        Similarities as ITC sees them: cosines times its scale.
    row_groups, column_groups : int64 ``(n,)`` and ``(m,)``
        What a row and a column are of.
    generator : torch.Generator or None
        On the CPU; the only source of chance. None is torch's own.

    Returns
    -------
    int64 ``(n,)``
        Numbers of columns; `NONE` where every column is of the row's own group.
    """
    weights = scores.float().softmax(dim=1) + _LEAST_WEIGHT
    weights = weights.masked_fill(row_groups[:, None] == column_groups[None, :], 0.0).cpu()
    possible = weights.sum(dim=1) > 0
    drawn = torch.full((len(scores),), NONE)
    if possible.any():
        drawn[possible] = torch.multinomial(weights[possible], 1, generator=generator)[:, 0]
    return drawn.to(scores.device)


def itm(positive_logits: Tensor, negative_logits: Tensor) -> Tensor:
    """Tell pairs that belong together from pairs that do not: cross-entropy, in nats (ALBEF, equation 8).

    Parameters
    ----------
    positive_logits, negative_logits : ``(n, 2)`` and ``(m, 2)``
        Of "no match" and "match".

    Returns
    -------
    scalar
        Mean over all n + m pairs.

    Examples
    --------
    >>> round(float(itm(torch.zeros(1, 2), torch.zeros(2, 2))), 4)
    0.6931
    """
    logits = torch.cat([positive_logits, negative_logits])
    labels = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
    labels[: len(positive_logits)] = 1
    return F.cross_entropy(logits, labels)
