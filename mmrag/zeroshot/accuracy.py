"""How often the most probable label is the right one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mmrag.types import Classification


@dataclass
class Accuracy:
    """Ranks of the right labels, added up picture by picture.

    Attributes
    ----------
    ranks : mapping of str to list of int
        Label → the rank that it had for each of its own pictures, from 1.
    """

    ranks: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(cls, classifications: Iterable[Classification]) -> Accuracy:
        """Add up what is known of classified pictures; those whose right label is not known do not count."""
        accuracy = cls()
        for one in classifications:
            accuracy.add(one)
        return accuracy

    def add(self, classified: Classification) -> None:
        """Count a picture, if its right label is known."""
        if classified.truth is not None and classified.truth_rank is not None:
            self.ranks[classified.truth].append(classified.truth_rank)

    def __len__(self) -> int:
        """How many pictures were counted."""
        return sum(map(len, self.ranks.values()))

    def as_dict(self) -> dict[str, Any]:
        """Top-1 and top-5 in percent, of all pictures and by label; empty where nothing was counted."""
        if not self.ranks:
            return {}
        everything = [rank for ranks in self.ranks.values() for rank in ranks]
        return {**_shares(everything), "labels": {label: _shares(self.ranks[label]) for label in sorted(self.ranks)}}


def _shares(ranks: list[int]) -> dict[str, float]:
    shares = {f"top-{k}": round(100 * sum(rank <= k for rank in ranks) / len(ranks), 2) for k in (1, 5)}
    return {**shares, "pictures": len(ranks)}
