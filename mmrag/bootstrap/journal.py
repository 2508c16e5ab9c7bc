"""What a bootstrap has done so far: a line a picture, so that a run that was killed goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mmrag.bootstrap.candidates import Candidate
from mmrag.errors import InputError

NAME = "journal.jsonl"


@dataclass(frozen=True)
class Told:
    """A text of a picture, and what the matcher thinks of it.

    Attributes
    ----------
    text : str
        The text.
    origin : str
        "human" or "model".
    probability : float
        That it is true of the picture.
    """

    text: str
    origin: str
    probability: float


class Journal:
    """The texts of each picture that was described, on disk as soon as they are known.

    Parameters
    ----------
    folder : path
        Where it lies.
    settings : mapping
        What texts and probabilities depend on.

    Raises
    ------
    InputError
        If it was begun with other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        path = folder / NAME
        self._told: dict[str, tuple[str, tuple[Told, ...]]] = {}
        whole = self._read(path, settings) if path.is_file() else 0
        self._file = path.open("ab")
        self._file.truncate(whole)  # a line that was being written when the run was killed
        if not whole:
            self._file.write(json_line(settings).encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def get(self, candidate: Candidate) -> tuple[Told, ...] | None:
        """Give what is known of a picture; None if it was not described, or has changed since."""
        version, told = self._told.get(candidate.key, (None, ()))
        return told if version == candidate.version else None

    def add(self, found: Iterable[tuple[Candidate, tuple[Told, ...]]]) -> None:
        """Keep what was found out about pictures."""
        for candidate, told in found:
            self._told[candidate.key] = (candidate.version, told)
            line = {"key": candidate.key, "version": candidate.version, "told": [asdict(one) for one in told]}
            self._file.write(json_line(line).encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self, path: Path, settings: Mapping[str, Any]) -> int:
        """Read the whole lines; tells how many bytes of the file stay."""
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        try:
            lines = [json.loads(line) for line in data[:whole].split(b"\n")[:-1]]
            begun = lines[0] if lines else dict(settings)
            told = {line["key"]: (line["version"], tuple(Told(**one) for one in line["told"])) for line in lines[1:]}
            if not begun.keys() & settings.keys() or not (whole or json_line(settings).encode().startswith(data)):
                raise ValueError("it does not begin with settings")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(
                f"{path} is damaged, or no journal of bootstrap's: {error}; give another folder, or delete it "
                "to begin anew"
            ) from error
        if not told:
            return 0  # as after a mistake in what was asked for: nothing depends on the settings yet
        _check(begun, settings, path)
        self._told.update(told)
        return whole


def json_line(data: Mapping[str, Any]) -> str:
    """Write an object as a line; half a character, as names of files can hold, is written as JSON's own escape."""
    return json.dumps(data, ensure_ascii=False).encode("utf-8", "backslashreplace").decode() + "\n"


def _check(begun: Mapping[str, Any], settings: Mapping[str, Any], path: Path) -> None:
    for name, value in settings.items():
        if begun.get(name) != value:
            raise InputError(
                f"{path.parent} was begun with {name} {begun.get(name)!r}, and not {value!r}; "
                "give the same, or another folder"
            )
