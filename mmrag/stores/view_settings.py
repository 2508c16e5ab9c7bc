"""Which view makes search fast, how it is built, and how hard it looks: a recipe's ``[view]``, kept by the manifest."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from dataclasses import dataclass
from typing import Literal

from mmrag.errors import RecipeError

Rescore = Literal["", "fp32", "fp16", "int8"]

FACTORIES = (
    "Flat",
    "SQ8",
    "SQfp16",
    "RaBitQ",
    "HNSW32",
    "HNSW32,SQ8",
    "HNSW32,SQfp16",
    "IVF{lists},Flat",
    "IVF{lists},SQ8",
    "IVF{lists},SQfp16",
    "IVF{lists},PQ{parts}x4fs",
    "IVF{lists},PQ{parts}x4fsr",
    "IVF{lists},RaBitQ",
    "IVF{lists},RaBitQfs",
)
"""The forms of FAISS's index_factory that a recipe may ask for, with any numbers."""

LANCE_FACTORIES = ("IVF_PQ", "IVF_HNSW_SQ", "IVF_RQ")
"""The indexes of LanceDB that a recipe may ask for."""

_FORM = re.compile(
    r"(?:SQ8|SQfp16|Flat|RaBitQ"
    r"|HNSW\d{1,3}(?:,SQ8|,SQfp16)?"
    r"|IVF(?:\{lists\}|\d{1,7}),(?:SQ8|SQfp16|Flat|PQ(?:\{parts\}|\d{1,4})x4fsr?|RaBitQ|RaBitQfs))"
)
_SUBQUANTIZERS = re.compile(r"PQ(\d+)x4")
_LISTS_PER_ROOT = 4
_MOST_EFFORT = 1 << 20


@dataclass(frozen=True)
class ViewSettings:
    """Which view makes search fast, how it is built and how hard it looks.

    Attributes
    ----------
    kind : {"auto", "exact", "faiss", "lance"}
        What looks for candidates; "auto" leaves it to mmrag, which decides by the number of rows whenever a run ends.
    factory : str
        For FAISS, what it builds, in the language of its index_factory, of the forms in `FACTORIES`; ``{lists}``
        stands for about four times the square root of the rows, ``{parts}`` for an eighth of the dimension, or near it.
        For LanceDB, one of `LANCE_FACTORIES`.
    rescore : {"fp32", "fp16", "int8", ""}
        What the candidates' scores are computed from: the vectors themselves, or a smaller copy beside them, whose
        cosines differ in the fourth (fp16) or third decimal (int8). Empty leaves the scores that FAISS estimates.
    rescore_factor : float
        Candidates for each hit that is wanted, at least 1. Tuned.
    nprobe : int
        Of indexes with lists: how many are looked at. Tuned.
    ef_search : int
        Of HNSW: how many neighbours are kept in sight. Tuned.
    build_at : int
        Segments with fewer rows are compared whole.
    target : float
        Share of the ten best hits of the exact view that tuning looks for, above 0 and up to 1.
    """

    kind: Literal["auto", "exact", "faiss", "lance"] = "exact"
    factory: str = ""
    rescore: Rescore = "fp32"
    rescore_factor: float = 4.0
    nprobe: int = 32
    ef_search: int = 64
    build_at: int = 20_000
    target: float = 0.95

    def __post_init__(self) -> None:
        """Refuse what no view can be built of."""
        if self.kind == "faiss" and not _FORM.fullmatch(self.factory):
            raise RecipeError(
                f"view.factory {self.factory!r} is no form that mmrag builds; choose one of {', '.join(FACTORIES)}, "
                "with other numbers if you like"
            )
        if self.kind == "lance" and self.factory not in LANCE_FACTORIES:
            raise RecipeError(f"view.factory {self.factory!r} is none of {', '.join(LANCE_FACTORIES)}")
        if self.kind not in ("faiss", "lance") and self.factory:
            raise RecipeError(f'view.factory is for kind = "faiss" or "lance", not {self.kind!r}; leave it out')
        if min(self.nprobe, self.ef_search, self.build_at) < 1 or max(self.nprobe, self.ef_search) > _MOST_EFFORT:
            raise RecipeError(
                f"view.nprobe and view.ef_search are from 1 to {_MOST_EFFORT:,}, view.build_at at least 1"
            )
        if not 1 <= self.rescore_factor <= _MOST_EFFORT:  # nan is not
            raise RecipeError(f"view.rescore_factor is at least 1, not {self.rescore_factor:g}")
        if not 0 < self.target <= 1:
            raise RecipeError(f"view.target is a share above 0 and up to 1, not {self.target:g}")

    @property
    def folder_name(self) -> str:
        """Where its files lie: views that are built otherwise have other folders, those tuned otherwise have one."""
        if self.kind in ("auto", "exact"):
            return "exact"
        built = json.dumps([self.factory, self.rescore, self.build_at])
        return f"{self.kind}-{hashlib.blake2b(built.encode(), digest_size=4).hexdigest()}"

    @property
    def has_effort(self) -> bool:
        """Whether there are lists or a graph, so that `nprobe` or `ef_search` says how hard to look."""
        return self.kind == "lance" or self.factory.startswith(("IVF", "HNSW"))

    def with_effort_of(self, other: ViewSettings) -> ViewSettings:
        """Look as hard as other settings do."""
        effort = {name: getattr(other, name) for name in ("rescore_factor", "nprobe", "ef_search")}
        return dataclasses.replace(self, **effort)

    def factory_for(self, rows: int, dimension: int) -> str:
        """Write the factory string for so many vectors.

        Raises
        ------
        RecipeError
            If the vectors cannot be divided into as many parts as it says.
        """
        parts = _SUBQUANTIZERS.search(self.factory)
        if parts and (int(parts[1]) < 1 or dimension % int(parts[1])):
            raise RecipeError(
                f"view.factory {self.factory!r} divides vectors into {parts[1]} parts, and those of this model have "
                f"{dimension} dimensions: take a divisor of {dimension}, such as {_divisor(dimension)}"
            )
        lists = max(1, round(_LISTS_PER_ROOT * math.sqrt(rows)))
        return self.factory.replace("{lists}", str(lists)).replace("{parts}", str(_divisor(dimension)))


@dataclass(frozen=True)
class Tuning:
    """What a view was measured to find.

    Attributes
    ----------
    recall : float
        Share of the ten best hits of an exact search that it finds.
    queries : int
        How many were asked.
    source : str
        Where these are from: "a query log", "the corpus's own texts" or "everyday labels".
    rows : int
        How many could be found when it was measured.
    """

    recall: float
    queries: int
    source: str
    rows: int


@dataclass(frozen=True)
class Choice:
    """Who chose a view, and why it.

    Attributes
    ----------
    auto : bool
        Whether mmrag chose, and chooses again as the corpus grows.
    why : str
        One line.
    """

    auto: bool = False
    why: str = ""


def _divisor(dimension: int) -> int:
    """Find the divisor nearest to an eighth of the dimension."""
    return min((n for n in range(1, dimension + 1) if dimension % n == 0), key=lambda n: abs(n - dimension / 8))
