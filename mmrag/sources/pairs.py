"""Pictures with their words, for training and measuring: webdataset tars and JSONL."""

from __future__ import annotations

import json
import logging
import lzma
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmrag.errors import InputError
from mmrag.sources.limits import MAX_BYTES, SUFFIXES

TEXT_KEYS = ("texts", "text", "captions", "caption", "en")

logger = logging.getLogger("mmrag")


@dataclass(frozen=True, slots=True)
class Pair:
    """A picture and the texts that describe it.

    Attributes
    ----------
    id : str
        Its name in the file it came from.
    image : bytes
        The undecoded picture.
    texts : tuple of str
        At least one.
    """

    id: str
    image: bytes
    texts: tuple[str, ...]


def read_pairs(paths: Iterable[str | Path], *, text_key: str | None = None) -> Iterator[Pair]:
    """Read pairs from files, in order.

    Parameters
    ----------
    paths : iterable of path
        ``.tar`` (also compressed) in webdataset layout: ``NAME.jpg`` beside ``NAME.json`` or
        ``NAME.txt`` (a text a line). ``.jsonl``: an object a line with ``image``, a path relative
        to the file, and texts.
    text_key : str or None
        The key whose string or list of strings holds the texts; by default the first present of
        ``texts``, ``text``, ``captions``, ``caption``, ``en``.

    Raises
    ------
    InputError
        If a file is missing, is of another kind, or holds no pair at all. A sample without a
        picture or without texts is skipped with a warning.
    """
    for path in map(Path, paths):
        if not path.is_file():
            raise InputError(f"there is no file {str(path)!r} to read pairs from")
        name = path.name.lower()
        if name.endswith((".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")):
            samples = _read_tar(path)
        elif name.endswith((".jsonl", ".ndjson")):
            samples = _read_jsonl(path)
        else:
            raise InputError(f"{path} is neither a .tar nor a .jsonl file of pairs")
        count = 0
        for sample_id, image, words in samples:
            texts = _texts(words, text_key)
            if image is None or not texts:
                missing = "picture" if image is None else "text" + (f" {text_key!r}" if text_key else "")
                logger.warning("%s: %s has no %s; skipped", path, sample_id, missing)
                continue
            count += 1
            yield Pair(sample_id, image, texts)
        if not count:
            keys = text_key or ", ".join(TEXT_KEYS)
            raise InputError(f"{path} holds no pair of a picture and a text (looked for the keys {keys})")


Sample = tuple[str, bytes | None, Any]


def _read_tar(path: Path) -> Iterator[Sample]:
    try:
        with tarfile.open(path, "r:*") as archive:
            current: str | None = None
            image: bytes | None = None
            words: Any = None
            for member in archive:
                if not member.isfile() or member.size > MAX_BYTES:
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if key != current:
                    if current is not None:
                        yield current, image, words
                    current, image, words = key, None, None
                file = archive.extractfile(member)
                data = file.read() if file else b""
                if f".{suffix.lower()}" in SUFFIXES:
                    image = data
                elif suffix.lower() == "json":
                    words = _parse(data, f"{path}: {member.name}")
                elif suffix.lower() == "txt" and words is None:
                    words = {"text": data.decode("utf-8", "replace").splitlines()}
            if current is not None:
                yield current, image, words
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{path} is not a readable tar: {error}") from error


def _read_jsonl(path: Path) -> Iterator[Sample]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            row = _parse(line, f"{path}, line {number}")
            name = row.get("image") if isinstance(row, dict) else None
            if not isinstance(name, str):
                raise InputError(f"{path}, line {number}: needs an object with the key 'image', a path")
            file = path.parent / name
            try:
                image = file.read_bytes()
            except OSError as error:
                logger.warning("%s, line %d: cannot read %s: %s", path, number, name, error.strerror)
                image = None
            yield str(row.get("id", name)), image, row


def _parse(data: bytes, where: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not valid JSON: {error}") from error


def _texts(words: Any, text_key: str | None) -> tuple[str, ...]:
    if not isinstance(words, dict):
        return ()
    key = text_key or next((key for key in TEXT_KEYS if key in words), "")
    found = words.get(key, [])
    texts = [found] if isinstance(found, str) else found if isinstance(found, list) else []
    return tuple(text.strip() for text in texts if isinstance(text, str) and text.strip())
