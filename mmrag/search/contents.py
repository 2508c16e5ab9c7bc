"""Contents that were found → what a matcher sees in them: from the cache, or from their files again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrag.errors import ItemError
from mmrag.machine import usable_cores
from mmrag.roles import Matcher
from mmrag.search.judge import Block, as_block, pictures_at_once, see
from mmrag.search.recall import Found
from mmrag.sources.uri import path_of, shown_name

if TYPE_CHECKING:
    from PIL.Image import Image

    from mmrag.sources.rooms import Rooms
    from mmrag.stores.features import FeatureCache

logger = logging.getLogger("mmrag")

_TEXTS_AT_ONCE = 1024
_WHOLE_AT_ONCE = 4  # where pictures may not be shrunk; each takes half a gigabyte at most


class Contents:
    """Reads contents for a matcher.

    Parameters
    ----------
    matcher : Matcher
        What will judge them.
    home : path
        What uris are relative to.
    cache : FeatureCache or None
        Where features of pictures may be, and are kept.
    """

    def __init__(self, matcher: Matcher, home: Path, cache: FeatureCache | None) -> None:
        self._matcher = matcher
        self._home = home
        self._cache = cache

    def blocks(self, found: Sequence[Found], progress: Callable[[int, int], None] | None = None) -> Iterator[Block]:
        """Give the features of contents, block by block, with their numbers; those that cannot be read are left out.

        One warning in the log says how many those are, and why the first of them.
        """
        pictures = bool(found) and found[0].record["modality"] == "image"
        size = pictures_at_once(self._matcher) if pictures else _TEXTS_AT_ONCE
        unread: list[str] = []
        for start in range(0, len(found), size):
            some = found[start : start + size]
            here, features = self._pictures(some, unread) if pictures else self._texts(some)
            if here:
                yield [start + n for n in here], features
            if progress:
                progress(start + len(some), len(found))
        if unread:
            logger.warning(
                "%s of %s candidates cannot be judged, and stay behind the others: %s",
                f"{len(unread):,}",
                f"{len(found):,}",
                unread[0],
            )

    def _texts(self, found: Sequence[Found]) -> Block:
        return range(len(found)), self._matcher.features([one.record["text"] for one in found])

    def _pictures(self, found: Sequence[Found], unread: list[str]) -> Block:
        """Look into the cache, and compute what is not there."""
        known: dict[int, Any] = {}
        if self._cache:
            kept = ((n, self._cache.get(one.content)) for n, one in enumerate(found))
            known = {n: features for n, features in kept if features is not None}
        for n, features in see(self._matcher, self._read(found, known, unread)):
            known[n] = self._cache.keep(found[n].content, features) if self._cache else features
        return as_block(self._matcher, sorted(known.items())) if known else ([], [])

    def _read(self, found: Sequence[Found], known: dict[int, Any], unread: list[str]) -> Iterator[tuple[int, Image]]:
        """Read a few pictures ahead; one that takes too long is left out."""
        from mmrag.ingest.ahead import ahead
        from mmrag.ingest.recipe import SourceOptions
        from mmrag.sources.rooms import Rooms

        missing = [n for n in range(len(found)) if n not in known]
        at_once = usable_cores() if self._matcher.decode_at_least else min(usable_cores(), _WHOLE_AT_ONCE)
        read = ahead(
            partial(self._picture, rooms=Rooms()),
            [found[n] for n in missing],
            threads=at_once,
            depth=at_once,
            seconds=SourceOptions().max_seconds,
            instead=lambda _, reason: reason,
        )
        with closing(read) as pictures:
            for n, picture in zip(missing, pictures, strict=True):
                if isinstance(picture, str):
                    unread.append(f"{shown_name(found[n].record['uri'], found[n].record['part'])}: {picture}")
                else:
                    yield n, picture

    def _picture(self, found: Found, rooms: Rooms) -> Image | str:
        """Read the picture from the first that can be read of the files that had this content, or say why not."""
        reasons = []
        for record in (found.record, *found.others):
            try:
                with ExitStack() as held:
                    return self._decoded(record, rooms, held)
            except ItemError as error:
                reasons.append(str(error))
            except MemoryError:
                reasons.append("too large to handle in memory")
        return reasons[0]

    def _decoded(self, record: dict[str, Any], rooms: Rooms, held: ExitStack) -> Image:
        from mmrag.sources.file import hash_bytes
        from mmrag.sources.image import reduced

        data = rooms.read_part(path_of(record["uri"], self._home), record["part"], held)
        if hash_bytes(data) != record["content_hash"]:
            raise ItemError("it is not what was indexed; bring the index up to date: mmrag index")
        needed = self._matcher.decode_at_least
        return reduced(rooms.decode(data, held, at_least=needed), needed)
