"""The vectors of a text's tokens → one vector. Written for arrays of numpy's and torch's alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

POOLINGS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
"""Ways to pool, as sentence-transformers names them: now, and in older files; in the order of their concatenation."""

_FAR = 1e9


def pooled(hidden: Any, mask: Any, poolings: Sequence[str]) -> Any:
    """Pool the vectors of tokens.

    Parameters
    ----------
    hidden : float ``(n, t, d)``
        What a transformer gives.
    mask : int ``(n, t)``
        1 where there is a token, and 0 behind the last one.
    poolings : sequence of str
        Of `POOLINGS`.

    Returns
    -------
    float ``(n, d × poolings)``
        What each of them gives, one behind the other; as sentence-transformers does it.
    """
    parts = [_pooled_so(hidden, mask, pooling) for pooling in poolings]
    if isinstance(hidden, np.ndarray):
        return np.concatenate(parts, -1)
    import torch

    return torch.cat(parts, -1)


def _pooled_so(hidden: Any, mask: Any, pooling: str) -> Any:
    if pooling == "max":
        found = (hidden + (mask[..., None] - 1) * _FAR).max(1)
        return getattr(found, "values", found)  # torch says where it is, too
    ones = hidden[..., 0] * 0 + mask  # (n, t), in the vectors' precision
    return (hidden * _weights(ones, mask, pooling)[..., None]).sum(1)


def _weights(ones: Any, mask: Any, pooling: str) -> Any:
    """Tell how much each token counts, ``(n, t)``."""
    position, length = mask.cumsum(1), mask.sum(1)[:, None]  # from 1
    if pooling == "cls":
        return ones * (position == 1)
    if pooling == "lasttoken":
        return ones * (position == length)
    if pooling == "weightedmean":
        return ones * position / (mask * position).sum(1)[:, None]
    return ones / (length if pooling == "mean" else length**0.5)
