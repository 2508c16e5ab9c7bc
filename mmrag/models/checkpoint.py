"""Models as a hub stores them for torch: a folder with config.json, weights, tokenizer and preprocessor."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmrag.errors import ModelError
from mmrag.models.cards import hash_files

_SMALL_FILES = ("*.json", "*.txt", "*.model", "*/config.json")
_WEIGHTS = ("*.safetensors", "*/*.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A model's files, all of them here.

    Attributes
    ----------
    reference : str
        As it was asked for: "openai/clip-vit-base-patch32", or a path.
    path : path
        The folder.
    revision : str
        The hub's commit, or the beginning of the files' hash.
    config : dict
        What ``config.json`` holds.
    """

    reference: str
    path: Path
    revision: str
    config: dict[str, Any]

    @classmethod
    def locate(cls, reference: str) -> Checkpoint:
        """Find a model that is here: a folder, or one that `mmrag models pull` has fetched. Nothing is downloaded.

        Raises
        ------
        ModelError
            If it is not here, or damaged; with the command that fetches it.
        """
        folder = Path(reference).expanduser()
        if not folder.is_dir():
            folder = _in_cache(reference)
        config = _read_config(folder / "config.json")
        revision = folder.name if folder.parent.name == "snapshots" else ""
        return cls(reference, folder.resolve(), revision, config)

    @property
    def name(self) -> str:
        """What the model is called wherever it lies: the hub's name, or the folder's own."""
        return self.path.name if os.path.isdir(os.path.expanduser(self.reference)) else self.reference

    def fingerprint(self) -> str:
        """Hash all files that results depend on."""
        found = {path for glob in (*_SMALL_FILES, *_WEIGHTS) for path in self.path.glob(glob) if path.is_file()}
        return hash_files(self.path, sorted(found))


def cached_file(repository: str, name: str) -> Path | None:
    """Find one file of a model of the hub's where `mmrag models pull` puts it. Nothing is downloaded."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, name)
    return Path(found) if isinstance(found, str) else None


def cached_folder(repository: str) -> Path | None:
    """Find a model of the hub's where `mmrag models pull` puts it. Nothing is downloaded."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        found = cached_file(repository, name)
        if found:
            return found.parent
    return None


def _in_cache(reference: str) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    name, _, revision = reference.partition("@")
    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision or None, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise ModelError(
            f"{reference!r} is neither a folder nor a model that is here; fetch it: mmrag models pull hf:{reference}"
        ) from error


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} is not a model's configuration")
    return config
