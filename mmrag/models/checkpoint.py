"""Models as a hub stores them for torch: a folder with config.json, weights, tokenizer and preprocessor."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mmrag.errors import ModelError
from mmrag.models import cache
from mmrag.models.cards import Source, hash_files

logger = logging.getLogger("mmrag")

# What vectors and judgements depend on besides weights; no README, and nothing that says how a model was trained.
_SETTINGS = (
    *("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json"),
    *("modules.json", "sentence_*_config.json", "config_sentence_transformers.json"),
    *("tokenizer*", "vocab*", "merges*", "*.model", "added_tokens.json", "special_tokens_map.json"),
)
_ONNX = ("onnx/model.onnx", "onnx/model.onnx_data")
_OTHER_FORMS = ("onnx", "openvino")  # of the same weights
_FRONT_MATTER = re.compile(r"\s*---\s*\n(.*?)\n---", re.DOTALL)
_MULTILINGUAL = "multilingual"


@dataclass(frozen=True)
class Checkpoint:
    """A model's files, all of them here.

    Attributes
    ----------
    reference : str
        As it was asked for: "openai/clip-vit-base-patch32", or a path.
    path : path
        The folder.
    config : dict
        What ``config.json`` holds.
    """

    reference: str
    path: Path
    config: dict[str, Any]

    @classmethod
    def locate(cls, reference: str) -> Checkpoint:
        """Find a model that is here: a folder, or one that `mmrag models pull` has fetched. Nothing is downloaded.

        Raises
        ------
        ModelError
            If it is not here, only in part, or damaged; with the command that fetches it.
        """
        if not reference:
            raise ModelError("a model's name or folder stands behind the colon, as in hf:openai/clip-vit-base-patch32")
        folder = Path(reference).expanduser()
        if not folder.is_dir():
            folder = cache.locate(reference)
        modular = (folder / "modules.json").is_file() and not (folder / "config.json").is_file()
        config = {} if modular else _read_config(folder / "config.json")
        return cls(reference, folder.resolve(), config)

    def within(self, folder: Path) -> Checkpoint:
        """Give the network that lies in a folder of this one, with what config.json says there."""
        if folder.resolve() == self.path:
            return self
        return replace(self, path=folder.resolve(), config=_read_config(folder / "config.json"))

    @property
    def name(self) -> str:
        """What the model is called: the hub's name, or its kind: an index must know a folder wherever it lies.

        Without the revision that was asked for: whether that is another model, the weights say.
        """
        if os.path.isdir(os.path.expanduser(self.reference)):
            return str(self.config.get("model_type", "model"))
        return self.reference.partition("@")[0]

    @cached_property
    def about(self) -> dict[str, Any]:
        """What the front matter of ``README.md`` says; empty where it says nothing."""
        path = self.path / "README.md"
        if not path.is_file():
            return {}
        import yaml

        try:
            found = _FRONT_MATTER.match(path.read_text(encoding="utf-8"))
            said = yaml.safe_load(found[1]) if found else {}
        except (OSError, ValueError, yaml.YAMLError) as error:  # a model is no worse for it
            logger.warning("what %s says of the model cannot be read: %s", path, error)
            return {}
        return said if isinstance(said, dict) else {}

    @property
    def languages(self) -> tuple[str, ...] | None:
        """ISO 639-1 codes of the languages that the README names: none if it says "multilingual", None if nothing."""
        given = self.about.get("language")
        if not given:
            return None
        codes = [str(code) for code in ([given] if isinstance(given, str) else given)]
        return () if _MULTILINGUAL in codes else tuple(code for code in codes if len(code) == 2)

    @property
    def licence(self) -> str:
        """The licence that the README names."""
        return str(self.about.get("license_name") or self.about.get("license") or "")

    @property
    def source(self) -> Source:
        """What a card says of where the model is from: the hub's commit too, which is no part of its identity."""
        return Source(self.name + cache.at_commit(self.path), self.licence or "as whoever trained it says")

    @property
    def has_safetensors(self) -> bool:
        """Whether the weights are there as safetensors; else they are pickled, and only weights are read of them."""
        return any(self.path.glob("*.safetensors"))

    def fingerprint(self, *, also: Sequence[str] = ()) -> str:
        """Hash all files that results depend on: of weights in several forms, the one that torch reads.

        Parameters
        ----------
        also : sequence of str
            Globs of more settings than encoders and matchers have.
        """
        parts = [self.path, *(path for path in self.path.iterdir() if _is_part(path))]
        weights = [path for part in parts for path in _torch_weights(part)]
        settings = [path for part in parts for glob in (*_SETTINGS, *also) for path in part.glob(glob)]
        found = settings + (weights or [self.path / name for name in _ONNX])
        return hash_files(self.path, sorted({path for path in found if path.is_file()}))


def _is_part(folder: Path) -> bool:
    """Tell whether a folder holds a part of the model: a module of sentence-transformers', or another tokenizer."""
    own = (folder / "config.json").is_file() or (folder / "tokenizer_config.json").is_file()
    return own and folder.name not in _OTHER_FORMS


def _torch_weights(folder: Path) -> list[Path]:
    return list(folder.glob("*.safetensors")) or list(folder.glob("*.bin"))


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} is not a model's configuration")
    return config
