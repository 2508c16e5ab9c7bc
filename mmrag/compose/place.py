"""Pictures and sentences → the best way to set the pictures among the sentences.

Whatever is given, the assignment found is the best there is, unless very many sentences want the same few pictures.
Without the rule that no picture comes twice, dynamic programming finds the best assignment, which is a bound for it
with that rule; where it has one picture at several sentences, the search goes on in two branches: the picture stands at
the best of them or nowhere, or it does not stand at that one (branch and bound, Land and Doig 1960).
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mmrag.errors import InputError

MOST_STEPS = 200_000
"""So many options are looked at, in all branches together, some two seconds; then the best found so far is taken."""

_NONE = -1


@dataclass(frozen=True, slots=True)
class Option:
    """A picture that a sentence could have.

    Attributes
    ----------
    sentence : int
        Its number, from 0.
    picture : int
        Its number: nearly the same pictures have the same one.
    score : float
        What it is worth, above 0.
    when : float
        When it was taken, or the like: pictures come in ascending order of it, equal ones in any.
    """

    sentence: int
    picture: int
    score: float
    when: float = 0.0


def assign(options: Sequence[Option], *, budget: int, distance: int = 1) -> list[int]:
    """Choose options so that their scores sum up to the most.

    No sentence has two pictures, no picture comes twice, and none comes before one with a lower `when`.

    Parameters
    ----------
    options : sequence of Option
        In any order.
    budget : int
        How many are chosen at most.
    distance : int
        How far the numbers of two sentences with a picture are apart, at least 1.

    Returns
    -------
    list of int
        Places of the chosen options, by sentence.

    Raises
    ------
    InputError
        If the distance or the budget is none, or a score is not above 0.

    Examples
    --------
    >>> assign([Option(0, 7, .9), Option(1, 7, .8), Option(1, 8, .3)], budget=2)
    [0, 2]
    """
    if distance < 1 or budget < 0:
        raise InputError(f"distance is at least 1 and budget at least 0, not {distance!r} and {budget!r}")
    if not all(option.score > 0 for option in options):
        raise InputError("an option that is worth nothing is none: scores are above 0")
    order = sorted(range(len(options)), key=lambda place: (options[place].sentence, place))
    chosen = _branch_and_bound(_Course([options[place] for place in order], min(budget, len(options)), distance))
    return [order[place] for place in chosen]


def _branch_and_bound(course: _Course) -> list[int]:
    """Look at the branch that promises most first, until none promises more than what is found."""
    best = course.dive()
    best_score = course.score(best)
    counter = itertools.count()
    bound, relaxed = course.best(frozenset())
    waiting = [(-bound, next(counter), frozenset[int](), relaxed)]
    for _ in range(MOST_STEPS // max(1, len(course.options))):
        if not waiting or -waiting[0][0] <= best_score:
            break
        _, _, forbidden, relaxed = heapq.heappop(waiting)
        feasible = course.without_repeats(relaxed)
        if course.score(feasible) > best_score:
            best, best_score = feasible, course.score(feasible)
        for more in course.branches(relaxed):
            bound, found = course.best(forbidden | more)
            if bound > best_score:
                heapq.heappush(waiting, (-bound, next(counter), forbidden | more, found))
    return best


@dataclass(frozen=True)
class _Course:
    """Options by sentence, and what holds of every assignment; an option is named by its place."""

    options: Sequence[Option]
    budget: int
    distance: int
    ranks: npt.NDArray[np.int64] = field(init=False)
    of_picture: dict[int, list[int]] = field(init=False)

    def __post_init__(self) -> None:
        whens = np.array([option.when for option in self.options])
        object.__setattr__(self, "ranks", np.unique(whens, return_inverse=True)[1])
        of_picture: dict[int, list[int]] = {}
        for place, option in enumerate(self.options):
            of_picture.setdefault(option.picture, []).append(place)
        object.__setattr__(self, "of_picture", of_picture)

    def score(self, chosen: Sequence[int]) -> float:
        return sum(self.options[place].score for place in chosen)

    def best(self, forbidden: Collection[int]) -> tuple[float, list[int]]:
        """Find the best assignment that may have a picture twice: its score, and the options by sentence."""
        ended = _Ended(int(self.ranks.max(initial=0)) + 1, self.budget)
        before = np.full((len(self.options), self.budget + 1), _NONE)
        waiting: list[tuple[int, npt.NDArray[np.float64]]] = []
        done = 0
        for place, option in enumerate(self.options):
            if place in forbidden:
                continue
            while done < len(waiting) and self.options[waiting[done][0]].sentence <= option.sentence - self.distance:
                ended.add(int(self.ranks[waiting[done][0]]), *waiting[done])
                done += 1
            scores, before[place] = ended.best(int(self.ranks[place]))
            waiting.append((place, np.concatenate([[-np.inf], scores[:-1] + option.score])))
        for place, totals in waiting[done:]:
            ended.add(int(self.ranks[place]), place, totals)
        return self._traced(*ended.best(int(self.ranks.max(initial=0))), before)

    def _traced(
        self, totals: npt.NDArray[np.float64], last: npt.NDArray[np.int64], before: npt.NDArray[np.int64]
    ) -> tuple[float, list[int]]:
        """Go back from the best total to the options that make it up."""
        count = int(totals.argmax())
        score, place, chosen = float(totals[count]), int(last[count]), []
        while place != _NONE:
            chosen.append(place)
            count -= 1
            place = int(before[place, count])
        return score, chosen[::-1]

    def dive(self) -> list[int]:
        """Find a good assignment soon: each picture that comes twice stays where it is worth most, and nowhere else."""
        forbidden: frozenset[int] = frozenset()
        while True:
            _, chosen = self.best(forbidden)
            kept = self.without_repeats(chosen)
            if len(kept) == len(chosen):
                return chosen
            repeated = {self.options[place].picture for place in set(chosen) - set(kept)}
            forbidden |= {place for one in repeated for place in self.of_picture[one]} - set(kept)

    def without_repeats(self, chosen: Sequence[int]) -> list[int]:
        """Keep of options with the same picture the best."""
        best: dict[int, int] = {}
        for place in sorted(chosen, key=lambda one: -self.options[one].score):
            best.setdefault(self.options[place].picture, place)
        return sorted(best.values())

    def branches(self, chosen: Sequence[int]) -> list[frozenset[int]]:
        """Say what to forbid in either branch; nothing branches where no picture comes twice."""
        kept = set(self.without_repeats(chosen))
        twice = [self.options[place].picture for place in chosen if place not in kept]
        if not twice:
            return []
        here = next(place for place in kept if self.options[place].picture == twice[0])
        return [frozenset(self.of_picture[twice[0]]) - {here}, frozenset({here})]


class _Ended:
    """The best assignments that end with a picture not after some moment, by how many pictures they have.

    A Fenwick tree of maxima over the moments (Fenwick 1994).
    """

    def __init__(self, moments: int, budget: int) -> None:
        self._totals = np.full((moments + 1, budget + 1), -np.inf)
        self._lasts = np.full((moments + 1, budget + 1), _NONE)
        self._nothing = np.full(budget + 1, -np.inf)
        self._nothing[0] = 0.0

    def add(self, moment: int, place: int, totals: npt.NDArray[np.float64]) -> None:
        at = moment + 1
        while at < len(self._totals):
            better = totals > self._totals[at]
            self._totals[at][better] = totals[better]
            self._lasts[at][better] = place
            at += at & -at

    def best(self, moment: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        totals, lasts = self._nothing.copy(), np.full(len(self._nothing), _NONE)
        at = moment + 1
        while at:
            better = self._totals[at] > totals
            totals[better] = self._totals[at][better]
            lasts[better] = self._lasts[at][better]
            at -= at & -at
        return totals, lasts
