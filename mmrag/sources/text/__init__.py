"""Text files → blocks that know their headings and lines → chunks that a model can read whole → text items."""

from mmrag.sources.text.block import Block, Document
from mmrag.sources.text.chunk import Chunk, chunk
from mmrag.sources.text.document import MAX_DOCUMENT_BYTES, TEXT_SUFFIXES, read_document
from mmrag.sources.text.items import document_items

__all__ = [
    "MAX_DOCUMENT_BYTES",
    "TEXT_SUFFIXES",
    "Block",
    "Chunk",
    "Document",
    "chunk",
    "document_items",
    "read_document",
]
