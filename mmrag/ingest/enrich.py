"""Words that models make of pictures which are in the index already: captions, and what stands in them."""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from mmrag.errors import Interrupted, ItemError
from mmrag.ingest.ahead import ahead
from mmrag.ingest.recipe import EnrichOptions, SourceOptions
from mmrag.ingest.words import Words, given_of
from mmrag.machine import usable_cores
from mmrag.models.ocr import Reader
from mmrag.models.registry import load_generator
from mmrag.sources.file import hash_bytes
from mmrag.sources.image import reduced
from mmrag.sources.pairs.row import Picture
from mmrag.sources.parts import pictures_in
from mmrag.sources.rooms import Rooms
from mmrag.sources.uri import is_remote, path_of, shown_name
from mmrag.stores.rows import COLUMNS, Row

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

    from mmrag.ingest.write import Ingest
    from mmrag.roles import Generator
    from mmrag.stores.view import View

_log = logging.getLogger(__name__)

_COMMIT_SECONDS = 10.0
_CHANGED = "it has changed since it was indexed; run the same command again"
_NAMES = tuple(name for name in COLUMNS.names if name != "stamp")


@dataclass(frozen=True)
class Writer:
    """What makes words of one kind.

    Attributes
    ----------
    kind : {"generated", "ocr"}
        The column that they go into.
    origin : str
        Names the model. Pictures of which it has told already are left alone, even if it found nothing to say.
    tell : callable
        Upright RGB pictures → a text for each.
    decode_at_least : int or None
        The shortest side that it needs, in pixels; None: all there are.
    batch : int
        How many pictures it takes at once.
    """

    kind: Literal["generated", "ocr"]
    origin: str
    tell: Callable[[Sequence[Image]], list[str]]
    decode_at_least: int | None
    batch: int


@dataclass(frozen=True)
class Pictures:
    """Where pictures are read, and within which limits; the last three are as in `Ingest`."""

    view: View
    home: Path
    max_pixels: int = SourceOptions.max_pixels
    max_seconds: float = SourceOptions.max_seconds
    allow_remote: bool = False


class _Wanted(NamedTuple):
    """A picture that is to be read: what it is called, its content's hash, its file, and its place in that."""

    name: str
    content: str
    path: str
    picture: Picture | None = None


def load_writers(options: EnrichOptions) -> list[Writer]:
    """Load what an index recipe asks for.

    Raises
    ------
    ModelError
        If there is no such generator, or an extra is missing.
    """
    writers = []
    if options.caption:
        writers.append(caption_writer(load_generator(options.caption)))
    if options.ocr:
        reader = Reader()
        writers.append(Writer("ocr", reader.origin, reader.read, reader.decode_at_least, reader.batch))
    return writers


def caption_writer(generator: Generator) -> Writer:
    """Have a generator write one plain caption for each picture."""
    card = generator.card
    origin = f"{card.name} {card.revision[:8]}".strip()
    return Writer("generated", origin, generator.caption, generator.decode_at_least, generator.batch)


def enrich(ingest: Ingest, writer: Writer) -> int:
    """Have words made of each picture in a file that has none by this writer, and commit them as they come.

    Nothing is embedded. What a caller has said in their place stays, and a picture that has changed since it was
    indexed waits for the next run.

    Returns
    -------
    int
        How many pictures have such words now that had none.

    Raises
    ------
    Interrupted
        On Ctrl-C, after what was done is committed.
    """
    view = ingest.view
    pictures = Pictures(view, ingest.home, ingest.max_pixels, ingest.max_seconds, ingest.allow_remote)
    todo = _todo(view, writer, allow_remote=ingest.allow_remote)
    done = told = 0
    committed = time.monotonic()
    pending: list[Row] = []
    try:
        for some in _told(pictures, todo, writer):
            rows = [_with_words(view, ref, writer, text) for content, text in some for ref in todo[content]]
            pending += rows
            told += len(rows)
            done += len(some)
            if ingest.progress:
                ingest.progress(done, len(todo))
            if len(pending) >= ingest.commit_every or time.monotonic() - committed > _COMMIT_SECONDS:
                ingest.copy(pending)
                pending, committed = [], time.monotonic()
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"stopped; {done:,} of {len(todo):,} pictures have their words ({writer.kind}), and can be searched. "
            "Run the same command to go on"
        ) from error
    finally:
        ingest.copy(pending)
    return told


def tell(pictures: Pictures, refs: Iterable[int], writer: Writer) -> Iterator[tuple[str, str]]:
    """Have words made of some pictures that lack them, without a run; gives each content's hash and its words."""
    todo = _todo(pictures.view, writer, allow_remote=pictures.allow_remote, refs=refs)
    for some in _told(pictures, todo, writer):
        yield from ((content, text) for content, text in some if content)


