"""What a pipeline recipe adds to every query that is asked through it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from mmrag.errors import QueryError, RecipeError
from mmrag.search.condition import both
from mmrag.search.parse import parse_exclusion
from mmrag.search.shorthand import only
from mmrag.types import Query, Term


@dataclass(frozen=True)
class QueryDefaults:
    """What every query gets beside what the caller says.

    Attributes
    ----------
    without : tuple of str
        Words for what is never wanted, as `mmrag.parse_query` takes them.
    where : str or None
        A filter that items must pass, beside the caller's.
    only : {"images", "text"} or None
        What may be found.
    picture_weight : float
        Every picture's weight is multiplied by it; above 0.
    exclusion_weight : float
        Every exclusion's weight is multiplied by it; above 0.
    """

    without: tuple[str, ...] = ()
    where: str | None = None
    only: Literal["images", "text"] | None = None
    picture_weight: float = 1.0
    exclusion_weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what no query could have."""
        try:
            for words in self.without:
                parse_exclusion(words)
        except QueryError as error:
            raise RecipeError(f"without: {error}") from error
        for name in ("picture_weight", "exclusion_weight"):
            if not 0 < getattr(self, name) < float("inf"):
                raise RecipeError(f"{name} is a number above 0, not {getattr(self, name)!r}")

    def added_to(self, query: Query) -> Query:
        """Give the query with all of this: conditions are joined by "and", exclusions follow the caller's own."""
        without = (*query.without, *map(parse_exclusion, self.without))
        changed = replace(
            query,
            without=tuple(replace(one, weight=one.weight * self.exclusion_weight) for one in without),
            where=both(query.where, self.where, None if self.only is None else only(self.only)),
        )
        return changed if self.picture_weight == 1 else self._with_weighed_pictures(changed)

    def _with_weighed_pictures(self, query: Query) -> Query:
        first = () if query.image is None else (Term(image=query.image),)
        pictures = (
            replace(one, weight=one.weight * self.picture_weight) if one.image is not None else one
            for one in (*first, *query.plus)
        )
        return replace(query, image=None, plus=tuple(pictures))
