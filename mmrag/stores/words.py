"""The words of the rows, for BM25: a LanceDB dataset beside the views of vectors, derived from them and rebuildable.

It holds a row for each that has a vector: its stamp, a column for each kind of words, and one for all of them but
names, by which rows are ranked: BM25 of a kind that few rows have would call each of its words a common one. Each
column has a full-text index.
Stamps are never given twice, so that whatever an interrupted writer left is told from what is missing by stamps alone.
"""

from __future__ import annotations

import re
import shutil
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmrag.errors import IndexFormatError, RecipeError, StoreError
from mmrag.recipe import build
from mmrag.roles import Scores
from mmrag.stores.files import disk_errors, read_json, write_json
from mmrag.stores.segment import Segment, damage_told
from mmrag.stores.table import is_lancedbs, reason_of
from mmrag.stores.view import View
from mmrag.types import WORDS

if TYPE_CHECKING:
    from lancedb.query import FullTextQuery
    from lancedb.table import LanceTable

Stamps = npt.NDArray[np.int64]

KINDS = ("text", *WORDS, "names")
"""What words an item can have, in the order in which they are told."""

FORMAT = 1

_NAMES_COUNT = 0.3  # a folder's name says little of each picture in it
_TABLE, _STATE = "words", "words.json"
_ALL = "words"
_INDEXED = (*KINDS, _ALL)
_SCHEMA = pa.schema([pa.field("stamp", pa.int64(), nullable=False), *(pa.field(one, pa.string()) for one in _INDEXED)])
_COLUMNS = ("stamp", "text", *WORDS, "uri", "part")
_ROWS_AT_ONCE = 8192
_STAMPS_AT_ONCE = 1000
_FEW = 1000
_SHARE = 100
_MANY_FRAGMENTS = 64
_RETENTION = timedelta(hours=1)  # for others who are reading an old version

_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,5}$")
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*://")
_NAME_WORD = re.compile(r"[^\W_]+")
_YEAR = re.compile(r"(19|20)\d\d")
_NUMBERED = re.compile(
    r"\d+|(img|dsc|dscn|dscf|pict|pic|image|photo|vid|mvimg|pxl|gopr|wp|mg|imag|screenshot)\d*|p\d{7}"
    r"|(?=[a-f]*\d)[0-9a-f]{8,}",
    re.IGNORECASE,
)


def names_of(uri: str, part: str | None = None) -> str:
    """Split the names of folders and file into words; suffixes and what cameras call their pictures say nothing.

    Examples
    --------
    >>> names_of("2019_paris-trip/IMG_0042.jpg")
    '2019 paris trip'
    """
    path = _SUFFIX.sub("", _SCHEME.sub("", _one_form(uri)))
    inside = "" if part is None or part.isdecimal() else _SUFFIX.sub("", _one_form(part))
    words = _NAME_WORD.findall(f"{path} {inside}")
    return " ".join(word for word in words if _YEAR.fullmatch(word) or not _NUMBERED.fullmatch(word))


@dataclass(frozen=True)
class WordsState:
    """What ``words.json`` says: up to which version of the table it goes, and which columns have words."""

    format: int
    table_version: int
    indexed: tuple[str, ...] = ()


