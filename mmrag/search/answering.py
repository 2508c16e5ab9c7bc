"""What a pipeline recipe says of answers."""

from __future__ import annotations

from dataclasses import dataclass

from mmrag.errors import RecipeError
from mmrag.models.registry import check_recipe_name


@dataclass(frozen=True)
class AnswerOptions:
    """How a question is answered in words.

    Attributes
    ----------
    k : int
        How many sources at most; pictures and texts alternate, as far as there are both.
    hybrid : bool
        Whether sources are found by the words of items, too, where items have any.
    generator : str or None
        Who writes, on no server; by default a language model that is here, and else sentences of the sources are
        quoted.
    max_tokens : int
        How many tokens are written at most.
    temperature : float
        0 takes the likeliest token each time.
    caption : str
        The generator that describes pictures without words; "" leaves them without.
    attribute : bool
        Whether a sentence that cites nothing gets the source that supports it best, if one does.
    illustrate : bool
        Whether pictures are set into the answer.
    active : bool
        Whether it is searched again while writing.
    """

    k: int = 6
    hybrid: bool = True
    generator: str | None = None
    max_tokens: int = 256
    temperature: float = 0.0
    caption: str = "builtin"
    attribute: bool = True
    illustrate: bool = False
    active: bool = False

    def __post_init__(self) -> None:
        """Refuse what can answer nothing, and what sends to a server."""
        check_recipe_name(self.generator, "--generator")
        check_recipe_name(self.caption, "mmrag index --caption")
        for name in ("k", "max_tokens"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise RecipeError(f"{name} is a whole number of at least 1, not {getattr(self, name)!r}")
        if not self.temperature >= 0:
            raise RecipeError(f"temperature is at least 0, not {self.temperature!r}")
