"""Until the readers of documents are here: paragraphs."""

from __future__ import annotations

from mmrag.errors import ItemError
from mmrag.roles import Encoder
from mmrag.sources.uri import item_id
from mmrag.types import Item


def count_tokens(encoder: Encoder, texts: list[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def document_items(data: bytes, uri: str, suffix: str, encoder: Encoder) -> list[Item]:
    if b"\0" in data:
        raise ItemError("not a text: it holds NUL bytes")
    items: list[Item] = []
    line = 1
    for block in data.decode("utf-8", "replace").split("\n\n"):
        last = line + block.count("\n")
        words = block.split()
        for start in range(0, len(words), encoder.card.max_tokens):
            part = str(len(items))
            text = " ".join(words[start : start + encoder.card.max_tokens])
            facts = {"headings": [], "lines": [line, last]}
            items.append(Item(uri=uri, id=item_id(uri, part), part=part, modality="text", text=text, metadata=facts))
        line = last + 2
    return items
