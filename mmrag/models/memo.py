"""Results that are slow to find and safe to forget, remembered in the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any


def recall(kind: str, key: Any) -> Any:
    """Give back what was remembered of `kind` under `key`, or None."""
    with suppress(OSError, ValueError):
        return json.loads(_path(kind, key).read_text(encoding="utf-8"))
    return None


def remembered(kind: str, key: Any, find: Callable[[], Any]) -> Any:
    """Give back what was remembered, or find it and remember it.

    Parameters
    ----------
    kind : str
        A folder below the cache folder (``$XDG_CACHE_HOME/mmrag``, or ``~/.cache/mmrag``).
    key : anything JSON can hold
        Everything that the result depends on.
    find : callable
        Makes the result, something JSON can hold and not None.
    """
    known = recall(kind, key)
    if known is not None:
        return known
    found = find()
    path = _path(kind, key)
    with suppress(OSError):  # a cache that cannot be written is no cache
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}")
        aside.write_text(json.dumps(found), encoding="utf-8")
        os.replace(aside, path)
    return found


def cache_folder() -> Path:
    """Where mmrag keeps what can be made or fetched again: ``$XDG_CACHE_HOME/mmrag``, or ``~/.cache/mmrag``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "mmrag")


def _path(kind: str, key: Any) -> Path:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_folder() / kind / f"{digest[:32]}.json"
