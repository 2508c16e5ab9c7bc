"""Query → vectors."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmrag.errors import ItemError, QueryError
from mmrag.roles import Encoder, Vectors
from mmrag.search.compose import Part, compose, corpus_spread
from mmrag.search.language import foreign_language, says_nothing
from mmrag.types import Query, Term

if TYPE_CHECKING:
    from PIL.Image import Image

    from mmrag.stores.view import View
    from mmrag.types import ImageInput

logger = logging.getLogger("mmrag")


def encode_queries(encoder: Encoder, queries: Sequence[Query], view: View) -> Vectors:
    """Embed queries into unit vectors: all words at once, all pictures at once.

    Parameters
    ----------
    encoder : Encoder
        Of the index.
    queries : sequence of Query
        What is asked; at least one.
    view : View
        The corpus: in a query of several terms, each counts by how far apart it puts what is there.

    Returns
    -------
    float32 ``(queries, dimension)`` or ``(queries, vectors, dimension)``
        The latter if there are pictures among them, and a picture has several; words then repeat their one.

    Raises
    ------
    QueryError
        If a picture cannot be read, words say nothing, or what is not wanted is all that is looked for. Quoted words
        need say nothing by themselves: "The Who" is found by its letters.
    """
    terms = [term for query in queries for term in (*query.terms, *query.without)]
    _check_words([term.text for term in terms if term.text is not None], encoder)
    asked = [(_looked_for(query), query.without) for query in queries]
    vectors = iter(_encode_terms(encoder, [term for both in asked for terms in both for term in terms]))
    parts = [(_parts(wanted, vectors), _parts(unwanted, vectors)) for wanted, unwanted in asked]
    composed = any(len(wanted) + len(unwanted) > 1 for wanted, unwanted in parts)
    spread = corpus_spread(view) if composed else _no_spread
    return np.stack(np.broadcast_arrays(*(compose(*both, spread=spread) for both in parts)))


def _looked_for(query: Query) -> tuple[Term, ...]:
    """Give the terms; where there are only phrases, what those mean."""
    return query.terms or (Term(text=" ".join(query.phrases)),)


def _parts(terms: Sequence[Term], vectors: Iterator[Vectors]) -> list[Part]:
    return [(term.weight, next(vectors)) for term in terms]


def _no_spread(_: Vectors) -> float:
    return 1.0


def _encode_terms(encoder: Encoder, terms: Sequence[Term]) -> list[Vectors]:
    """Embed terms, in their order: ``(dimension,)``, or ``(vectors, dimension)`` of a picture that has several."""
    texts = [term.text for term in terms if term.text is not None]
    images = [term.image for term in terms if term.image is not None]
    words = iter(encoder.encode_query(texts) if texts else ())
    pictures = iter(
        encoder.encode_image([load_picture(image, encoder.decode_at_least) for image in images]) if images else ()
    )
    return [next(pictures if term.text is None else words) for term in terms]


def load_picture(image: ImageInput, at_least: int | None) -> Image:
    """Read a picture that is asked with; `at_least` as `decode_at_least` of who needs it.

    Raises
    ------
    QueryError
        If it cannot be read.
    """
    from mmrag.sources.file import read_file
    from mmrag.sources.image import as_rgb, read_image

    name = f" {str(image)!r}" if isinstance(image, (str, Path)) else ""
    try:
        if isinstance(image, (str, Path)):
            image = read_file(str(image)).data
        if isinstance(image, bytes):
            return read_image(image, at_least=at_least)
        return as_rgb(image)
    except ItemError as error:
        raise QueryError(f"the query picture{name} cannot be used: {error}") from error


def _check_words(texts: Sequence[str], encoder: Encoder) -> None:
    """Refuse words that say nothing, and warn of those in a language that the encoder does not read."""
    languages = encoder.card.languages
    told = set()
    for text in texts:
        if says_nothing(text, languages):
            raise QueryError(f'{text!r} says nothing by itself; say what to look for, such as "a dog on a beach"')
        foreign = foreign_language(text, languages) if languages else None
        if foreign and foreign not in told:  # once, of the sentences of an article
            told.add(foreign)
            logger.warning(
                "%s reads %s; this looks like %s and may find little: %.60s",
                encoder.card.name,
                ", ".join(languages),
                foreign,
                text,
            )
