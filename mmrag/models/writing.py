"""Tokens one after another: beam search and sampling, for anything that tells how likely each next token is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmrag.errors import InputError
from mmrag.models.miniature_files import Writing
from mmrag.roles import Scores

Tokens = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating[Any]]
NextScores = Callable[[Tokens], Scores]
"""Gives, for ``(n, t)`` tokens so far, the log-probabilities ``(n, vocabulary)`` of the next one."""


def check_writing(beams: int, max_tokens: int, nucleus: float | None = None) -> None:
    """Check how something is to be written; parameters as those of `Generator.caption`.

    Raises
    ------
    InputError
        If nothing can be written so.
    """
    if beams < 1 or max_tokens < 1:
        raise InputError(f"beams and max_tokens are at least 1, not {beams} and {max_tokens}")
    if nucleus is not None and not 0 < nucleus <= 1:
        raise InputError(f"nucleus is a probability, above 0 and at most 1, not {nucleus}")


def beam_search(
    next_scores: NextScores,
    start: Sequence[int],
    *,
    end: int,
    max_tokens: int,
    beams: int,
    writing: Writing | None = None,
) -> list[int]:
    """Find a likely text.

    In each step the `beams` likeliest texts go on or end; as many as end are replaced by the next likely. It stops
    once `beams` have ended and none that goes on is better than the worst of them, each by its log-probability over
    its length. With one beam, that is the likeliest token each time.

    Parameters
    ----------
    next_scores : callable
        See `NextScores`.
    start : sequence of int
        Tokens that the text begins with.
    end : int
        The token that ends it.
    max_tokens : int
        How many tokens are written at most, the end counted; what has not ended by then counts as if it had.
    beams : int
        How many texts are followed.
    writing : Writing or None
        How lengths count, and what must not be repeated.

    Returns
    -------
    list of int
        What comes after `start`, without the end.
    """
    writing = writing or Writing()
    alive, totals = np.array([start], dtype=np.int64), np.zeros(1)
    ended: list[tuple[float, list[int]]] = []
    for length in range(1, max_tokens + 1):
        scores = totals[:, None] + next_scores(alive)  # (alive, vocabulary)
        _forbid_repeats(scores, alive[:, len(start) :], writing.no_repeat)
        best = _best(scores.ravel(), 2 * beams)  # so that enough are left to go on, even if half of them end
        rows, tokens = np.divmod(best, scores.shape[1])
        totals, over = scores.ravel()[best], tokens == end
        weight = length**writing.length_power
        for row, total in zip(rows[:beams][over[:beams]], totals[:beams][over[:beams]], strict=True):
            ended.append((float(total) / weight, alive[row, len(start) :].tolist()))
        ended = sorted(ended, key=lambda one: -one[0])[:beams]
        rows, tokens, totals = (values[~over][:beams] for values in (rows, tokens, totals))
        alive = np.column_stack([alive[rows], tokens])
        if not len(alive) or (len(ended) == beams and ended[-1][0] >= totals[0] / weight):
            break
    else:
        ended += [(float(total) / weight, row[len(start) :].tolist()) for row, total in zip(alive, totals, strict=True)]
    return max(ended, key=lambda one: one[0])[1] if ended else []


def sample(
    next_scores: NextScores,
    start: Sequence[int],
    *,
    end: int,
    max_tokens: int,
    nucleus: float,
    random: np.random.Generator,
) -> list[int]:
    """Write a text by chance: each token from the smallest set whose probabilities sum up to `nucleus`.

    Holtzman et al. 2020, section 3.1. Parameters and result as those of `beam_search`.
    """
    text = list(start)
    for _ in range(max_tokens):
        chances = np.exp(next_scores(np.array([text]))[0].astype(np.float64))
        order = np.argsort(-chances, kind="stable")
        kept = order[: 1 + int(np.searchsorted(np.cumsum(chances[order]), nucleus * chances.sum()))]
        token = int(random.choice(kept, p=chances[kept] / chances[kept].sum()))
        if token == end:
            break
        text.append(token)
    return text[len(start) :]


def without(next_scores: NextScores, tokens: Collection[int]) -> NextScores:
    """Let some tokens never be written."""
    forbidden = list(tokens)

    def scores(ids: Tokens) -> Scores:
        found = next_scores(ids).copy()
        found[:, forbidden] = -np.inf
        return found

    return scores


def _best(scores: Floats, count: int) -> Tokens:
    """Find the highest that are possible at all, best first."""
    order = np.argsort(-scores, kind="stable")[:count]
    return order[np.isfinite(scores[order])]


def _forbid_repeats(scores: Floats, written: Tokens, size: int) -> None:
    """Make impossible what would complete a sequence of `size` tokens a second time."""
    if not size:
        return
    for row, text in enumerate(written.tolist()):
        last = tuple(text[len(text) - size + 1 :])
        for first in range(len(text) - size + 1):
            if tuple(text[first : first + size - 1]) == last:
                scores[row, text[first + size - 1]] = -np.inf
