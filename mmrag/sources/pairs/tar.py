"""Webdataset tars: ``NAME.jpg`` beside ``NAME.json`` or ``NAME.txt``."""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from mmrag.errors import InputError, ItemError
from mmrag.sources.file import open_file
from mmrag.sources.limits import MAX_BYTES, SUFFIXES
from mmrag.sources.pairs.facts import facts_of
from mmrag.sources.pairs.row import NO_JSON, TEXT_KEYS, InMemory, InPart, Picture, Row, make_row, parse_json, texts_of


def tar_rows(path: str | Path, text_key: str | None) -> Iterator[Row]:
    """List the samples of a tar; pictures of a compressed one come along, as nothing can be looked up in it."""
    key: str | None = None
    picture: Picture | None = None
    words: Any = None
    damaged = ""
    for archive, member, name, suffix, compressed in _members(path):
        if name != key:
            if key is not None:
                yield _row(key, picture, words, damaged, text_key)
            key, picture, words, damaged = name, None, None, ""
        if f".{suffix}" in SUFFIXES:
            part = InPart(str(path), member.offset_data, member.size)
            picture = InMemory(_read(archive, member)) if compressed else part
        elif suffix == "json":
            try:
                words = parse_json(_read(archive, member), f"{path}: {member.name}")
            except InputError:
                damaged = NO_JSON
        elif suffix == "txt" and words is None:
            words = {"text": _read(archive, member).decode("utf-8", "replace").splitlines()}
    if key is not None:
        yield _row(key, picture, words, damaged, text_key)


def _row(key: str, picture: Picture | None, words: Any, damaged: str, text_key: str | None) -> Row:
    row = make_row(key, picture, texts_of(words, text_key), text_key=text_key)
    facts = facts_of(words, without=(text_key or "", *TEXT_KEYS)) if isinstance(words, dict) else {}
    return row._replace(problem=damaged or row.problem, facts=facts)


def _members(path: str | Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo, str, str, bool]]:
    """List files with their names up to the first dot, what stands after it, and whether the tar is compressed."""
    try:
        with open_file(str(path)) as file:
            archive, compressed = _open(file)
            for member in archive:
                if member.isfile() and not member.issparse() and member.size <= MAX_BYTES:
                    folder, slash, name = _printable(member.name).rpartition("/")
                    stem, _, suffix = name.partition(".")
                    if stem:  # not hidden, as what macOS puts between the files of a sample
                        yield archive, member, folder + slash + stem, suffix.lower(), compressed
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ItemError) as error:
        raise InputError(f"{path} is not a readable tar: {error}") from error


def _printable(name: str) -> str:
    """Write out the bytes of a name that are no UTF-8, which nothing else could store."""
    return name.encode("utf-8", "backslashreplace").decode()


def _open(file: BinaryIO) -> tuple[tarfile.TarFile, bool]:
    try:
        return tarfile.open(fileobj=file, mode="r:"), False
    except tarfile.ReadError:
        file.seek(0)
        return tarfile.open(fileobj=file, mode="r:*"), True


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read() if file else b""
