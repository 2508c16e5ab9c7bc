"""Which pictures of the whole set a picture's text is confused with: part of a run's state."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmrag.roles import Vectors
from mmrag.train.objectives.mining import NONE, Integers, mine


class Negatives(nn.Module):
    """For each pair, the rows of k others that it is confused with.

    Parameters
    ----------
    count : int
        k.

    Attributes
    ----------
    table : int64 ``(pairs, k)``
        Rows of pairs, or `NONE`. A buffer, so that a checkpoint keeps it; there from the first mining on.
    """

    table: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count
        self._place: dict[int, int] = {}
        self._rows: list[list[int]] = []

    def train(self, mode: bool = True) -> Negatives:
        """Change between training and evaluation; what a checkpoint put into the table counts from now on."""
        super().train(mode)
        if mode and self._place:
            self._rows = self.table.tolist()  # threads look into it all the time: not on an accelerator
        return self

    def of(self, group: int) -> list[int]:
        """Give the rows that a picture brings into a batch, at most k; none for one that was not mined for."""
        place = self._place.get(group)
        return [] if place is None else [row for row in self._rows[place] if row != NONE]

    def mine(
        self,
        text_vectors: Vectors,
        image_vectors: Vectors,
        *,
        groups: Integers,
        rows: Integers,
        device: torch.device | None = None,
    ) -> None:
        """Find for each text the pictures most similar to it, without its own and what may well be its own.

        Parameters
        ----------
        text_vectors, image_vectors : float32 ``(n, d)`` of unit length
            A text of each picture, and the pictures.
        groups, rows : int64 ``(n,)``
            Equal pictures have equal groups; where a pair is among all pairs.
        device : torch.device or None
            Where the table lies; None is the CPU.
        """
        found = mine(text_vectors, image_vectors, groups, groups, k=self._count)
        found[found != NONE] = rows[found[found != NONE]]
        self._place = {int(group): place for place, group in enumerate(groups)}
        self._rows = found.tolist()
        self.register_buffer("table", torch.from_numpy(found).to(device))