def keep(ingest: Ingest, refs: Iterable[int], writer: Writer, told: Mapping[str, str]) -> None:
    """Commit what `tell` gave to rows that still lack it, and whose content is still the same."""
    todo = _todo(ingest.view, writer, allow_remote=True, refs=refs)
    ingest.copy(
        [
            _with_words(ingest.view, ref, writer, told[content])
            for content, some in todo.items()
            if content in told
            for ref in some
        ]
    )


def _todo(view: View, writer: Writer, *, allow_remote: bool, refs: Iterable[int] | None = None) -> dict[str, list[int]]:
    """List the refs of the pictures that lack words, by their content: what looks the same reads the same."""
    names = ("content_hash", "uri", "modality", "size", "failure", "origins", "given", "beside", writer.kind)
    todo: dict[str, list[int]] = defaultdict(list)
    remote = 0
    for ref, *values in view.scan(names, refs):
        row = dict(zip(names, values, strict=True))
        in_file = row["modality"] == "image" and row["size"] is not None
        if in_file and row["failure"] is None and not _is_told(row, writer):
            if is_remote(row["uri"]) and not allow_remote:
                remote += 1
                continue
            todo[row["content_hash"]].append(ref)
    if remote:
        count = "1 picture" if remote == 1 else f"{remote:,} pictures"
        _log.warning(
            "%s behind urls get no words: no connection is opened without leave; mmrag update --allow-remote with the "
            "options again (allow_remote=True)",
            count,
        )
    return todo


def _is_told(row: dict[str, Any], writer: Writer) -> bool:
    origins = json.loads(row["origins"]) if row["origins"] else {}
    without_origin = (
        bool(row[writer.kind]) and writer.kind not in origins
    )  # of a part, what was given is not kept apart
    by_caller = without_origin or (row["given"] is not None and writer.kind in given_of(row).texts)
    return by_caller or origins.get(writer.kind) == writer.origin


def _with_words(view: View, ref: int, writer: Writer, text: str) -> Row:
    record = view.records([ref])[0]
    told = Words({writer.kind: text} if text else {}, {}, {writer.kind: writer.origin})
    before = Words.of_row({**record, writer.kind: None})
    row = Row(**{name: record[name] for name in _NAMES}, vector=view.vector(ref))
    return replace(row, **told.over(before).columns())


def _told(pictures: Pictures, todo: dict[str, list[int]], writer: Writer) -> Iterator[list[tuple[str, str]]]:
    """Read pictures a little ahead, in several threads, and give the words of each with its content's hash."""
    batch = writer.batch if writer.decode_at_least else 1  # whole pictures may be large
    opened = ahead(
        partial(_open, pictures, Rooms(), writer),
        _pictures(pictures, {refs[0]: content for content, refs in todo.items()}),
        threads=usable_cores(),
        depth=usable_cores() + batch,
        seconds=pictures.max_seconds,
        instead=lambda one, reason: _left_out(one.name, reason),
    )
    with closing(opened) as images:
        while some := list(islice(images, batch)):
            seen = [(content, image) for content, image in some if image is not None]
            texts = writer.tell([image for _, image in seen]) if seen else []
            yield [(content, text.strip()) for (content, _), text in zip(seen, texts, strict=True)]


def _pictures(pictures: Pictures, contents: Mapping[int, str]) -> Iterator[_Wanted]:
    """Go through the files of pictures, given as refs and contents; those that are in one file come one by one."""
    files: dict[str, dict[str, str]] = defaultdict(dict)
    for ref, uri, part in pictures.view.scan(("uri", "part"), contents):
        path = path_of(uri, pictures.home)
        if part is None:
            yield _Wanted(uri, contents[ref], path)
        else:
            files[uri][part] = contents[ref]
    for uri, parts in files.items():
        path, left = path_of(uri, pictures.home), dict(parts)
        reason = _CHANGED
        try:
            for part, picture in pictures_in(path, parts):
                yield _Wanted(shown_name(uri, part), left.pop(part), path, picture)
        except ItemError as error:
            reason = str(error)
        for part in left:
            _left_out(shown_name(uri, part), reason)


def _open(pictures: Pictures, rooms: Rooms, writer: Writer, one: _Wanted) -> tuple[str, Image | None]:
    try:
        with ExitStack() as held:
            if one.picture is None:
                data = rooms.read(one.path, held, allow_remote=pictures.allow_remote).data
            else:
                data = rooms.take(one.picture, held)
            if hash_bytes(data) != one.content:
                return _left_out(one.name, _CHANGED)
            image = rooms.decode(data, held, at_least=writer.decode_at_least, max_pixels=pictures.max_pixels)
            return one.content, reduced(image, writer.decode_at_least)
    except ItemError as error:
        return _left_out(one.name, str(error))


def _left_out(uri: str, reason: str) -> tuple[str, None]:
    _log.warning("%s gets no words: %s", uri, reason)
    return "", None
