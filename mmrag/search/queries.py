"""What a caller asks → Query → vectors."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmrag.errors import ItemError, QueryError
from mmrag.roles import Encoder, Model, Vectors
from mmrag.search.language import foreign_language
from mmrag.similarity import vector_shape
from mmrag.types import Query

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger("mmrag")


def as_query(asked: Any) -> Query:
    """Make a Query of words (a str) or of a picture (a Path, bytes or a PIL image).

    Raises
    ------
    QueryError
        If it is none of these, or empty.
    """
    if isinstance(asked, Query):
        return asked
    if isinstance(asked, str):
        return Query(text=asked)
    if isinstance(asked, (Path, bytes)) or hasattr(asked, "convert"):
        return Query(image=asked)
    raise QueryError(
        f"a query is words (str), a picture (Path, bytes, PIL image) or a Query, not {type(asked).__name__}"
    )


def encode_queries(encoder: Encoder, queries: Sequence[Query]) -> Vectors:
    """Embed queries into unit vectors: all words at once, all pictures at once.

    Returns
    -------
    float32 ``(queries, dimension)`` or ``(queries, vectors, dimension)``
        The latter if there are pictures among them, and a picture has several; words then repeat their one.
    """
    words = [i for i, query in enumerate(queries) if query.text is not None or query.image is None]
    pictures = [i for i, query in enumerate(queries) if query.text is None and query.image is not None]
    several = encoder.card.vectors if pictures else 1
    vectors = np.empty((len(queries), *vector_shape(encoder.card.dimension, several)), dtype=np.float32)
    if words:
        texts = [queries[i].text or queries[i].words for i in words]  # phrases alone are words, too
        _warn_of_languages(texts, encoder)
        encoded = encoder.encode_query(texts)
        vectors[words] = encoded if several == 1 else encoded[:, None]
    if pictures:
        vectors[pictures] = encoder.encode_image([load_picture(queries[i], encoder) for i in pictures])
    return vectors


def load_picture(query: Query, model: Model) -> Image:
    """Read the picture of a query, as large as a model needs it.

    Raises
    ------
    QueryError
        If it cannot be read.
    """
    from mmrag.sources.file import read_file
    from mmrag.sources.image import as_rgb, read_image

    image = query.image
    try:
        if isinstance(image, (str, Path)):
            image = read_file(str(image)).data
        if isinstance(image, bytes):
            return read_image(image, at_least=model.decode_at_least)
        return as_rgb(image)  # type: ignore[arg-type]
    except ItemError as error:
        raise QueryError(f"the query picture{_named(image)} cannot be used: {error}") from error


def _named(image: object) -> str:
    return f" {str(image)!r}" if isinstance(image, (str, Path)) else ""


def _warn_of_languages(texts: Sequence[str], encoder: Encoder) -> None:
    languages = encoder.card.languages
    for text in texts if languages else ():
        foreign = foreign_language(text, languages)
        if foreign:
            logger.warning(
                "%s reads %s; this looks like %s and may find little: %.60s",
                encoder.card.name,
                ", ".join(languages),
                foreign,
                text,
            )
