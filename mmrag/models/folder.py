"""Model folders on disk: which file is which, in our layout and in a hub's.

A folder holds ``tokenizer.json``, ``preprocessor_config.json`` and, under ``onnx/``, an image tower
``vision_model.onnx`` and a text tower ``text_model.onnx``, whose weights may lie beside them; a model of pictures
alone, or of texts alone, has one of them, and not what belongs to the other. A tower may be there in 8 bits too:
``vision_model_int8.onnx``, ``text_model_quantized.onnx``. A second text tower, ``text_model_zh.onnx`` with
``tokenizer_zh.json``, reads texts with Chinese characters. Ours has a ``card.toml``; a hub's has a ``config.json``,
from which a card is made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mmrag.errors import ModelError
from mmrag.models.cards import CARD_NAME, Card, Modality, hash_files, read_card, revision_of

TowerName = Literal["vision", "text", "text_zh"]

TOWERS: dict[Modality, TowerName] = {"image": "vision", "text": "text"}
CHINESE: TowerName = "text_zh"
STEMS: dict[TowerName, str] = {"vision": "vision_model", "text": "text_model", "text_zh": "text_model_zh"}
FILE_SUFFIXES = {"fp32": ("",), "int8": ("_int8", "_quantized", "_uint8")}

# What transformers takes for granted where a config.json says nothing: length of vectors and of texts.
_DEFAULTS = {"clip": (512, 77), "siglip": (768, 64)}


@dataclass(frozen=True)
class ModelFolder:
    """What a model folder holds.

    Attributes
    ----------
    path : path
        The folder.
    card : Card
        Read from ``card.toml``, or made from ``config.json``.
    towers : mapping of tower to mapping of precision to path
        The ONNX files that there are; "fp32" is there for each tower that the card's modalities need.
    """

    path: Path
    card: Card
    towers: Mapping[TowerName, Mapping[str, Path]]

    @classmethod
    def read(cls, path: Path) -> ModelFolder:
        """Look at a model folder.

        Raises
        ------
        ModelError
            If a file is missing or damaged.
        """
        if not path.is_dir():
            raise ModelError(f"there is no model folder {str(path)!r}")
        if (path / CARD_NAME).is_file():
            card = read_card(path)
        elif (path / "config.json").is_file():
            card = _card_from_config(path)
        else:
            raise ModelError(
                f"{path} is not a model folder: it has neither {CARD_NAME} nor config.json. "
                "`mmrag models export` and `mmrag train` write one"
            )
        names = [TOWERS[one] for one in card.modalities]
        if (path / "onnx" / f"{STEMS[CHINESE]}.onnx").is_file():
            names.append(CHINESE)
        return cls(path, card, {name: _tower_files(path, name) for name in names})

    def fingerprint(self) -> str:
        """Hash the files that the model's vectors depend on, in its best precision."""
        return hash_files(self.path, model_files(self.path))


def model_files(folder: Path) -> list[Path]:
    """List the files that a model's vectors depend on: all towers as they are at best, and how input is prepared."""
    prepare = ("tokenizer.json", "tokenizer_zh.json", "tokenizer_config.json", "preprocessor_config.json")
    files = [folder / name for name in prepare]
    for stem in STEMS.values():
        files += folder.glob(f"onnx/{stem}.*")
    return sorted(path for path in files if path.is_file())


def _tower_files(folder: Path, tower: TowerName) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for precision, suffixes in FILE_SUFFIXES.items():
        paths = [folder / "onnx" / f"{STEMS[tower]}{suffix}.onnx" for suffix in suffixes]
        path = next((path for path in paths if path.is_file()), None)
        if path is not None:
            found[precision] = path
    if "fp32" not in found:
        raise ModelError(
            f"the model's file {folder / 'onnx' / f'{STEMS[tower]}.onnx'} is missing; "
            "train, export or install the model again"
        )
    return found


def _card_from_config(folder: Path) -> Card:
    config = _read_config(folder / "config.json")
    text = config.get("text_config") or {}
    usual_dimension, usual_tokens = _DEFAULTS.get(str(config.get("model_type")), (None, None))
    dimension = (
        config.get("projection_dim") or text.get("projection_size") or text.get("hidden_size") or usual_dimension
    )
    max_tokens = text.get("max_position_embeddings", usual_tokens)
    if not isinstance(dimension, int) or not isinstance(max_tokens, int):
        raise ModelError(
            f"{folder / 'config.json'} does not say how long vectors and texts are (projection_dim, "
            "text_config.max_position_embeddings); is this a model with an image and a text tower, such as CLIP?"
        )
    card = Card(
        name=str(config.get("model_type", "onnx")),  # no folder's name: an index must know the model wherever it lies
        family="onnx",
        revision="",
        dimension=dimension,
        max_tokens=max_tokens,
        text_padding="longest" if config.get("model_type") == "clip" else "full",
        summary=f"A {config.get('model_type', 'dual-encoder')} model as a hub stores it, without a card of mmrag's.",
        weights=hash_files(folder, model_files(folder)),
    )
    return replace(card, revision=revision_of(card.weights))


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("text_config") or {}, dict):
        raise ModelError(f"{path} is not a model's configuration")
    return config