class WordsView:
    """The words of the table's rows at one version, to be searched. `sync` returns a new one.

    Parameters
    ----------
    folder : path
        Where it is kept.
    state : WordsState
        What it holds.
    """

    def __init__(self, folder: Path, state: WordsState) -> None:
        self.folder = folder
        self.state = state

    @classmethod
    def open(cls, folder: Path) -> WordsView:
        """Open what is in `folder`; where there is nothing that can be read, it is empty, and `sync` fills it."""
        try:
            state = build(WordsState, read_json(folder / _STATE), where=_STATE)
        except (FileNotFoundError, IndexFormatError, RecipeError):
            state = WordsState(FORMAT, 0)
        return cls(folder, state if state.format == FORMAT else WordsState(FORMAT, 0))

    @property
    def table_version(self) -> int:
        """Of the table, up to which it goes; 0 if it has still to be made."""
        return self.state.table_version

    @cached_property
    def _table(self) -> LanceTable:
        import lancedb

        return lancedb.connect(self.folder).open_table(_TABLE)

    def search(self, words: str, k: int) -> tuple[Scores, Stamps]:
        """Find the rows whose words are most like some words, by BM25.

        A row scores by all its words together (Robertson & Zaragoza 2009, sections 3.4 and 3.6), and by its names
        beside them, which count less. English endings and accents do not count, nor does case. Chinese and other
        languages without spaces are split by ICU's dictionaries.

        Parameters
        ----------
        words : str
            One of them suffices.
        k : int
            How many; fewer come back if fewer have one of the words.

        Returns
        -------
        scores : float32 ``(m,)``
            Above 0, descending.
        stamps : int64 ``(m,)``
            Of the rows; of rows with equal scores, the first stamp comes first.

        Raises
        ------
        IndexFormatError
            If it is damaged.
        """
        if not {_ALL, "names"} & set(self.state.indexed):
            return np.empty(0, np.float32), np.empty(0, np.int64)
        found = self._find(self._query(_one_form(words)), k)
        scores, stamps = found["_score"].to_numpy(), found["stamp"].to_numpy()
        order = np.lexsort((stamps, -scores))
        return np.asarray(scores[order], np.float32), np.asarray(stamps[order], np.int64)

    def kinds_with(self, words: str, stamps: Sequence[int]) -> dict[int, tuple[str, ...]]:
        """Tell for rows, by their stamps, which kinds of their words have one of some words."""
        from lancedb.query import MatchQuery

        matched: dict[int, tuple[str, ...]] = {}
        for kind in KINDS if len(stamps) else ():
            if kind in self.state.indexed:
                for stamp in self._find(MatchQuery(_one_form(words), kind), len(stamps), stamps)["stamp"].to_pylist():
                    matched[stamp] = (*matched.get(stamp, ()), kind)
        return matched

    def sync(self, view: View) -> WordsView:
        """Bring it to the version of a view of vectors, at a cost that grows with what has changed. Hold the lock.

        What is damaged is made anew.
        """
        if self.table_version >= view.table_version:
            return self
        with suppress(IndexFormatError):
            return self._synced(view) if self.table_version else WordsView.make(self.folder, view)
        return WordsView.make(self.folder, view)

    @classmethod
    def make(cls, folder: Path, view: View) -> WordsView:
        """Make it anew from a view of vectors. Hold the lock.

        Raises
        ------
        StoreError
            If it cannot be written.
        """
        import lancedb

        with disk_errors(folder):
            (folder / _STATE).unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
        try:
            with _damage_told(folder):
                lancedb.connect(folder).create_table(_TABLE, schema=_SCHEMA)
            return cls(folder, WordsState(FORMAT, 0))._synced(view)
        except IndexFormatError as error:
            raise StoreError(f"the full-text index in {folder} cannot be made: {error.__cause__ or error}") from error

    def forget(self) -> None:
        """Have it made anew when it is next needed."""
        with suppress(OSError):
            (self.folder / _STATE).unlink()

    def difference(self, view: View) -> str | None:
        """Say how it differs from a view of vectors; None if it does not."""
        try:
            with _damage_told(self.folder):
                mine = self._table.search().to_arrow().select(_SCHEMA.names).sort_by("stamp").cast(_SCHEMA)
            if self.state.indexed:
                self._find(self._query("a"), 1)
        except IndexFormatError as error:
            return str(error)
        batches = _words_of(view, [_searchable(segment) for segment in view.segments])
        own = pa.Table.from_batches(batches, schema=_SCHEMA).sort_by("stamp")
        return None if own.equals(mine) else "words in it differ from those of the table"

    def _synced(self, view: View) -> WordsView:
        rows = [_searchable(segment) for segment in view.segments]
        stamps = [segment.stamps[some] for segment, some in zip(view.segments, rows, strict=True)]
        with _damage_told(self.folder):
            table = self._table
            table.checkout_latest()
            here = table.search().select(["stamp"]).to_arrow()["stamp"].to_numpy()
            gone = here[~np.isin(here, np.concatenate([np.empty(0, np.int64), *stamps]))].tolist()
            for start in range(0, len(gone), _STAMPS_AT_ONCE):
                table.delete(_among(gone[start : start + _STAMPS_AT_ONCE]))
            fresh = [some[~np.isin(own, here)] for some, own in zip(rows, stamps, strict=True)]
            if any(map(len, fresh)):
                table.add(pa.RecordBatchReader.from_batches(_SCHEMA, _words_of(view, fresh)))
            indexed = self._index()
        with disk_errors(self.folder):
            write_json(self.folder / _STATE, asdict(state := WordsState(FORMAT, view.table_version, indexed)))
        return WordsView(self.folder, state)

    def _index(self) -> tuple[str, ...]:
        """Index what is new as far as that is worth it, and give the columns that have an index."""
        from lancedb.index import FTS

        table, known = self._table, self.state.indexed
        new = [one for one in _INDEXED if one not in known and table.count_rows(f"{one} IS NOT NULL")]
        for one in new:  # ICU finds no Chinese word in a sentence while stop words are removed
            table.create_index(one, config=FTS(base_tokenizer="icu", remove_stop_words=False))
        if known and self._is_behind():
            table.optimize(cleanup_older_than=_RETENTION)
        return tuple(one for one in _INDEXED if one in {*known, *new})

    def _is_behind(self) -> bool:
        """Tell whether it is time to write the indexes anew: what they lack is looked at row by row in each search."""
        stats = self._table.stats()
        if stats["fragment_stats"]["num_fragments"] > _MANY_FRAGMENTS:
            return True
        counts = [self._table.index_stats(f"{one}_idx") for one in self.state.indexed]
        lacking = max(one.num_unindexed_rows for one in counts if one)
        gone = max(one.num_indexed_rows + one.num_unindexed_rows for one in counts if one) - stats["num_rows"]
        return bool(lacking + gone > max(_FEW, stats["num_rows"] // _SHARE))

    def _query(self, words: str) -> FullTextQuery:
        from lancedb.query import BooleanQuery, MatchQuery, Occur

        counts = {_ALL: 1.0, "names": _NAMES_COUNT}
        asked = [MatchQuery(words, one, boost=counts[one]) for one in counts if one in self.state.indexed]
        return BooleanQuery([(Occur.SHOULD, one) for one in asked])

    def _find(self, query: FullTextQuery, k: int, among: Sequence[int] | None = None) -> pa.Table:
        with _damage_told(self.folder):
            try:
                return self._ask(query, k, among)
            except Exception as error:
                if not is_lancedbs(error):
                    raise
                self._table.checkout_latest()  # the files of an older one may have been removed by another process
                return self._ask(query, k, among)

    def _ask(self, query: FullTextQuery, k: int, among: Sequence[int] | None) -> pa.Table:
        asked: Any = self._table.search(query, query_type="fts").select(["stamp", "_score"]).limit(k)
        if among is not None:
            asked = asked.where(_among(among), prefilter=True)
        return asked.to_arrow()


def _one_form(text: str) -> str:
    """Write accents as parts of letters, where they may be characters of their own, as in names of files on macOS."""
    return unicodedata.normalize("NFC", text)


def _among(stamps: Sequence[int]) -> str:
    return f"stamp IN ({', '.join(str(int(stamp)) for stamp in stamps)})"


def _searchable(segment: Segment) -> npt.NDArray[np.int64]:
    """Rows of a segment that have a vector and are in the table."""
    return np.flatnonzero(segment.alive[: len(segment.vectors)])


def _words_of(view: View, rows: Sequence[npt.NDArray[np.int64]]) -> Iterator[pa.RecordBatch]:
    """Give the words of some rows of each segment, some thousands at once."""
    for segment, chosen in zip(view.segments, rows, strict=True):
        for start in range(0, len(chosen), _ROWS_AT_ONCE):
            with damage_told(view.folder):
                columns = segment.sound_columns.select(_COLUMNS).take(chosen[start : start + _ROWS_AT_ONCE])
            places = zip(columns["uri"].to_pylist(), columns["part"].to_pylist(), strict=True)
            own = [[one and _one_form(one) for one in columns[kind].to_pylist()] for kind in ("text", *WORDS)]
            together = ["\n".join(filter(None, some)) or None for some in zip(*own, strict=True)]
            names = [names_of(*place) or None for place in places]
            arrays = [pa.array(some, pa.string()) for some in (*own, names, together)]
            yield pa.RecordBatch.from_arrays([columns["stamp"].combine_chunks(), *arrays], schema=_SCHEMA)


@contextmanager
def _damage_told(folder: Path) -> Iterator[None]:
    """Turn what lancedb raises into one clear line."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        if not is_lancedbs(error):
            raise
        raise IndexFormatError(
            f"the full-text index in {folder} is damaged ({reason_of(error)}); mmrag check mends it"
        ) from error
