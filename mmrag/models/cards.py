"""What a model is: its card, and the hash of its files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mmrag import recipe
from mmrag.errors import ModelError, RecipeError

CARD_NAME = "card.toml"


@dataclass(frozen=True)
class Source:
    """Something that a model was made from, and its licence."""

    name: str
    licence: str
    use: str = ""


@dataclass(frozen=True)
class Card:
    """A frozen description of a model.

    Attributes
    ----------
    name, revision : str
        What it is called; the revision changes whenever the weights do.
    family : str
        Which file of `mmrag.models` runs it.
    roles : tuple of str
        What it can do: "encoder".
    dimension : int
        Length of its vectors.
    max_tokens : int
        Longest text that it reads, in tokens, special tokens counted.
    languages : tuple of str
        ISO 639-1 codes of the languages that it reads; empty when nobody said.
    weights : str
        "sha256:…" over its files, or empty when the card was written by hand.
    licence_code, licence_weights : str
        SPDX identifiers or a plain sentence.
    """

    name: str
    family: str
    revision: str
    dimension: int
    roles: tuple[Literal["encoder"], ...] = ("encoder",)
    max_tokens: int = 128
    languages: tuple[str, ...] = ()
    summary: str = ""
    weights: str = ""
    licence_code: str = ""
    licence_weights: str = ""
    sources: tuple[Source, ...] = ()
    data: str = ""
    training: str = ""
    figures: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse numbers that no model has."""
        if self.dimension < 1 or self.max_tokens < 2:
            raise RecipeError("dimension must be at least 1 and max_tokens at least 2")


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


def hash_files(folder: Path) -> str:
    """Hash everything in a model folder that its vectors depend on: all files but the card.

    Returns
    -------
    str
        "sha256:" and the digest over the sorted relative names and contents.
    """
    digest = hashlib.sha256()
    for path in model_files(folder):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{digest.hexdigest()}"


def model_files(folder: Path) -> list[Path]:
    """List the files that a model's vectors depend on."""
    patterns = ("onnx/*.onnx", "onnx/*.safetensors", "tokenizer.json", "preprocessor_config.json")
    return sorted(path for pattern in patterns for path in folder.glob(pattern))
