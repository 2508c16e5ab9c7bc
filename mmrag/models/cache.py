"""What of a hub's models is here: a look at the cache folder of huggingface_hub, without it and without a network."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Literal

from mmrag.errors import ModelError

Kind = Literal["torch", "onnx"]

# sentence-transformers may keep its first layer, which has the weights, in a folder: 0_Transformer
_WEIGHTS = {
    "torch": ("*.safetensors", "*.bin", "0_*/*.safetensors", "0_*/*.bin", "*.pt", "*.pth"),
    "onnx": ("onnx/*.onnx",),
}
_REPOSITORY = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def is_repository(name: str) -> bool:
    """Tell whether a repository of the hub could be called so."""
    return bool(_REPOSITORY.fullmatch(name))


def hub_cache() -> Path:
    """Where huggingface_hub keeps what was fetched: HF_HUB_CACHE, or hub below HF_HOME."""
    given = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if given:
        return Path(os.path.expandvars(given)).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or os.path.join(cache, "huggingface")
    return Path(os.path.expandvars(home)).expanduser() / "hub"


def repository_folder(repository: str) -> Path:
    """Where a repository's blobs, snapshots and refs lie, or would."""
    return hub_cache() / f"models--{repository.replace('/', '--')}"


def snapshot(repository: str, revision: str = "main") -> Path | None:
    """Find the folder of a repository's files at a branch, tag or commit; None if nothing of it is here."""
    folder = repository_folder(repository)
    commit = revision
    with suppress(OSError):
        commit = (folder / "refs" / revision).read_text(encoding="utf-8").strip()
    path = folder / "snapshots" / commit
    return path if path.is_dir() else None


def at_commit(folder: Path) -> str:
    """Say, for behind a name, which commit of a hub's repository a folder is; nothing if it is none."""
    return f", commit {folder.name}" if folder.parent.name == "snapshots" else ""


def partly_here(repository: str) -> bool:
    """Tell whether a fetch was begun and has not ended."""
    return any(repository_folder(repository).glob("blobs/*.incomplete"))


def missing(folder: Path, kind: Kind = "torch") -> str | None:
    """Say what weights a snapshot or any other model folder lacks; None if they are all there."""
    gaps = []
    for glob in _WEIGHTS[kind]:
        gap = _missing_shard(folder, f"{glob}.index.json")
        if gap is None and any(path.is_file() for path in folder.glob(glob)):
            return None
        gaps += [gap] if gap else []
    return gaps[0] if gaps else "its weights"


def is_here(repository: str, revision: str = "main", kind: Kind = "torch") -> bool:
    """Tell whether a repository's snapshot is here with all its weights."""
    path = snapshot(repository, revision)
    return path is not None and missing(path, kind) is None


def locate(reference: str, *, family: str = "hf", kind: Kind = "torch") -> Path:
    """Find a repository's snapshot that is here with all its weights.

    Parameters
    ----------
    reference : str
        "owner/name", or "owner/name@revision".
    family : str
        Before the colon, for `mmrag models pull`.
    kind : {"torch", "onnx"}
        Which weights are looked for.

    Raises
    ------
    ModelError
        If it is not here, or only in part; with the command that fetches it.
    """
    repository, _, revision = reference.partition("@")
    path = snapshot(repository, revision or "main")
    gap = missing(path, kind) if path else None
    if path and gap is None:
        return path
    pull = f"mmrag models pull {family}:{reference}"
    if path or partly_here(repository):
        what = f"without {gap}" if gap else "its download has not ended"
        raise ModelError(f"{reference!r} is here only in part, {what}; fetch the rest: {pull}")
    raise ModelError(f"{reference!r} is neither a folder nor a model that is here; fetch it: {pull}")


def _missing_shard(folder: Path, glob: str) -> str | None:
    """Name the first shard that an index speaks of and that is not there."""
    for index in folder.glob(glob):
        with suppress(OSError, ValueError, KeyError, AttributeError):
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            gap = next((shard for shard in shards if not (folder / shard).is_file()), None)
            if gap:
                return str(gap)
    return None
