"""What a recipe says of setting pictures into a text: data alone, which `mmrag.compose.illustrate` acts upon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmrag.errors import RecipeError


@dataclass(frozen=True)
class IllustrateOptions:
    """Which pictures belong into a text, and how many.

    Attributes
    ----------
    matcher : str
        Name of the matcher that verifies candidates; it must see pictures.
    min_probability : float
        How likely a picture must be to belong to its sentence, from 0 to below 1; what is likelier is placed.
    budget : int or None
        How many pictures a text gets at most; by default one for each three sentences.
    distance : int
        How far the numbers of two sentences with a picture are apart, at least 1: at 1, each may have one.
    candidates : int
        How many of the most similar pictures are verified for each sentence, at least 2: a picture stands out
        from the others, or does not belong.
    order : {"free", "taken"}
        Whether pictures come in any order, or in that in which they were taken (`taken_at`); one that does not say when
        is then left out.
    """

    matcher: str = "builtin"
    min_probability: float = 0.5
    budget: int | None = None
    distance: int = 2
    candidates: int = 8
    order: Literal["free", "taken"] = "free"

    def __post_init__(self) -> None:
        """Refuse what can place nothing, or nothing sensible."""
        if not isinstance(self.min_probability, (int, float)) or not 0 <= self.min_probability < 1:
            raise RecipeError(f"min_probability is from 0 to below 1, not {self.min_probability!r}")
        if self.budget is not None and (not isinstance(self.budget, int) or self.budget < 1):
            raise RecipeError(f"budget is a whole number of at least 1, not {self.budget!r}")
        if not isinstance(self.distance, int) or self.distance < 1:
            raise RecipeError(f"distance is a whole number of at least 1, not {self.distance!r}")
        if not isinstance(self.candidates, int) or self.candidates < 2:
            raise RecipeError(f"candidates is a whole number of at least 2, not {self.candidates!r}")
        if self.order not in ("free", "taken"):
            raise RecipeError(f"order is 'free' or 'taken', not {self.order!r}")
