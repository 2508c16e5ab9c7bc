"""Who sees whom in BLIP-2's Q-Former (https://arxiv.org/abs/2301.12597, figure 2): queries and text in one sequence.

Each function gives bool ``(n, queries + t, queries + t)``, True where the row's place may look at the column's.
"""

from __future__ import annotations

import torch
from torch import Tensor


def itc_mask(queries: int, text_mask: Tensor) -> Tensor:
    """Uni-modal: queries and text do not see each other, so that neither vector knows of the other.

    Parameters
    ----------
    queries : int
        How many there are; they come first.
    text_mask : ``(n, t)``
        1 where there is a token and 0 where there is padding, which nobody sees.

    Examples
    --------
    >>> itc_mask(1, torch.tensor([[1, 1, 0]])).int()[0].tolist()
    [[1, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0]]
    """
    mask = itm_mask(queries, text_mask)
    mask[:, :queries, queries:] = False
    mask[:, queries:, :queries] = False
    return mask


def itm_mask(queries: int, text_mask: Tensor) -> Tensor:
    """Bi-directional: everyone sees everyone, so that a query can ask about the text; parameters as `itc_mask`'s.

    Examples
    --------
    >>> itm_mask(1, torch.tensor([[1, 0]])).int()[0].tolist()
    [[1, 1, 0], [1, 1, 0], [1, 1, 0]]
    """
    seen = torch.cat([text_mask.new_ones(len(text_mask), queries), text_mask], dim=1).bool()
    return seen[:, None, :].repeat(1, seen.shape[1], 1)


def itg_mask(queries: int, text_mask: Tensor) -> Tensor:
    """Multi-modal causal: a token sees queries and earlier tokens, a query no text; parameters as `itc_mask`'s.

    Examples
    --------
    >>> itg_mask(1, torch.tensor([[1, 1]])).int()[0].tolist()
    [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    """
    mask = itm_mask(queries, text_mask)
    mask[:, :queries, queries:] = False
    length = text_mask.shape[1]
    mask[:, queries:, queries:] &= torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
    return mask
