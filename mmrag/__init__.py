"""Multimodal retrieval on your own pictures: index a folder, search it in words, offline.

>>> import mmrag
>>> index = mmrag.create("photos")  # doctest: +SKIP
>>> index.add("./images")  # doctest: +SKIP
>>> for hit in index.search("a dog on a beach", k=5):  # doctest: +SKIP
...     print(hit.rank, hit.score, hit.item.uri)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mmrag.errors import MmragError
from mmrag.types import Changes, Checkup, Classification, Compaction, Fact, Failure, Hit, Item, Query, Term, Version
from mmrag.version import __version__

if TYPE_CHECKING:
    from mmrag.compose.answer import Answer
    from mmrag.compose.ask import ask
    from mmrag.compose.chat import Chat
    from mmrag.compose.illustrate import illustrate
    from mmrag.evaluate import evaluate_captions, evaluate_pairs
    from mmrag.home import create
    from mmrag.home import open_index as open
    from mmrag.index import Index
    from mmrag.models.cards import Card
    from mmrag.models.registry import load_encoder, load_generator, load_matcher, register
    from mmrag.roles import Encoder, Generator, Identity, Judgement, Matcher, Model
    from mmrag.search.parse import parse_query
    from mmrag.zeroshot.files import classify

__all__ = [
    "Answer",
    "Card",
    "Changes",
    "Chat",
    "Checkup",
    "Classification",
    "Compaction",
    "Encoder",
    "Fact",
    "Failure",
    "Generator",
    "Hit",
    "Identity",
    "Index",
    "Item",
    "Judgement",
    "Matcher",
    "MmragError",
    "Model",
    "Query",
    "Term",
    "Version",
    "__version__",
    "ask",
    "classify",
    "create",
    "evaluate_captions",
    "evaluate_pairs",
    "illustrate",
    "load_encoder",
    "load_generator",
    "load_matcher",
    "open",
    "parse_query",
    "register",
]

_LAZY = {
    "Answer": "mmrag.compose.answer:Answer",
    "Card": "mmrag.models.cards:Card",
    "Chat": "mmrag.compose.chat:Chat",
    "Encoder": "mmrag.roles:Encoder",
    "Generator": "mmrag.roles:Generator",
    "Identity": "mmrag.roles:Identity",
    "Index": "mmrag.index:Index",
    "Judgement": "mmrag.roles:Judgement",
    "Matcher": "mmrag.roles:Matcher",
    "Model": "mmrag.roles:Model",
    "ask": "mmrag.compose.ask:ask",
    "classify": "mmrag.zeroshot.files:classify",
    "create": "mmrag.home:create",
    "evaluate_captions": "mmrag.evaluate:evaluate_captions",
    "evaluate_pairs": "mmrag.evaluate:evaluate_pairs",
    "illustrate": "mmrag.compose.illustrate:illustrate",
    "load_encoder": "mmrag.models.registry:load_encoder",
    "load_generator": "mmrag.models.registry:load_generator",
    "load_matcher": "mmrag.models.registry:load_matcher",
    "open": "mmrag.home:open_index",
    "parse_query": "mmrag.search.parse:parse_query",
    "register": "mmrag.models.registry:register",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that importing mmrag costs nothing."""
    if name not in _LAZY:
        raise AttributeError(f"module 'mmrag' has no attribute {name!r}")
    module, _, attribute = _LAZY[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
