"""Which view suits a corpus: decided by its rows, their dimension and the memory, with the reason in one line."""

from __future__ import annotations

import importlib.util
import math
import os
from dataclasses import replace

from mmrag.stores.view_settings import Choice, ViewSettings

_BYTES_PER_SECOND = 20e9
"""What two cores compare; fewer than the 37 GB/s that they can read."""
_PATIENCE_MS = 30
_MEMORY_SHARE = 0.5
"""Of the free memory that a view may keep busy."""

_HNSW_LINKS = 2 * 32 * 4
"""Bytes of a vector's links."""


def first_choice(asked: ViewSettings) -> tuple[ViewSettings, Choice]:
    """Give a new index its view: what was asked for, or, where that is left to mmrag, the exact one for now."""
    if asked.kind != "auto":
        return asked, Choice(why="it was asked for")
    return ViewSettings(kind="exact", target=asked.target), Choice(auto=True, why="there is little to search yet")


def choose(
    rows: int, shape: tuple[int, ...], *, target: float = 0.95, free_bytes: int | None = None
) -> tuple[ViewSettings, str]:
    """Choose the view of a corpus.

    Exact while a search reads its vectors within 30 ms or so; then HNSW over bytes if half of the free memory holds
    it; then lists of vectors in one bit a dimension, whose candidates are compared from the disk.

    Parameters
    ----------
    rows : int
        How many can be found.
    shape : tuple of int
        Of an item's vectors.
    target : float
        Recall that the view will be tuned for.
    free_bytes : int or None
        Memory to be had; by default this machine's.

    Returns
    -------
    settings : ViewSettings
    why : str
        One line.
    """
    vectors, dimension = rows * math.prod(shape[:-1]), shape[-1]
    expected = vectors * dimension / _BYTES_PER_SECOND * 1e3  # of a copy in bytes
    about = f"{rows:,} × {' × '.join(map(str, shape))}"
    exact = ViewSettings(kind="exact", target=target)
    if expected <= _PATIENCE_MS:
        return exact, f"{about}: comparing all takes about {max(1, round(expected))} ms"
    if importlib.util.find_spec("faiss") is None:
        return exact, f"{about}: comparing all takes about {expected:,.0f} ms; faster with pip install 'mmrag[faiss]'"
    free = _free_bytes() if free_bytes is None else free_bytes
    needed = vectors * (dimension + _HNSW_LINKS)
    settings = replace(exact, kind="faiss", factory="HNSW32,SQ8")
    if needed <= free * _MEMORY_SHARE:
        return settings, f"{about}: comparing all takes about {expected:,.0f} ms, and HNSW in {_gb(needed)} fits"
    settings = replace(settings, factory="IVF{lists},RaBitQfs", rescore_factor=10.0)
    return settings, f"{about}: HNSW would take {_gb(needed)}, and {_gb(free)} are free"


def _gb(count: float) -> str:
    return f"{count / 1e9:,.1f} GB"


def _free_bytes() -> int:
    """Memory that can be had without taking it from anyone, as far as the system tells."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) << 10
    except OSError:  # no Linux
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
