from __future__ import annotations

import importlib.util

import pytest

from mmrag.stores.auto import choose, first_choice
from mmrag.stores.view_settings import ViewSettings


@pytest.mark.parametrize(
    ("rows", "shape", "free", "view", "why"),
    [
        (0, (512,), 1e9, "exact", "0 × 512: comparing all takes about 1 ms"),
        (1_000_000, (512,), 1e9, "exact", "1,000,000 × 512: comparing all takes about 26 ms"),
        (3_000_000, (512,), 8e9, "HNSW32,SQ8", "comparing all takes about 77 ms, and HNSW in 2.3 GB fits"),
        (3_000_000, (512,), 4e9, "IVF{lists},RaBitQfs", "HNSW would take 2.3 GB, and 4.0 GB are free"),
        (300_000, (32, 256), 64e9, "HNSW32,SQ8", "300,000 × 32 × 256: comparing all takes about 123 ms"),
    ],
)
def test_the_view_follows_rows_dimension_and_memory(rows, shape, free, view, why):
    settings, reason = choose(rows, shape, target=0.9, free_bytes=int(free))
    assert (settings.factory or settings.kind) == view
    assert settings.target == 0.9
    assert why in reason


def test_without_faiss_it_stays_exact_and_says_what_would_help(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    settings, why = choose(5_000_000, (512,))
    assert settings.kind == "exact"
    assert why.endswith("faster with pip install 'mmrag[faiss]'")


def test_a_view_that_was_asked_for_stays():
    asked = ViewSettings(kind="faiss", factory="SQ8")
    assert first_choice(asked) == (asked, first_choice(asked)[1])
    assert not first_choice(asked)[1].auto
    chosen, choice = first_choice(ViewSettings(kind="auto", target=0.9))
    assert (chosen.kind, chosen.target, choice.auto) == ("exact", 0.9, True)
