"""The objectives by the names that recipes use."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from mmrag.train.objectives.contrastive import info_nce

Objective = Callable[..., Tensor]

OBJECTIVES: dict[str, Objective] = {"info_nce": info_nce}
