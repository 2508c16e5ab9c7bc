"""What a model is: its card, and the hash of its files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Literal

from mmrag import recipe
from mmrag.errors import ModelError, RecipeError
from mmrag.models.memo import remembered

CARD_NAME = "card.toml"

Role = Literal["encoder", "matcher", "generator"]
Modality = Literal["image", "text"]


@dataclass(frozen=True)
class Source:
    """Something that a model was made from, and its licence."""

    name: str
    licence: str
    use: str = ""


@dataclass(frozen=True)
class Calibration:
    """What makes a probability of a cosine, for words that look for pictures: that this picture matches.

    A logistic regression, fitted by ``python -m benchmarks.nothing --fit``.

    Attributes
    ----------
    bias, cosine, words : float
        Its weights: of one, of the cosine, and of the natural logarithm of the number of words.
    least : float
        Where no hit of a search is this probable, nothing is likely to match.
    data : str
        What it was fitted on.
    """

    bias: float
    cosine: float
    words: float
    least: float
    data: str = ""

    def __post_init__(self) -> None:
        """Refuse what is no probability, or falls where it must rise."""
        if not 0 <= self.least <= 1 or not 0 < self.cosine < inf:
            raise RecipeError(
                "least is a probability, from 0 to 1, and cosine a weight above 0, "
                f"not {self.least:g} and {self.cosine:g}"
            )


@dataclass(frozen=True)
class Card:
    """A frozen description of a model.

    Attributes
    ----------
    name, revision : str
        What it is called; the revision changes whenever the weights do, and for no other reason.
    family : str
        Which file of `mmrag.models` runs it.
    roles : tuple of str
        What it can do: "encoder", "matcher", "generator".
    modalities : tuple of str
        What it embeds, judges or describes: "image", "text".
    dimension : int
        Length of its vectors; 0 if it is no encoder.
    vectors : int
        How many of them a picture has. The cosine of one query vector and several is the highest of theirs.
    max_tokens : int
        Longest text that it reads, in tokens, special tokens counted.
    text_padding : {"longest", "full"}
        Whether a batch of texts is padded to its longest text, or always to `max_tokens`: what attends to
        padding needs the latter.
    languages : tuple of str
        ISO 639-1 codes of the languages that it reads; empty when nobody said.
    logit_scale : float
        What makes probabilities of its cosines: they are multiplied with it before a softmax over labels. One over
        the temperature that training ended with; 0 when nobody said.
    calibration : Calibration or None
        What makes probabilities of the cosines of hits; None when nobody has fitted it.
    weights : str
        "sha256:…" over its files, or empty when the card was written by hand.
    licence_code, licence_weights : str
        SPDX identifiers or a plain sentence.
    """

    name: str
    family: str
    revision: str
    dimension: int
    roles: tuple[Role, ...] = ("encoder",)
    modalities: tuple[Modality, ...] = ("image", "text")
    vectors: int = 1
    max_tokens: int = 128
    text_padding: Literal["longest", "full"] = "longest"
    languages: tuple[str, ...] = ()
    logit_scale: float = 0.0
    summary: str = ""
    weights: str = ""
    licence_code: str = ""
    licence_weights: str = ""
    sources: tuple[Source, ...] = ()
    data: str = ""
    training: str = ""
    figures: dict[str, str] = field(default_factory=dict)
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that no model has."""
        if self.dimension < ("encoder" in self.roles) or self.max_tokens < 2 or self.vectors < 1:
            raise RecipeError("dimension (of an encoder) and vectors must be at least 1, and max_tokens at least 2")
        if not 0 <= self.logit_scale < inf:
            raise RecipeError(f"logit_scale is a number above 0, or 0 for unknown, not {self.logit_scale:g}")


def read_card(folder: Path) -> Card:
    """Read the card of a model folder.

    Raises
    ------
    ModelError
        If the folder has no card.
    """
    path = folder / CARD_NAME
    if not path.is_file():
        raise ModelError(f"{folder} is not a model folder: it has no {CARD_NAME}. `mmrag train --out DIR` writes one")
    return recipe.load(path, Card)


def revision_of(weights: str) -> str:
    """Give the revision of weights, by their hash: a hub's commit changes with every letter of a README."""
    return weights.removeprefix("sha256:")[:8]


def hash_files(folder: Path, files: Sequence[Path]) -> str:
    """Hash files of a model folder; those that have not changed since the last time are not read again.

    Returns
    -------
    str
        "sha256:" and the digest over the relative names and contents, in the order given.
    """
    described = [(path.relative_to(folder).as_posix(), *_state(path)) for path in files]
    key = [os.path.realpath(folder), described]
    return str(remembered("hashes", key, lambda: _hash(folder, files)))


def _state(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_size, about.st_mtime_ns


def _hash(folder: Path, files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{digest.hexdigest()}"
