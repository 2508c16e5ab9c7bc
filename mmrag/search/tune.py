"""How hard a view must look: its recall is measured against the exact one, on words that ask for pictures.

Words lie apart from all pictures in the space that they share, and an index that was trained on pictures finds less
for them than for other pictures: recall of words is what is measured.
"""

from __future__ import annotations

import bisect
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from mmrag.errors import InputError
from mmrag.roles import Encoder, Vectors
from mmrag.stores.exact import ExactView
from mmrag.stores.view import View
from mmrag.stores.view_settings import Tuning, ViewSettings

logger = logging.getLogger("mmrag")

AT = 10
"""Hits that count."""

_MOST_QUERIES = 500
_LEAST_QUERIES = 50
_MOST_WORDS = 12
_QUERIES_AT_ONCE = 64

_FACTORS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0)
_EFFORTS = tuple(round(2 ** (n / 2)) for n in range(2, 25))
_HARD = 512

_THINGS = (
    *("a dog", "a cat", "two children", "a man", "a woman", "a crowd of people", "a red car", "a bicycle", "a boat"),
    *("a bird", "a horse", "flowers", "a birthday cake", "a plate of food", "a cup of coffee", "an old house"),
    *("a train", "a bridge", "mountains", "a laptop", "a wedding", "a football player", "a guitar", "a sign"),
)
_PLACES = (
    *("", "on a beach", "in the snow", "at night", "in a street", "in a forest", "on a table", "by the water"),
    *("in a kitchen", "under a blue sky", "in black and white", "seen from above"),
)


def choose_queries(view: View, given: Sequence[str] | None) -> tuple[list[str], str]:
    """Choose what a view is asked while it is measured.

    Returns
    -------
    queries : list of str
        Those that were given, or the beginnings of texts and captions in the corpus, or, where it has few, everyday
        things in everyday places.
    source : str
        Which of these.

    Raises
    ------
    InputError
        If none is given.
    """
    if given is not None:
        asked = [one.strip() for one in given if one.strip()]
        if not asked:
            raise InputError("there is no query to tune by; give some, one a line, or none at all: mmrag tune")
        return asked[-_MOST_QUERIES:], "a query log"
    own = [" ".join(text.split()[:_MOST_WORDS]) for _, text in view.scan(("text",)) if text and text.strip()]
    if len(own) >= _LEAST_QUERIES:
        chosen = np.random.default_rng(0).permutation(len(own))[:_MOST_QUERIES]
        return [own[n] for n in chosen], "the corpus's own texts"
    return [f"{thing} {place}".strip() for thing in _THINGS for place in _PLACES], "everyday things"


def tune(
    view: View, encoder: Encoder, queries: Sequence[str], source: str, *, target: float | None = None
) -> tuple[ViewSettings, Tuning]:
    """Find the least effort at which a view reaches its target.

    Parameters
    ----------
    view : View
        To be tuned.
    encoder : Encoder
        That wrote its vectors.
    queries : sequence of str
        What to ask.
    source : str
        Where they are from.
    target : float or None
        Share of the ten best to be found; by default what the view's settings say.

    Returns
    -------
    settings : ViewSettings
        Those of the view, with another effort: the most there is, if no effort reaches the target.
    tuning : Tuning
        What was measured with it.
    """
    query_vectors = encoder.encode_query(list(queries))
    oracle = ExactView(view.folder, view.shape, table_version=view.table_version, segments=view.segments)
    truth = _refs(oracle, query_vectors)

    def recall(settings: ViewSettings) -> float:
        return recall_of(_refs(view.looking(settings), query_vectors), truth)

    wanted = view.settings if target is None else replace(view.settings, target=target)
    settings = _least_effort(wanted, recall)
    measured = Tuning(round(recall(settings), 4), len(queries), source, len(view))
    if measured.recall < settings.target:
        logger.warning(
            "no effort finds %.1f %% of the ten best, %.1f %% are found; another view may do better: "
            "mmrag compact --view NAME",
            100 * settings.target,
            100 * measured.recall,
        )
    return settings, measured


def recall_of(found: np.ndarray, truth: np.ndarray) -> float:
    """Say how much of the truth is among what was found: both int64 ``(queries, ≤ 10)``, the mean over queries."""
    if not truth.size:
        return 1.0
    return float(np.mean([np.isin(one, other).mean() for one, other in zip(truth, found, strict=True)]))


def _refs(view: View, query_vectors: Vectors) -> np.ndarray:
    blocks = range(0, len(query_vectors), _QUERIES_AT_ONCE)
    return np.concatenate([view.search(query_vectors[n : n + _QUERIES_AT_ONCE], AT).refs for n in blocks])


def _least_effort(settings: ViewSettings, recall: Callable[[ViewSettings], float]) -> ViewSettings:
    """Find the least number of candidates while looking hard, and then the least hard look for these."""
    goal = settings.target
    if settings.rescore:
        hard = replace(settings, nprobe=_HARD, ef_search=_HARD)
        candidates = [replace(hard, rescore_factor=factor) for factor in _FACTORS]
        enough = _first(candidates, lambda one: recall(one) >= goal + (1 - goal) / 2)
        settings = replace(settings, rescore_factor=enough.rescore_factor)
    if settings.has_effort:
        efforts = [replace(settings, nprobe=effort, ef_search=effort) for effort in _EFFORTS]
        settings = _first(efforts, lambda one: recall(one) >= goal)
    return settings


def _first(ascending: Sequence[ViewSettings], is_enough: Callable[[ViewSettings], bool]) -> ViewSettings:
    """Find by bisection the first that is enough; the last if none is."""
    position = bisect.bisect_left(ascending, True, key=is_enough)
    return ascending[min(position, len(ascending) - 1)]
