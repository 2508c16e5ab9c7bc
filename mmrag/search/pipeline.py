"""A pipeline recipe, and running it: queries → hits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmrag.errors import QueryError, RecipeError
from mmrag.roles import Encoder
from mmrag.search.queries import encode_queries
from mmrag.search.recall import recall
from mmrag.types import Hit, Query

if TYPE_CHECKING:
    from mmrag.stores.view import View


@dataclass(frozen=True)
class Recall:
    """Find candidates by cosine.

    Attributes
    ----------
    k : int
        How many hits.
    min_score : float
        Lowest cosine of a hit.
    fold_duplicates : bool
        Make one hit of files with the very same content.
    """

    k: int = 10
    min_score: float = -1.0
    fold_duplicates: bool = True

    def __post_init__(self) -> None:
        """Refuse what can find nothing."""
        if not isinstance(self.k, int) or self.k < 1:
            raise RecipeError(f"k is a whole number of at least 1, not {self.k!r}")
        if not isinstance(self.min_score, (int, float)) or not -1 <= self.min_score <= 1:
            raise RecipeError(f"min_score is a cosine, from -1 to 1, not {self.min_score!r}")


@dataclass(frozen=True)
class Pipeline:
    """How a question is answered, as a recipe in ``pipelines/`` says."""

    description: str = ""
    recall: Recall = field(default_factory=Recall)


def run(pipeline: Pipeline, queries: Sequence[Query], *, view: View, encoder: Encoder) -> list[list[Hit]]:
    """Answer queries, encoded in one batch; a list of hits for each."""
    if not queries:
        raise QueryError('no query was given; say what to look for, such as "a dog on a beach"')
    query_vectors = encode_queries(encoder, queries)
    stage = pipeline.recall
    return recall(
        view,
        query_vectors,
        k=stage.k,
        min_score=stage.min_score,
        fold_duplicates=stage.fold_duplicates,
    )
