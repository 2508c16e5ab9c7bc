"""Why this hit? Heat maps: which cells of a picture have to do with what was asked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mmrag.errors import ItemError, QueryError
from mmrag.roles import Encoder, Heat, Matcher, Vectors
from mmrag.search.queries import encode_queries
from mmrag.sources.image import read_image
from mmrag.sources.parts import read_part
from mmrag.sources.uri import path_of, shown_name
from mmrag.types import Hit, Query

if TYPE_CHECKING:
    from PIL.Image import Image

    from mmrag.stores.view import View

logger = logging.getLogger("mmrag")

_SHOWN = 640  # pixels, at least, of the picture that a heat map is drawn over


@dataclass(frozen=True)
class Explanation:
    """What of a picture has to do with what was asked.

    Attributes
    ----------
    hit : Hit
        What was found.
    image : PIL image
        Its picture, upright RGB, perhaps reduced.
    heat : float32 ``(rows, columns)``
        Of the whole query: cosines of the cells with it, or what a matcher paid attention to.
    tokens : tuple of (str, float32 ``(rows, columns)``)
        The same of each token of the words, if that was asked for.
    """

    hit: Hit
    image: Image
    heat: Heat
    tokens: tuple[tuple[str, Heat], ...] = ()


def explain(
    query: Query,
    hits: Sequence[Hit],
    *,
    view: View,
    encoder: Encoder,
    matcher: Matcher | None = None,
    home: Path,
    tokens: bool = False,
) -> Iterator[Explanation]:
    """Explain the hits that are pictures, in their order; of those that cannot be read any more, the log tells.

    Parameters
    ----------
    query : Query
        What was asked.
    hits : sequence of Hit
        What was found for it.
    view : View
        Of the index.
    encoder : Encoder
        Of the index. Its cosines with the cells are told where no matcher tells what it looked at.
    matcher : Matcher or None
        What has judged the hits for words. One that cannot tell what it looked at leaves it to the encoder.
    home : path
        What uris are relative to.
    tokens : bool
        Whether to explain token by token too.

    Raises
    ------
    QueryError
        If single tokens are to be explained, and there is no matcher or no words.
    ModelError
        If the model cannot tell.
    """
    if matcher is not None and type(matcher).explain_match is Matcher.explain_match and not tokens:
        matcher = None  # it cannot tell, and the encoder may
    tell: Callable[[Hit, Image], Explanation]
    if matcher is not None and query.words:
        needed, tell = matcher.decode_at_least, partial(_by_matcher, matcher, query.words, tokens)
    elif tokens:
        raise QueryError("tokens are explained of words, by a matcher that reads them with the picture: --rerank NAME")
    else:
        needed, tell = encoder.decode_at_least, partial(_by_encoder, encoder, encode_queries(encoder, [query], view)[0])
    for hit in hits:
        if hit.item.modality != "image":
            continue
        try:
            data = read_part(path_of(hit.item.uri, home), hit.item.part)
            image = read_image(data, at_least=None if needed is None else max(needed, _SHOWN))
        except ItemError as error:
            logger.warning("%s is not explained: %s", shown_name(hit.item.uri, hit.item.part), error)
            continue
        yield tell(hit, image)


def _by_matcher(matcher: Matcher, words: str, tokens: bool, hit: Hit, image: Image) -> Explanation:
    told = matcher.explain_match(words, image)
    each = tuple(zip(told.tokens, told.heats, strict=True)) if tokens else ()
    return Explanation(hit, image, told.whole, each)


def _by_encoder(encoder: Encoder, query_vector: Vectors, hit: Hit, image: Image) -> Explanation:
    return Explanation(hit, image, encoder.explain(image, query_vector))
