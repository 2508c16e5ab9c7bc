"""What lies beside pictures: their sidecars, and the captions files that the index goes by."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mmrag.errors import InputError
from mmrag.ingest.words import Words
from mmrag.sources.captions import read_captions
from mmrag.sources.sidecar import Sidecars
from mmrag.sources.told import Told
from mmrag.sources.uri import absolute, to_uri
from mmrag.sources.walk import has_suffix

_log = logging.getLogger(__name__)

_VERSION = "1"
"""Of what is read out of pictures: those that an older one has read are read again, and not embedded again."""


@dataclass(frozen=True)
class _Entry:
    told: Told
    origin: str
    state: str


class Notes:
    """Tells what lies beside each picture of a run. Folders and captions files are looked at once, when needed.

    Parameters
    ----------
    home : path
        The folder that uris are relative to.
    captions : sequence of str
        Uris of captions files; of a text or fact that several tell of a picture, the last one's counts.

    Attributes
    ----------
    captions : tuple of str
        The same.
    """

    def __init__(self, home: Path, captions: Sequence[str] = ()) -> None:
        self._home = home
        self.captions = tuple(captions)
        self._sidecars = Sidecars()

    def state(self, path: str, uri: str) -> str:
        """Say in a few words what lies beside a picture now: a row that was read with the same says the same.

        Empty for a file that has no picture's suffix.
        """
        if not has_suffix(path):
            return ""
        sidecar, entry = self._sidecars.of(path), self._entries.get(uri)
        return " · ".join([_VERSION, *(one.state for one in (sidecar, entry) if one)])

    def words(self, path: str, uri: str) -> Words:
        """Read what lies beside a picture; a captions file says it better than a sidecar."""
        sidecar, entry = self._sidecars.of(path), self._entries.get(uri)
        beside = _words(sidecar.read(), sidecar.name) if sidecar else Words()
        return _words(entry.told, entry.origin).over(beside) if entry else beside

    def load(self) -> None:
        """Read the captions files now.

        Raises
        ------
        InputError
            If one cannot be read, as `read_captions` says, or is gone.
        """
        _ = self._entries

    def tell_strays(self, uris: Iterable[str]) -> None:
        """Log how many pictures captions files name that are none of `uris`."""
        if not self.captions:
            return
        known = set(uris)
        for origin in self.captions:
            strays = [uri for uri, entry in self._entries.items() if entry.origin == origin and uri not in known]
            if strays:
                count = "1 picture" if len(strays) == 1 else f"{len(strays):,} pictures"
                _log.warning("%s names %s not in the index, such as %s", origin, f"{count} that are", strays[0])

    @cached_property
    def _entries(self) -> dict[str, _Entry]:
        found: dict[str, _Entry] = {}
        for origin in self.captions:
            for uri, told in self._read(origin).items():
                before = found.get(uri)
                told = _later(before.told, told) if before else told
                found[uri] = _Entry(told, origin, _digest(told))
        return found

    def _read(self, origin: str) -> dict[str, Told]:
        path = self._home / origin
        if not path.is_file():
            raise InputError(
                f"the captions file {path} is gone; bring it back, or let the index do without: "
                "mmrag index --no-captions"
            )
        return {_uri(name, self._home): told for name, told in read_captions(path).items()}


def _uri(path: str, home: Path) -> str:
    return to_uri(absolute(os.path.normpath(path), home), home)


def _later(before: Told, after: Told) -> Told:
    return Told(after.texts or before.texts, before.facts | after.facts)


def _digest(told: Told) -> str:
    content = json.dumps([told.texts, told.facts], sort_keys=True)
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


def _words(told: Told, origin: str) -> Words:
    text = "\n".join(told.texts)
    return Words({"text": text}, told.facts, {"text": origin}) if text else Words(facts=told.facts)
