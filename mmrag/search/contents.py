"""Contents that were found → what a matcher sees in them: from the cache, or from their files again."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrag.errors import ItemError
from mmrag.machine import usable_cores
from mmrag.roles import Matcher
from mmrag.search.judge import Block, as_block, pictures_at_once, see
from mmrag.search.recall import Found
from mmrag.sources.limits import MAX_PIXELS

if TYPE_CHECKING:
    from PIL.Image import Image

    from mmrag.stores.features import FeatureCache

logger = logging.getLogger("mmrag")

_TEXTS_AT_ONCE = 1024


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
        """Decode on all cores, a few pictures ahead."""
        from mmrag.sources.room import Room

        room = Room(MAX_PIXELS)
        missing = (n for n in range(len(found)) if n not in known)
        with ThreadPoolExecutor(usable_cores(), thread_name_prefix="mmrag-decode") as pool:
            running: deque[tuple[int, Future[Image]]] = deque()
            while True:
                for n in islice(missing, usable_cores() - len(running)):
                    running.append((n, pool.submit(self._decode, found[n], room)))
                if not running:
                    return
                n, image = running.popleft()
                try:
                    yield n, image.result()
                except ItemError as error:
                    unread.append(f"{found[n].record['uri']}: {error}")

    def _decode(self, found: Found, room: Any) -> Image:
        """Read the picture from any of the files that had this content."""
        try:
            return self._decode_file(found.record, room)
        except ItemError:
            for record in found.others:
                try:
                    return self._decode_file(record, room)
                except ItemError:
                    continue
            raise

    def _decode_file(self, record: dict[str, Any], room: Any) -> Image:
        from mmrag.sources.file import hash_bytes, read_file
        from mmrag.sources.image import read_image

        data = read_file(str(self._home / record["uri"])).data
        if hash_bytes(data) != record["content_hash"]:
            raise ItemError("it is not what was indexed; bring the index up to date: mmrag index")
        with ExitStack() as held:
            return read_image(
                data,
                at_least=self._matcher.decode_at_least,
                admit=lambda pixels: held.enter_context(room.take(pixels)),
            )
