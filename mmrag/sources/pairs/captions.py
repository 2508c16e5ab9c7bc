"""Captions of published collections: COCO's JSON, and Karpathy's with its splits."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from mmrag.errors import InputError
from mmrag.sources.pairs.row import Row, parse_json
from mmrag.sources.pairs.table import named_rows

_SHAPES = (
    "COCO's (images with id and file_name, annotations with image_id and caption) or "
    "Karpathy's (images with filename, split and sentences)"
)


def caption_rows(path: Path, split: str, text_key: str | None, images: Path | None) -> Iterator[Row]:
    """List the pictures of a JSON file of captions, as COCO or Karpathy lay it out."""
    texts = caption_texts(parse_json(path.read_bytes(), str(path)), path, split=split)
    yield from named_rows(texts, path, text_key, images)


def caption_texts(data: Any, path: Path, *, split: str | None = None) -> dict[str, list[str]]:
    """Take the texts of each picture, by its path, out of a parsed file; of all splits if none is named.

    Raises
    ------
    InputError
        If it is laid out in another way, or `split` is not one of its own.
    """
    try:
        if "annotations" not in data and "sentences" in data["images"][0]:
            return _karpathy(data, split, path)
        return _coco(data, split, path)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise InputError(f"{path} holds no captions in a layout that is known: {_SHAPES}") from error


def _coco(data: Any, split: str | None, path: Path) -> dict[str, list[str]]:
    if split:
        raise InputError(f"{path} has no splits, and {split!r} was asked for; give the file alone")
    names = {image["id"]: str(image["file_name"]) for image in data["images"]}
    texts: dict[str, list[str]] = {name: [] for name in names.values()}
    for one in data["annotations"]:
        texts[names[one["image_id"]]].append(str(one["caption"]))
    return texts


def _karpathy(data: Any, split: str | None, path: Path) -> dict[str, list[str]]:
    splits = {str(image["split"]) for image in data["images"]}
    wanted = splits if split is None else check_splits(split, splits, path)
    return {
        str(Path(image.get("filepath", ""), image["filename"])): [str(one["raw"]) for one in image["sentences"]]
        for image in data["images"]
        if image["split"] in wanted
    }


def check_splits(split: str, splits: Collection[str], path: Path) -> set[str]:
    """Take apart what was asked for, such as ``train+restval``; nothing is everything where there is one split.

    Raises
    ------
    InputError
        If a split is not there, or none of several was chosen.
    """
    wanted = set(split.split("+")) if split else set(splits)
    if not wanted <= set(splits) or (not split and len(splits) > 1):
        asked = f"no split {split!r}" if split else "several splits"
        raise InputError(f"{path} has {asked}; choose of {', '.join(sorted(splits))}: {path}#{min(splits)}")
    return wanted
