"""A question → hits that may answer it: pictures and texts, each found among its like."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from mmrag.compose.answer import Source
from mmrag.errors import Interrupted, StoreError
from mmrag.search.condition import both
from mmrag.search.language import says_nothing
from mmrag.search.likelihood import PROBABILITY, with_probabilities
from mmrag.search.recall import ranked
from mmrag.search.shorthand import only
from mmrag.sources.uri import path_of
from mmrag.types import Hit, Query

if TYPE_CHECKING:
    from mmrag.index import Index
    from mmrag.models.cards import Calibration
    from mmrag.search.pipeline import Pipeline
    from mmrag.types import ImageInput

_log = logging.getLogger(__name__)

_ASKING = frozenset(
    "what which who whom whose where when why how many much is are was were am be been being do does did done can "  # noqa: SIM905
    "could will would shall should may might has have had there here any some a an the i me my we us our you your he "
    "she it its they them their this that these those of in on at to for from with by and or not please tell show give "
    "find picture pictures photo photos image images see seen kind sort other others another same similar like".split()
)
_HAS_WORDS = " or ".join(f"{kind} is not null" for kind in ("text", "tags", "generated", "ocr"))
_EVEN = 0.5
_HALF = 0.5
_OTHER = re.compile(r"\b(?:others?|another|else|similar)\b", re.IGNORECASE)
_EDGES = "\"'“”‘’«».,;:!?…()[]"


@dataclass(frozen=True)
class Retriever:
    """Searches an index for what may answer questions.

    The texts of a corpus lie closer to words than its pictures do, and in one list would hide them: so both are
    searched for by themselves, and alternate in the result, the best text before the best picture. A pipeline that
    judges again puts both into one order itself, and is taken as it is.

    Attributes
    ----------
    index : Index
        What is searched.
    pipeline : Pipeline
        How; its `answer` says how many hits, and whether words are looked at.
    where : str or None
        Only what passes this filter.
    """

    index: Index
    pipeline: Pipeline
    where: str | None = None

    def find(self, question: str, *, image: ImageInput | None = None) -> list[Hit]:
        """Find hits for a question, and a picture that it is about; the best of either modality first."""
        words: str | None = asked_words(question)
        if not words or says_nothing(words, self.index.encoder.card.languages):
            words = question if image is None else None
        query = Query(text=words, image=image, where=self.where)
        asked = _file_of(image) if image is not None and _OTHER.search(question) else None
        if self.pipeline.rerank:
            return [hit for hit in self._search([query])[0] if not self._is(hit, asked)]
        found = self._search([replace(query, where=both(self.where, only(kind))) for kind in ("text", "images")])
        alternating = [hit for hit in chain.from_iterable(zip_longest(*found)) if hit and not self._is(hit, asked)]
        calibration = self.index.encoder.card.calibration
        return with_probabilities(query, ranked(alternating[: self.pipeline.answer.k]), calibration, matched=True)

    def _search(self, queries: Sequence[Query]) -> list[list[Hit]]:
        """Search by words and vectors; by vectors alone where the full-text index is wanting and cannot be made now."""
        options = self.pipeline.answer
        hybrid = options.hybrid and self._has_words()
        try:
            return self.index.search(queries, k=options.k, pipeline=self.pipeline.changed(hybrid=hybrid))
        except StoreError as error:
            if not hybrid or isinstance(error, Interrupted):
                raise
            _log.warning("the words of items are not looked at: %s", error)
            return self.index.search(queries, k=options.k, pipeline=self.pipeline)

    def _is(self, hit: Hit, file: Path | None) -> bool:
        """Tell whether a hit is the very file that is asked about, where others are wanted."""
        return file is not None and str(file) == path_of(hit.item.uri, self.index.home)

    def _has_words(self) -> bool:
        return self.index.count(_HAS_WORDS) > 0


def asked_words(question: str) -> str:
    """Leave out of a question what only makes a question of it; captions say what there is, and do not ask.

    Nothing may be left, as of "Which other pictures show this?".

    Examples
    --------
    >>> asked_words("What is the dog doing on the beach?")
    'dog doing beach'
    """
    words = [word.strip(_EDGES) for word in question.split()]
    return " ".join(word for word in words if word and word.lower() not in _ASKING)


def nearest_pictures(sources: Sequence[Source]) -> list[Source]:
    """Leave out pictures that are less than half as near to a picture that is asked about as the nearest.

    Of pictures by pictures no encoder is calibrated; but beside one that is like it, others are not what is meant.
    """
    pictures = [one for one in sources if one.hit and one.item.modality == "image"]
    cosines = [one.hit.parts.get("cosine", 1.0) if one.hit else 0.0 for one in pictures]
    least = _HALF * max(cosines, default=0.0)
    return [one for one, cosine in zip(pictures, cosines, strict=True) if cosine >= least]


def _file_of(image: ImageInput) -> Path | None:
    return Path(image).resolve() if isinstance(image, (str, Path)) else None


def seen_likely(hit: Hit, calibration: Calibration | None) -> bool | None:
    """Tell whether a picture is likely to show what was asked; None where nothing tells.

    What a matcher has judged is likely from a probability of .5 on, and so is what words have found by cosine where
    people have said something else of it. What nobody has said anything of is likely from the least probability of the
    encoder's card on.
    """
    probability = hit.parts.get(PROBABILITY)
    if hit.item.modality != "image" or probability is None:
        return None
    if hit.kind == "match" or hit.item.text:
        return probability >= _EVEN
    return None if calibration is None else probability >= calibration.least
