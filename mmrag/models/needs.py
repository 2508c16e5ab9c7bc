"""Which files of which repositories a model needs; code is never among them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmrag.errors import ModelError
from mmrag.models import cache, catalogue, gguf_files
from mmrag.models.gguf_files import Wheel

Choice = Callable[[Collection[str]], list[str]]

_MODULE = r"((\d+_\w+|qformer_tokenizer)/)?"  # layers of sentence-transformers, and InstructBLIP's second tokenizer
_SMALL = re.compile(rf"{_MODULE}[\w.-]+\.(json|txt|model)|README\.md|card\.toml")
_ONNX = re.compile(r"onnx/((vision|text)_)?model\.(onnx(_data|\.data)?|safetensors)")


@dataclass(frozen=True)
class Need:
    """Some files of a repository.

    Attributes
    ----------
    repository, revision : str
        As the hub names them.
    choose : callable
        Takes the names of all files and returns those that are needed.
    weights : {"torch", "open_clip", "onnx"} or None
        Which weights are among them.
    """

    repository: str
    revision: str
    choose: Choice
    weights: cache.Kind | None = "torch"

    def is_here(self) -> bool:
        """Tell whether they have been fetched."""
        if self.weights:
            return cache.is_here(self.repository, self.revision, self.weights)
        return cache.snapshot(self.repository, self.revision) is not None

    def folder(self) -> Path | None:
        """Find the folder that they are in; None if they are not here."""
        return cache.snapshot(self.repository, self.revision)


@dataclass(frozen=True)
class FileNeed(Need):
    """One file of a repository, which a wheel may carry as well."""

    reference: str = ""
    wheel: Wheel | None = None

    def find(self) -> Path | None:
        """Find the file, wherever it came from."""
        return gguf_files.find(self.reference, self.wheel)

    def is_here(self) -> bool:  # noqa: D102
        return self.find() is not None

    def folder(self) -> Path | None:  # noqa: D102
        found = self.find()
        return found.parent if found else None


def needs(name: str) -> list[Need]:
    """Say what a model needs of the hub; the first is the model itself, and nothing is needed of what ships with mmrag.

    Parameters
    ----------
    name : str
        A short name of the catalogue, or "family:reference".

    Raises
    ------
    ModelError
        If no hub has models of that name or kind.
    MissingExtraError
        If the library that knows where the weights are is not installed.
    """
    full = catalogue.full_name(name)
    if full == "builtin":
        return []
    family, _, reference = full.partition(":")
    if family not in _FAMILIES or not reference:
        raise ModelError(f"{name!r} cannot be fetched; {_what_can_be(name)}")
    return _FAMILIES[family](reference)


def _what_can_be(name: str) -> str:
    if os.path.isdir(os.path.expanduser(name)):
        return "it is a folder, which is used as it is"
    if cache.is_repository(name) and "/" in name:
        return f"a repository of the hub is written hf:{name}"
    kinds = ", ".join(f"{family}:NAME" for family in sorted(_FAMILIES))
    return f"give a name that `mmrag models` lists, or one of {kinds}.{catalogue.did_you_mean(name)}"


def small_files(names: Collection[str]) -> list[str]:
    """Choose configuration, tokenizer, preprocessor and model card."""
    return sorted(name for name in names if _SMALL.fullmatch(name) and not name.endswith(cache.INDEX))


def torch_files(names: Collection[str]) -> list[str]:
    """Choose what a model of transformers, timm or sentence-transformers is made of."""
    folders: dict[str, list[str]] = {}
    for name in sorted(names):
        folder = name[: name.rfind("/") + 1]
        if re.fullmatch(_MODULE, folder):
            folders.setdefault(folder, []).append(name.removeprefix(folder))
    weights = [folder + name for folder, inside in folders.items() for name in _weights(inside)]
    return [*small_files(names), *weights] if weights else []


def _weights(names: Sequence[str]) -> list[str]:
    """Choose the weights in a folder: safetensors, or else .bin; one file, or else its shards and their index."""
    for pattern in cache.WEIGHTS["torch"]:
        found = {name: match for name in names if (match := pattern.fullmatch(name))}
        whole = [name for name, match in found.items() if match["shard"] is None]
        if found:
            return whole or [name for name in names if pattern.fullmatch(name.removesuffix(cache.INDEX))]
    return []


def onnx_files(names: Collection[str]) -> list[str]:
    """Choose the towers in single precision, and what is beside them."""
    towers = sorted(name for name in names if _ONNX.fullmatch(name))
    return [*small_files(names), *towers] if any(name.endswith(".onnx") for name in towers) else []


def _hub(reference: str) -> list[Need]:
    return [_repository(reference, torch_files)]


def _onnx(reference: str) -> list[Need]:
    return [replace(_repository(reference, onnx_files), weights="onnx")]


def _repository(reference: str, choose: Choice) -> Need:
    repository, revision = cache.parse_reference(reference)
    if not cache.is_repository(repository):
        raise ModelError(
            f"{repository!r} is no name of a hub's repository, which look like openai/clip-vit-base-patch32"
        )
    return Need(repository, revision, choose)


def _gguf(reference: str) -> list[Need]:
    parsed = gguf_files.parse_hub(reference)
    if parsed is None or gguf_files.is_path(reference):
        raise ModelError(
            f"gguf:{reference} is no file of a hub, which look like gguf:OWNER/NAME/FILE.gguf; one that is here is "
            "used as it is"
        )
    repository, revision, file = parsed
    entry = catalogue.find(f"gguf:{reference}")
    return [
        FileNeed(
            repository,
            revision,
            lambda names: [file] if file in names else [],
            weights=None,
            reference=reference,
            wheel=entry.wheel if entry else None,
        )
    ]


def _timm(reference: str) -> list[Need]:
    from mmrag.models.backbone import import_timm

    timm = import_timm()
    try:
        config = timm.get_pretrained_cfg(reference, allow_unregistered=False) if timm.is_model(reference) else None
    except RuntimeError as error:  # an unknown tag
        raise ModelError(f"timm has no such weights: {error}") from error
    if config is None or not config.hf_hub_id:
        near = ", ".join(timm.list_models(f"*{reference.partition('.')[0]}*", pretrained=True)[:5])
        raise ModelError(
            f"timm knows of no weights {reference!r} on a hub, so they cannot be fetched{near and f'; it has {near} …'}"
        )
    return [_repository(config.hf_hub_id, torch_files)]


def _open_clip(reference: str) -> list[Need]:
    from mmrag.models.open_clip import import_open_clip, weight_names

    architecture, _, tag = reference.partition("/")
    library = import_open_clip()
    table = library.get_pretrained_cfg(architecture, tag)
    if not table:
        tags = ", ".join(library.list_pretrained_tags_by_model(architecture)) or "none"
        raise ModelError(
            f"OpenCLIP has no weights {tag!r} of {architecture!r}; it has: {tags}. All: mmrag models --all"
        )
    repository = table["hf_hub"].rpartition("/")[0]
    if not repository:
        raise ModelError(
            f"the weights {tag} of {architecture} are on no hub, so they cannot be checked and are not fetched; "
            f"fetch {table.get('url') or 'them'} yourself and give the file's path"
        )
    weights = Need(repository, "main", lambda names: _one_of(names, weight_names(table)), "open_clip")
    text = library.get_model_config(architecture)["text_cfg"]
    towers = dict.fromkeys(text[key] for key in ("hf_model_name", "hf_tokenizer_name") if key in text)
    others = [Need(tower, "main", small_files, weights=None) for tower in towers if tower != repository]
    return [weights, *others]


def _one_of(names: Collection[str], wanted: Sequence[str]) -> list[str]:
    found = next((name for name in wanted if name in names), None)
    return [*small_files(names), found] if found else []


_FAMILIES: dict[str, Callable[[str], list[Need]]] = {
    "blip": _hub,
    "blip2": _hub,
    "cross": _hub,
    "gguf": _gguf,
    "hf": _hub,
    "onnx": _onnx,
    "openclip": _open_clip,
    "timm": _timm,
}
