"""Which pictures of the whole set a picture's text is confused with: part of a run's state."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mmrag.roles import Vectors
from mmrag.train.objectives.mining import Integers, mine


class Negatives(nn.Module):
    """For each pair, the rows of k others that it is confused with.

    They are looked up in threads, so they stay out of the device's memory; a checkpoint keeps them.

    Parameters
    ----------
    count : int
        k.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self._take(np.empty((0, 1 + count), dtype=np.int64))

    def _take(self, table: Integers) -> None:
        self._table = table  # (pairs, 1 + k): group, rows
        self._place = {int(group): place for place, group in enumerate(table[:, 0])}

    def __len__(self) -> int:
        """How many pairs were mined for."""
        return len(self._table)

    def of(self, group: int) -> list[int]:
        """Give the rows that a picture brings into a batch, at most k; none for one that was not mined for."""
        place = self._place.get(group)
        return [] if place is None else [int(row) for row in self._table[place, 1:] if row >= 0]

    def mine(self, text_vectors: Vectors, image_vectors: Vectors, groups: Integers, rows: Integers) -> None:
        """Find for each text the pictures most similar to it, without its own and what may well be its own.

        Parameters
        ----------
        text_vectors, image_vectors : float32 ``(n, d)`` of unit length
            A text of each picture, and the pictures.
        groups, rows : int64 ``(n,)``
            Equal pictures have equal groups; where a pair is among all pairs.
        """
        found = mine(text_vectors, image_vectors, groups, groups, k=self.count)
        self._take(np.concatenate([groups[:, None], np.where(found >= 0, rows[found], found)], axis=1))

    def get_extra_state(self) -> Tensor:
        """Give what a checkpoint keeps."""
        return torch.from_numpy(self._table.copy())

    def set_extra_state(self, state: Tensor) -> None:
        """Take it back."""
        self._take(state.cpu().numpy())
