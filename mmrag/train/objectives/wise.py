"""Between the weights that a training began with and those that it ended with (WiSE-FT)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mmrag.errors import InputError


@torch.no_grad()
def interpolate(start: Mapping[str, Tensor], end: Mapping[str, Tensor], *, share: float) -> dict[str, Tensor]:
    """Go part of the way from one state dict to another: a guard against forgetting.

    https://arxiv.org/abs/2109.01903, section 3: what the pairs do not show is remembered better in between.

    Parameters
    ----------
    start, end : mapping of str to tensor
        State dicts. A name that `start` lacks is of a part that began fresh, and is taken from `end` as it is.
    share : float from 0 to 1
        0 is `start`, 1 is `end`. Whole numbers, such as counts, are taken from `end`.

    Raises
    ------
    InputError
        If `share` is not from 0 to 1, or `end` lacks a name or has a tensor of another shape.

    Examples
    --------
    >>> interpolate({"w": torch.tensor([0.0])}, {"w": torch.tensor([4.0])}, share=0.25)
    {'w': tensor([1.])}
    """
    if not 0 <= share <= 1:
        raise InputError(f"share must be from 0 (the start) to 1 (the end), not {share}")
    for name, tensor in start.items():
        if name not in end or end[name].shape != tensor.shape:
            found = tuple(end[name].shape) if name in end else "missing"
            raise InputError(f"{name} is {tuple(tensor.shape)} at the start and {found} at the end; the two networks "
                             "must be of one layout")  # fmt: skip
    return {name: _between(start.get(name), tensor, share) for name, tensor in end.items()}


def _between(start: Tensor | None, end: Tensor, share: float) -> Tensor:
    if start is None or not end.is_floating_point():
        return end.clone()
    return torch.lerp(start.to(end), end, share)
