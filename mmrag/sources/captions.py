"""Files of captions: which pictures they name, and the texts and facts that they tell of each."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmrag.errors import InputError
from mmrag.sources.pairs.beside import picture_folder
from mmrag.sources.pairs.captions import caption_texts
from mmrag.sources.pairs.row import IMAGE_KEYS, choose_column, clean_texts, parse_json
from mmrag.sources.told import Told, told_by

_KINDS = ".jsonl, .csv, .tsv, .parquet, or COCO's or Karpathy's .json"


def read_captions(path: Path) -> dict[str, Told]:
    """Read a file that names a picture in each line, row or object.

    A line has the picture's path under one of the keys ``image``, ``image_path``, ``file_name``, ``filename``,
    ``filepath``, ``path``, ``url``; its texts under one of ``texts``, ``text``, ``captions``, ``caption``, ``en``; and
    whatever else it has are facts. Several lines of one picture are joined.

    Parameters
    ----------
    path : path
        JSONL, CSV or TSV with a head, Parquet, or COCO's or Karpathy's JSON.

    Returns
    -------
    dict of str to Told
        By the absolute path of the picture: relative to the file, to a folder beside it, or to the folder above,
        whichever has one of the first that are named.

    Raises
    ------
    InputError
        If it cannot be read, or names no picture.
    """
    lines = _reader(path)(path)
    named: dict[str, Told] = {}
    try:
        for name, told in lines:
            named[name] = named[name] + told if name in named else told
    except OSError as error:
        raise InputError(f"cannot read the captions file {path}: {error.strerror or error}") from error
    if not named:
        raise InputError(f"the captions file {path} names no picture (looked for the keys {', '.join(IMAGE_KEYS)})")
    folder = _folder(path, named)
    return {str(folder / name): told for name, told in named.items()}


def _folder(path: Path, names: Iterable[str]) -> Path:
    try:
        return picture_folder(path, names, None)
    except InputError:  # whoever asks sees that none of them is there
        return path.resolve().parent


def _reader(path: Path) -> Callable[[Path], Iterator[tuple[str, Told]]]:
    readers = {
        ".jsonl": _jsonl,
        ".ndjson": _jsonl,
        ".csv": _table,
        ".tsv": _table,
        ".parquet": _parquet,
        ".json": _collection,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"a captions file is {_KINDS}, not {path.name!r}")
    if not path.is_file():
        raise InputError(f"there is no captions file {str(path)!r}")
    return reader


def _jsonl(path: Path) -> Iterator[tuple[str, Told]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                fields = parse_json(line, f"{path}, line {number}")
                name = _name(fields)
                if name:
                    yield name, told_by(fields)


def _name(fields: Any) -> str | None:
    names = (fields.get(key) for key in IMAGE_KEYS) if isinstance(fields, Mapping) else ()
    return next((name for name in names if isinstance(name, str) and name), None)


def _table(path: Path) -> Iterator[tuple[str, Told]]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        try:
            head = [name.strip() for name in next(rows, [])]
            image = choose_column(head, IMAGE_KEYS, "pictures", where=f"the first line of {path}")
            lines = [dict(zip(head, (value.strip() for value in row), strict=False)) for row in rows if row]
        except csv.Error as error:
            raise InputError(f"{path}, line {rows.line_num}: is not a readable table: {error}") from error
    convert = {name: _conversion([line.get(name, "") for line in lines]) for name in head}
    for line in lines:
        if line.get(image):
            told = told_by({name: value for name, value in line.items() if value})
            yield line[image], Told(told.texts, {name: convert[name](value) for name, value in told.facts.items()})


def _conversion(values: Iterable[str]) -> Callable[[str], Any]:
    """Choose what a column of a table holds: whole numbers, numbers, or texts."""
    written = [value for value in values if value]
    for kind in (int, float):
        try:
            # what begins with a zero, such as 007, is a code; what is no JSON, such as nan, is no number either
            if all(json.loads(value) == kind(value) for value in written):
                return kind
        except ValueError:
            continue
    return str


def _parquet(path: Path) -> Iterator[tuple[str, Told]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            image = choose_column(schema.names, IMAGE_KEYS, "pictures", where=str(path))
            columns = [field.name for field in schema if not pyarrow.types.is_nested(field.type) or _is_list(field)]
            for batch in file.iter_batches(columns=columns):
                for fields in batch.to_pylist():
                    if isinstance(fields.get(image), str) and fields[image]:
                        yield fields[image], told_by({name: _plain(value) for name, value in fields.items()})
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise InputError(f"{path} is not a readable Parquet file: {error}") from error


def _is_list(field: Any) -> bool:
    return str(field.type).startswith(("list<", "large_list<"))


def _plain(value: Any) -> Any:
    """Write times as ISO 8601, and take other numbers for floats."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return float(value) if hasattr(value, "as_tuple") else value


def _collection(path: Path) -> Iterator[tuple[str, Told]]:
    """Go through COCO's or Karpathy's pictures; what else COCO says of a picture are facts."""
    data = parse_json(path.read_bytes(), str(path))
    for name, texts in caption_texts(data, path).items():
        yield name, Told(clean_texts(texts))
    for fields in data["images"] if "annotations" in data else ():
        yield str(fields["file_name"]), told_by(fields)
