"""What a file holds, by its name: a picture, a document, or rows."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Literal

from mmrag.sources.limits import SUFFIXES
from mmrag.types import Modality

Kind = Literal["picture", "document", "rows"]

DOCUMENTS = frozenset([".htm", ".html", ".markdown", ".md", ".rst", ".txt", ".xhtml"])
TARS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
TABLES = (".csv", ".jsonl", ".ndjson", ".parquet", ".tsv")
LANCE = ".lance"

_SAVED = frozenset(["dataset_dict.json", "state.json"])


def kind_of(name: str) -> Kind:
    """Tell what a file holds; what has no other suffix is taken for a picture."""
    if holds_rows(name):
        return "rows"
    return "document" if suffix_of(name) in DOCUMENTS else "picture"


def suffix_of(name: str) -> str:
    """Give the suffix of a name, in small letters, with its dot; empty where there is none."""
    return os.path.splitext(name)[1].lower()


def holds_rows(name: str) -> bool:
    """Tell whether a file, or a Lance dataset, holds many items that are read only if it is named itself."""
    return name.lower().endswith((*TARS, *TABLES, LANCE))


def suffixes_for(modalities: Collection[Modality]) -> frozenset[str]:
    """Choose what a walk looks for, for a model of some modalities."""
    pictures, documents = "image" in modalities, "text" in modalities
    return (SUFFIXES if pictures else frozenset()) | (DOCUMENTS if documents else frozenset())


def is_dataset(folder: str, names: Collection[str]) -> bool:
    """Tell whether a folder, by the names in it, is a Lance dataset, or what `datasets` has saved."""
    if folder.rstrip("/").endswith(LANCE):
        return "_versions" in names
    return not _SAVED.isdisjoint(names)
