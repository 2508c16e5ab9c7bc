"""What of a hub's models is here: a look at the cache folder of huggingface_hub, without it and without a network."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from mmrag.errors import ModelError

Kind = Literal["torch", "open_clip", "onnx"]

INDEX = ".index.json"
_SHARD = r"(?P<shard>-(?P<number>\d{1,5})-of-(?P<count>\d{1,5}))?"
WEIGHTS: dict[Kind, tuple[re.Pattern[str], ...]] = {
    "torch": (re.compile(rf"model{_SHARD}\.safetensors"), re.compile(rf"pytorch_model{_SHARD}\.bin")),
    "open_clip": tuple(re.compile(rf"(open_clip_)?(pytorch_)?model{_SHARD}\.{end}") for end in ("safetensors", "bin")),
    "onnx": (re.compile(rf"[\w.-]+{_SHARD}\.onnx"),),
}
"""Names of weights, the better before the others; an index of shards is named as the whole would be, and `INDEX`."""

# sentence-transformers may keep its first layer, which has the weights, in a folder: 0_Transformer
_PLACES: dict[Kind, tuple[str, ...]] = {"torch": ("*", "0_*/*"), "open_clip": ("*",), "onnx": ("onnx/*",)}
_ALL = "its weights"
_REVISION = re.compile(r"[\w.-]+(/[\w.-]+)*")
_REPOSITORY = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def is_repository(name: str) -> bool:
    """Tell whether a repository of the hub could be called so."""
    return bool(_REPOSITORY.fullmatch(name))


def parse_reference(reference: str) -> tuple[str, str]:
    """Part "owner/name@revision" into its repository and its revision, "main" if it has none.

    Raises
    ------
    ModelError
        If no branch, tag or commit could be called so.
    """
    repository, at, revision = reference.partition("@")
    if not at:
        return repository, "main"
    if not _is_revision(revision):
        raise ModelError(
            f"{revision!r} is no revision of {repository}: after the @ stands a branch, a tag or a commit, such as "
            f"{repository}@main"
        )
    return repository, revision


def _is_revision(name: str) -> bool:
    """Tell whether a branch, tag or commit could be called so; it becomes part of a path."""
    return bool(_REVISION.fullmatch(name)) and not {".", ".."} & set(name.split("/"))


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
    if not _is_revision(revision):
        return None
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
    for place in _PLACES[kind]:
        files = [path for path in folder.glob(place) if path.is_file()]
        for names in WEIGHTS[kind]:
            gap = _gap(files, names)
            if gap is None:
                return None
            gaps.append(gap)
    return next((gap for gap in gaps if gap != _ALL), _ALL)


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
    kind : {"torch", "open_clip", "onnx"}
        Which weights are looked for.

    Raises
    ------
    ModelError
        If it is not here, or only in part; with the command that fetches it.
    """
    repository, revision = parse_reference(reference)
    path = snapshot(repository, revision)
    gap = missing(path, kind) if path else None
    if path and gap is None:
        return path
    pull = f"mmrag models pull {family}:{reference}"
    if path or partly_here(repository):
        what = f"without {gap}" if gap else "its download has not ended"
        raise ModelError(f"{reference!r} is here only in part, {what}; fetch the rest: {pull}")
    raise ModelError(f"{reference!r} is neither a folder nor a model that is here; fetch it: {pull}")


def _gap(files: Sequence[Path], names: re.Pattern[str]) -> str | None:
    """Name what is missing of weights in one format: the first shard that an index or another's number speaks of."""
    found = {path.name: match for path in files if (match := names.fullmatch(path.name))}
    if any(match["shard"] is None for match in found.values()):
        return None
    wanted = {name for match in found.values() for name in _siblings(match)}
    for path in files:
        if path.name.endswith(INDEX) and names.fullmatch(path.name.removesuffix(INDEX)):
            with suppress(OSError, ValueError, KeyError, AttributeError, TypeError):
                wanted |= set(map(str, json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
    return min(wanted - found.keys(), default=None) if wanted else _ALL


def _siblings(shard: re.Match[str]) -> list[str]:
    """Name all shards of the whole that one belongs to."""
    width, count, name = len(shard["number"]), shard["count"], shard.string
    before, after = name[: shard.start("shard")], name[shard.end("shard") :]
    return [f"{before}-{number:0{width}d}-of-{count}{after}" for number in range(1, int(count) + 1)]
