"""The columns of a view that filters can name: its facts, and what rows are known by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmrag.stores.facts import LISTS, NUMBERS, TEXTS, TRUTHS, WHOLE_NUMBERS, common_type, facts_as
from mmrag.stores.segment import Segment, damage_told
from mmrag.types import Fact

if TYPE_CHECKING:
    from mmrag.stores.view import View

KINDS = {
    TRUTHS: "true or false",
    WHOLE_NUMBERS: "a whole number",
    NUMBERS: "a number",
    TEXTS: "text",
    LISTS: "a list of texts",
}

_OWN_TEXTS = ("id", "uri", "folder", "part", "modality", "text", "tags", "generated", "ocr")
OWN = {**dict.fromkeys(_OWN_TEXTS, TEXTS), "size": WHOLE_NUMBERS}
"""What rows have beside facts; a fact of such a name is hidden by it."""

_USUAL = {
    **dict.fromkeys(("taken_at", "camera", "format"), TEXTS),
    **dict.fromkeys(("year", "month", "day", "width", "height"), WHOLE_NUMBERS),
    **dict.fromkeys(("latitude", "longitude"), NUMBERS),
}
"""Facts of pictures that can be asked for where no picture has them: then none passes."""


class FactColumns:
    """The columns of a view, each of one type in all segments, whatever their own are.

    Attributes
    ----------
    present : dict of str to pyarrow type
        The names that rows of the view have, and what they hold.
    kinds : dict of str to pyarrow type
        These, and those that can be asked for all the same.
    """

    def __init__(self, view: View) -> None:
        self._folder = view.folder
        types: dict[str, set[pa.DataType]] = {}
        for segment in view.segments:
            for field in segment.facts.schema:
                types.setdefault(field.name, set()).add(field.type)
        types.pop("", None)
        self.present = {name: common_type(found) for name, found in types.items()} | OWN
        self.kinds = _USUAL | self.present

    def read(self, segment: Segment, name: str) -> pa.Array:
        """Read a column of a segment; null where a row has no such fact.

        Raises
        ------
        IndexFormatError
            If it is damaged.
        """
        with damage_told(self._folder):
            if name == "folder":
                return pc.replace_substring_regex(_one(segment.sound_columns["uri"]), "/?[^/]*$", "")
            if name in OWN:
                return _one(segment.sound_columns[name])
            kind = self.kinds[name]
            if name not in segment.facts.column_names:
                return pa.nulls(segment.facts.num_rows, kind)
            column = _one(segment.sound_facts[name])
            if column.type == kind:
                return column
            if {column.type, kind} == {WHOLE_NUMBERS, NUMBERS}:
                return column.cast(kind, safe=False)
            # a text does not tell what it was made from, 1 or 1.0
            return facts_as(segment.sound_columns["metadata"], name, kind)


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def facts_in(view: View) -> list[Fact]:
    """List what the items of a view that can be found have for filters to ask for, by name."""
    columns = FactColumns(view)
    found = (_fact(name, columns, view) for name in sorted(columns.present))
    return [fact for fact in found if fact is not None]


def _fact(name: str, columns: FactColumns, view: View) -> Fact | None:
    findable = [pa.array(one.alive & (np.arange(len(one.alive)) < len(one.vectors))) for one in view.segments]
    parts = [columns.read(one, name).filter(mask) for one, mask in zip(view.segments, findable, strict=True)]
    kind = columns.present[name]
    values = pa.chunked_array(parts, kind).drop_null()
    items = len(values)
    bounds = pc.min_max(pc.list_flatten(values) if kind == LISTS else values).as_py()
    if bounds["min"] is None:
        return None
    return Fact(name, KINDS[kind], items, bounds["min"], bounds["max"])
