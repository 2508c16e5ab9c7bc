"""A pipeline recipe, and running it: queries → hits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mmrag import recipe as recipes
from mmrag.errors import QueryError, RecipeError
from mmrag.roles import Encoder, Matcher
from mmrag.search.answering import AnswerOptions
from mmrag.search.candidates import recall_candidates
from mmrag.search.defaults import QueryDefaults
from mmrag.search.illustration import IllustrateOptions
from mmrag.search.likelihood import with_probabilities
from mmrag.search.queries import encode_queries
from mmrag.search.recall import ranked
from mmrag.types import Hit, Query

if TYPE_CHECKING:
    from mmrag.search.rerank import Progress
    from mmrag.stores.features import FeatureCache
    from mmrag.stores.view import View
    from mmrag.stores.words import WordsView


_MOST_BY_RANK = 2 / 61  # the first by cosine and by words


@dataclass(frozen=True)
class Recall:
    """Find candidates by cosine, or by cosine and words.

    Attributes
    ----------
    k : int
        How many hits.
    min_score : float
        Lowest score of a hit: its cosine, or what `words` makes, which by "rrf" is at most 2/61.
    fold_duplicates : bool
        Make one hit of files with the very same content.
    fold_near : bool
        Make one hit of items that look or read nearly the same, as `mmrag.search.near` says.
    words : {"off", "rrf", "weights"}
        Whether the words of items are looked at too, by BM25, and how both lists are fused: by reciprocal
        ranks, or by weighted scores.
    words_weight : float
        What BM25 counts where scores are weighted, from 0 to 1; the cosine counts the rest.
    depth : int
        How many of the best by cosine and of the best by words are fused.
    """

    k: int = 10
    min_score: float = -1.0
    fold_duplicates: bool = True
    fold_near: bool = True
    words: Literal["off", "rrf", "weights"] = "off"
    words_weight: float = 0.3
    depth: int = 100

    def __post_init__(self) -> None:
        """Refuse what can find nothing."""
        if not isinstance(self.k, int) or self.k < 1:
            raise RecipeError(f"k is a whole number of at least 1, not {self.k!r}")
        if not isinstance(self.min_score, (int, float)) or not -1 <= self.min_score <= 1:
            raise RecipeError(f"min_score is from -1 to 1, not {self.min_score!r}")
        if self.words == "rrf" and self.min_score > _MOST_BY_RANK:
            raise RecipeError(
                f"min_score is at most {_MOST_BY_RANK:.4f} where ranks by cosine and by words are fused, not "
                f"{self.min_score!r}: no hit scores higher. Lower it, or leave it out"
            )
        if self.words not in ("off", "rrf", "weights"):
            raise RecipeError(f"words is 'off', 'rrf' or 'weights', not {self.words!r}")
        if not isinstance(self.words_weight, (int, float)) or not 0 <= self.words_weight <= 1:
            raise RecipeError(f"words_weight is from 0 to 1, not {self.words_weight!r}")
        if not isinstance(self.depth, int) or self.depth < 1:
            raise RecipeError(f"depth is a whole number of at least 1, not {self.depth!r}")


@dataclass(frozen=True)
class Rerank:
    """Judge the best candidates again.

    Attributes
    ----------
    model : str
        Name of a matcher.
    top : int
        How many candidates are judged; the others keep their order behind them.
    min_score : float or None
        Lowest score of a match; hits without one are then left out.
    cache_mb : int
        How much of the disk features of pictures may take, in MB; 0 keeps none.
    cache_precision : {"fp16", "int8"}
        What features are kept in.
    """

    model: str
    top: int = 128
    min_score: float | None = None
    cache_mb: int = 2048
    cache_precision: Literal["fp16", "int8"] = "fp16"

    def __post_init__(self) -> None:
        """Refuse what can judge nothing."""
        if not isinstance(self.top, int) or self.top < 1:
            raise RecipeError(f"top is a whole number of at least 1, not {self.top!r}")
        if self.cache_mb < 0:
            raise RecipeError(f"cache_mb is at least 0, not {self.cache_mb!r}")


@dataclass(frozen=True)
class Pipeline:
    """How a question is answered, as a recipe in ``pipelines/`` says."""

    description: str = ""
    query: QueryDefaults = field(default_factory=QueryDefaults)
    recall: Recall = field(default_factory=Recall)
    rerank: Rerank | None = None
    answer: AnswerOptions = field(default_factory=AnswerOptions)
    illustrate: IllustrateOptions = field(default_factory=IllustrateOptions)

    def changed(
        self,
        *,
        k: int | None = None,
        min_score: float | None = None,
        rerank: str | None = None,
        top: int | None = None,
        hybrid: bool = False,
        dups: bool = False,
    ) -> Pipeline:
        """Give a pipeline that differs in what is not None; `min_score` is that of the last stage.

        If `hybrid`, one that does not look at words does so, and fuses by reciprocal ranks. If `dups`, duplicates and
        near duplicates are hits of their own.
        """
        stage = self.rerank
        if rerank is not None:
            stage = Rerank(rerank) if stage is None else replace(stage, model=rerank)
        if top is not None:
            if stage is None:
                raise QueryError(
                    "top says how many candidates a matcher judges, and none was named: "
                    'rerank="NAME" (--rerank NAME), or a pipeline that reranks'
                )
            stage = replace(stage, top=top)
        if min_score is not None and stage is not None:
            stage, min_score = replace(stage, min_score=min_score), None
        recall = replace(
            self.recall,
            k=self.recall.k if k is None else k,
            min_score=self.recall.min_score if min_score is None else min_score,
            words="rrf" if hybrid and self.recall.words == "off" else self.recall.words,
            fold_duplicates=self.recall.fold_duplicates and not dups,
            fold_near=self.recall.fold_near and not dups,
        )
        return replace(self, recall=recall, rerank=stage)


def load_pipeline(pipeline: str | Pipeline) -> Pipeline:
    """Load a pipeline recipe by name or path; one that is already loaded is given back."""
    return recipes.load_named("pipelines", pipeline, Pipeline) if isinstance(pipeline, str) else pipeline


def looks_at_words(pipeline: Pipeline, queries: Sequence[Query]) -> bool:
    """Tell whether answering needs the full-text index."""
    return pipeline.recall.words != "off" and any(query.words for query in queries)


def run(
    pipeline: Pipeline,
    queries: Sequence[Query],
    *,
    view: View,
    full_text: WordsView | None = None,
    encoder: Encoder,
    matcher: Matcher | None = None,
    home: Path,
    features_folder: Path,
    progress: Progress | None = None,
) -> list[list[Hit]]:
    """Answer queries, encoded in one batch; a list of hits for each.

    `full_text` has the words of the view's items, where `looks_at_words`.

    `matcher` is the one that the pipeline names. It reads candidates from below `home`, and what it sees in
    pictures is kept in `features_folder`.
    """
    if not queries:
        raise QueryError('no query was given; say what to look for, such as "a dog on a beach"')
    queries = [pipeline.query.added_to(one) for one in queries]
    recall, rerank = pipeline.recall, pipeline.rerank
    k = recall.k if rerank is None else max(recall.k, rerank.top)
    found = recall_candidates(recall, queries, encode_queries(encoder, queries, view), k, view, full_text)
    if rerank is None or matcher is None:
        hits = [ranked(one.hit() for one in some) for some in found]
        return _judged_by_card(queries, hits, encoder)
    from mmrag.search.contents import Contents  # most searches do without
    from mmrag.search.rerank import Reranker

    contents = Contents(matcher, home, feature_cache(rerank, matcher, features_folder))
    reranker = Reranker(matcher, contents, rerank.top, wrote_index=matcher.identity == encoder.identity)
    hits = reranker.rerank(queries, found, k=recall.k, min_score=rerank.min_score, progress=progress)
    return _judged_by_card(queries, hits, encoder)


def _judged_by_card(queries: Sequence[Query], hits: Sequence[Sequence[Hit]], encoder: Encoder) -> list[list[Hit]]:
    calibration = encoder.card.calibration
    return [with_probabilities(query, some, calibration) for query, some in zip(queries, hits, strict=True)]


def feature_cache(stage: Rerank, matcher: Matcher, folder: Path) -> FeatureCache | None:
    """Open the cache of what a matcher sees in pictures, as large as a stage says; None if it keeps none."""
    from mmrag.stores.features import FeatureCache

    if matcher.feature_shape is None or not stage.cache_mb:
        return None
    return FeatureCache(
        folder,
        matcher.identity,
        computed_in=matcher.precision,
        shape=matcher.feature_shape,
        limit=stage.cache_mb * 10**6,
        precision=stage.cache_precision,
    )
