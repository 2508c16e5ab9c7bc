"""Captions of single pictures, made when they are asked for, and kept where that is possible."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from mmrag.errors import Interrupted, StoreError
from mmrag.ingest.enrich import Pictures, Writer, caption_writer, tell
from mmrag.ingest.enrich import keep as keep_told
from mmrag.ingest.session import Run, Session
from mmrag.roles import Generator
from mmrag.types import Item

_log = logging.getLogger(__name__)


def describe(session: Session, items: Sequence[Item], generator: str | Generator, *, keep: bool) -> list[Item]:
    """Caption the pictures that have no words; parameters, result and errors are those of `Index.describe`."""
    wordless = [item.id for item in items if _is_wordless(item)]
    if not wordless:
        return list(items)
    view = session.serving.view
    rows = list(view.scan(("id", "content_hash"), view.find("id", wordless)))
    writer = caption_writer(session.models.generator(generator))
    told = dict(tell(Pictures(view, session.serving.home), [ref for ref, *_ in rows], writer))
    if keep and told:
        _keep(session, wordless, writer, told)
    captions = {item_id: told.get(content, "") for _, item_id, content in rows}
    return [_with_caption(item, captions.get(item.id, ""), writer) for item in items]


def _is_wordless(item: Item) -> bool:
    return item.modality == "image" and not (item.text or item.words) and "generated" not in item.origins


def _keep(session: Session, ids: Sequence[str], writer: Writer, told: dict[str, str]) -> None:
    try:
        with session.ingest(Run()) as ingest:
            keep_told(ingest, ingest.view.find("id", ids), writer, told)
    except Interrupted:
        raise
    except (StoreError, OSError) as error:
        _log.warning("new captions are used, and not kept: %s", error)


def _with_caption(item: Item, text: str, writer: Writer) -> Item:
    if not text:
        return item
    return replace(item, words={**item.words, writer.kind: text}, origins={**item.origins, writer.kind: writer.origin})
