from __future__ import annotations

import os
import threading
from dataclasses import replace

import numpy as np
import pytest

from mmrag.roles import Identity
from mmrag.stores.features import FeatureCache

IDENTITY = Identity("m", "1", "w", "p", 8)
SHAPE = (50, 64)
ENTRY = {"fp16": 4 + 2 * 50 * 64, "int8": 4 + 50 * 64 + 4 * 50}


def cache_in(folder, limit=10**9, precision="fp16", identity=IDENTITY, computed_in="fp32", shape=SHAPE):
    return FeatureCache(folder, identity, computed_in=computed_in, shape=shape, limit=limit, precision=precision)


def features(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def size(folder):
    return sum(path.stat().st_size for path in files(folder))


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_what_is_kept_is_given_back_and_near_to_what_it_was(tmp_path, precision):
    cache, given = cache_in(tmp_path, precision=precision), features()
    assert cache.get("a") is None
    kept = cache.keep("a", given)
    assert np.array_equal(cache_in(tmp_path, precision=precision).get("a"), kept)
    assert (kept.shape, kept.dtype) == (SHAPE, np.float32)
    bound = np.abs(given) * 2**-11 if precision == "fp16" else np.abs(given).max(axis=1, keepdims=True) / 253
    assert (np.abs(kept - given) <= bound + 1e-7).all()
    assert (np.abs(kept - given) > 0).mean() > 0.9  # it is rounded, not merely copied
    assert size(tmp_path) == ENTRY[precision]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_numbers_at_the_edges(tmp_path, precision):
    given = np.zeros(SHAPE, np.float32)
    given[1] = 1e30
    given[2, 0] = -1e-30
    kept = cache_in(tmp_path, precision=precision).keep("a", given)
    assert np.isfinite(kept).all()
    assert (kept[0] == 0).all()
    assert np.abs(kept[1]).min() > 6e4


def test_the_score_of_a_pair_moves_as_little_as_the_documentation_says(tmp_path):
    """A cross-attention over the features and a head of a standard deviation of one, on random numbers."""
    random = np.random.default_rng(1)
    queries, values = random.normal(size=(8, 64)) / 8, random.normal(size=(64, 64))
    pictures = [features(seed, (200, 64)) for seed in range(40)]

    def score(one):
        weights = np.exp(queries @ one.T)
        return ((weights / weights.sum(1, keepdims=True)) @ one @ values).mean()

    def scores(some):
        return np.array([score(one) for one in some])

    exact = scores(pictures)
    for precision, most in (("fp16", 1e-3), ("int8", 3e-2)):
        cache = cache_in(tmp_path, precision=precision, shape=(200, 64))
        moved = scores([cache.keep(str(n), one) for n, one in enumerate(pictures)]) - exact
        assert 0 < np.abs(moved).max() < most * exact.std()


def test_other_models_precisions_and_contents_are_others(tmp_path):
    cache_in(tmp_path).keep("a", features())
    others = (
        cache_in(tmp_path, precision="int8"),
        cache_in(tmp_path, computed_in="bf16"),
        cache_in(tmp_path, identity=replace(IDENTITY, revision="2")),
        cache_in(tmp_path, shape=(64, 50)),
    )
    assert all(other.get("a") is None for other in others)
    assert cache_in(tmp_path).get("b") is None
    assert cache_in(tmp_path).get("a") is not None


def test_the_longest_unused_go_and_the_limit_holds(tmp_path):
    limit = 10 * ENTRY["fp16"]
    other = cache_in(tmp_path, limit, identity=replace(IDENTITY, revision="2"))
    cache = cache_in(tmp_path, limit)
    clock = iter(range(1, 1000))

    def touch(path):
        os.utime(path, ns=(0, next(clock)))

    def keep(cache, name):
        before = set(files(tmp_path))
        cache.keep(name, features())
        for path in set(files(tmp_path)) - before:
            touch(path)
        assert size(tmp_path) <= limit

    keep(other, "other")
    for n in range(9):
        keep(cache, str(n))
    assert len(files(tmp_path)) == 10
    assert cache.get("0") is not None  # is used now
    keep(cache, "9")
    assert other.get("other") is None
    assert cache.get("1") is None
    assert cache.get("0") is not None
    assert cache.get("9") is not None
    keep(cache_in(tmp_path, limit), "10")
    cache_in(tmp_path, ENTRY["fp16"] - 1).keep("large", features())  # more than there may ever be
    assert cache.get("large") is None


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * ENTRY["fp16"]])
def test_damage_counts_as_absent_and_is_mended(tmp_path, damage):
    cache = cache_in(tmp_path)
    kept = cache.keep("a", features())
    (path,) = files(tmp_path)
    path.write_bytes(damage)
    assert cache.get("a") is None
    cache.keep("a", features())
    assert np.array_equal(cache.get("a"), kept)


def test_a_flipped_bit_is_damage(tmp_path):
    cache = cache_in(tmp_path)
    cache.keep("a", features())
    (path,) = files(tmp_path)
    data = bytearray(path.read_bytes())
    data[100] ^= 4
    path.write_bytes(data)
    assert cache.get("a") is None


def test_a_folder_that_cannot_be_written_costs_the_cache_and_nothing_else(tmp_path):
    (tmp_path / "features").write_text("in the way")
    cache = cache_in(tmp_path / "features")
    assert np.array_equal(cache.keep("a", features()), cache_in(tmp_path / "elsewhere").keep("a", features()))
    assert cache.get("a") is None


def test_several_writers_and_readers_at_once(tmp_path):
    limit = 6 * ENTRY["fp16"]
    expected = {str(n): cache_in(tmp_path / "alone").keep(str(n), features(n)) for n in range(12)}
    wrong: list[object] = []

    def work(seed):
        cache, random = cache_in(tmp_path / "shared", limit), np.random.default_rng(seed)
        for n in random.integers(0, 12, 60):
            found = cache.get(str(n))
            if found is None:
                found = cache.keep(str(n), features(n))
            if not np.array_equal(found, expected[str(n)]):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not [path for path in files(tmp_path / "shared") if path.suffix == ".tmp"]
    cache_in(tmp_path / "shared", limit).keep("one more", features())
    assert size(tmp_path / "shared") <= limit


def test_a_hit_on_a_disk_that_is_read_only_is_a_hit(tmp_path, monkeypatch):
    cache = cache_in(tmp_path)
    kept = cache.keep("a", np.ones(SHAPE, np.float32))

    def read_only(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "utime", read_only)
    assert np.array_equal(cache.get("a"), kept)
