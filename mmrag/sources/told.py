"""What a file beside pictures tells of one of them: texts, and facts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmrag.sources.pairs.row import IMAGE_KEYS, TEXT_KEYS, texts_of

_NO_FACTS = frozenset([*IMAGE_KEYS, *TEXT_KEYS, "id", "image_id"])


@dataclass(frozen=True)
class Told:
    """What is told of one picture.

    Attributes
    ----------
    texts : tuple of str
        Its captions.
    facts : dict
        Names and values as JSON holds them: numbers, texts, true and false, and lists of these.
    """

    texts: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    def __add__(self, more: Told) -> Told:
        """Join what several lines tell: all texts, each once; of a fact that they disagree on, the last."""
        return Told(tuple(dict.fromkeys((*self.texts, *more.texts))), self.facts | more.facts)


def told_by(fields: Mapping[str, Any]) -> Told:
    """Sort what stands under the keys of an object: texts under those of `mmrag.sources.pairs`, facts under others."""
    facts = {name: value for name, value in fields.items() if name not in _NO_FACTS and _is_fact(value)}
    return Told(texts_of(fields, None), facts)


def _is_fact(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)  # JSON has no other
    if isinstance(value, list):
        return bool(value) and all(_is_fact(one) and not isinstance(one, list) for one in value)
    return isinstance(value, (bool, int)) or (isinstance(value, str) and bool(value.strip()))
