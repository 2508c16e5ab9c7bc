"""How well a model describes: BLEU and CIDEr of its captions against those that people wrote."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmrag.errors import InputError, ItemError
from mmrag.evaluate.pairs import Progress
from mmrag.models.registry import load_generator
from mmrag.roles import Generator
from mmrag.sources.image import read_image
from mmrag.sources.pairs import Pair, read_pairs

if TYPE_CHECKING:
    from PIL.Image import Image

Words = Sequence[str]
Counts = Counter[tuple[str, ...]]

logger = logging.getLogger("mmrag")

EXAMPLES = 10

_LONGEST = 4
_SIGMA = 6.0  # of the penalty for another length, in words
_TOKEN = re.compile(r"[\u3400-\u9fff]|\d+(?:[.,:]\d+)+|n't|'(?:s|re|ve|ll|d|m)\b|[^\W_\u3400-\u9fff]+(?:-[^\W_]+)*")


@dataclass(frozen=True)
class CaptionMetrics:
    """How near captions are to references.

    Attributes
    ----------
    bleu : tuple of four floats
        BLEU-1 to BLEU-4 of all captions together, from 0 to 1.
    cider : float
        CIDEr-D, the mean over captions, from 0 to 10.
    """

    bleu: tuple[float, ...]
    cider: float

    def as_dict(self) -> dict[str, float]:
        """Give all of them times 100, as papers print them."""
        figures = {f"BLEU-{n}": value for n, value in enumerate(self.bleu, start=1)}
        return {name: round(100 * value, 2) for name, value in (figures | {"CIDEr": self.cider}).items()}


def evaluate_captions(
    paths: Iterable[str | Path],
    *,
    model: str | Generator = "builtin",
    beams: int = 3,
    limit: int | None = None,
    text_key: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Let a model describe the pictures of pairs, and compare that with their texts.

    Parameters
    ----------
    paths : iterable of path
        Files of pairs, as `mmrag.sources.pairs.read_pairs` reads them.
    model : str or Generator
        As `mmrag.load_generator` takes it.
    beams : int
        Of beam search.
    limit : int or None
        Take so many pairs only, the first.
    text_key : str or None
        Where the texts are; by default the first key present of the usual ones.
    progress : callable or None
        Called with how many pictures are described, and 0.

    Returns
    -------
    dict
        ``BLEU-1`` to ``BLEU-4`` and ``CIDEr``, times 100; ``n_images``, ``n_texts``, ``model``; ``examples``, at
        most ten that nobody has selected, evenly from first to last, each with ``id``, ``caption`` and ``references``.

    Raises
    ------
    InputError
        If there is no readable picture.
    """
    generator = load_generator(model) if isinstance(model, str) else model
    if limit is not None and limit < 1:
        raise InputError(f"limit is at least 1, not {limit}")
    pairs = _readable(islice(read_pairs(paths, text_key=text_key), limit), generator.decode_at_least)
    described: list[dict[str, Any]] = []
    while some := list(islice(pairs, generator.batch)):
        captions = generator.caption([image for _, image in some], beams=beams)
        for (pair, _), caption in zip(some, captions, strict=True):
            described.append({"id": pair.id, "caption": caption, "references": list(pair.texts)})
        if progress:
            progress(len(described), 0)
    if not described:
        raise InputError("there is no readable picture among the pairs")
    references = [one["references"] for one in described]
    return {
        **caption_metrics([one["caption"] for one in described], references).as_dict(),
        "n_images": len(described),
        "n_texts": sum(map(len, references)),
        "model": generator.card.name,
        "examples": described[:: math.ceil(len(described) / EXAMPLES)],
    }


def _readable(pairs: Iterable[Pair], at_least: int | None) -> Iterator[tuple[Pair, Image]]:
    for pair in pairs:
        try:
            image = read_image(pair.image, at_least=at_least)
        except ItemError as error:
            logger.warning("%s: %s; skipped", pair.id, error)
            continue
        yield pair, image


def caption_metrics(captions: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionMetrics:
    """Compare captions with what people wrote.

    The formulas are those of pycocoevalcap, which papers use. Words are found as its tokenizer does, nearly: lower
    case, without punctuation, "don't" as "do n't"; of Chinese, each character is a word.

    Parameters
    ----------
    captions : sequence of n str
        One for each picture.
    references : sequence of n sequences of str
        At least one for each picture.

    Raises
    ------
    InputError
        If there is no caption, or a picture without a reference.
    """
    if not captions or len(captions) != len(references) or not all(references):
        raise InputError("give at least one caption, and for each a list of at least one reference")
    candidates = [words(caption) for caption in captions]
    known = [[words(one) for one in some] for some in references]
    return CaptionMetrics(bleu(candidates, known), cider(candidates, known))


def words(text: str) -> list[str]:
    """Divide a text into lower-case words, without punctuation.

    >>> words("A dog isn't in the man's T-shirt.")
    ['a', 'dog', 'is', "n't", 'in', 'the', 'man', "'s", 't-shirt']
    """
    return _TOKEN.findall(text.lower().replace("\u2019", "'").replace("n't", " n't"))


def bleu(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> tuple[float, ...]:
    """Give BLEU-1 to BLEU-4 of a corpus (Papineni et al. 2002); the reference of the closest length counts.

    Parameters
    ----------
    candidates : sequence of n sequences of str
        A caption's words.
    references : sequence of n sequences of sequences of str
        Several captions' words.
    """
    found, possible = np.zeros(_LONGEST), np.zeros(_LONGEST)
    length = closest = 0
    for candidate, others in zip(candidates, references, strict=True):
        known = Counter[tuple[str, ...]]()
        for other in others:
            known |= _grams(other)
        for gram, count in (_grams(candidate) & known).items():
            found[len(gram) - 1] += count
        possible += [max(0, len(candidate) - n) for n in range(_LONGEST)]
        length += len(candidate)
        closest += min((abs(len(other) - len(candidate)), len(other)) for other in others)[1]
    precisions = found / np.maximum(possible, 1)
    penalty = min(1.0, math.exp(1 - closest / length)) if length else 0.0
    return tuple(penalty * float(np.prod(precisions[:n])) ** (1 / n) for n in range(1, _LONGEST + 1))


def cider(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """Give the mean CIDEr-D of captions (Vedantam et al. 2015), with the references as the corpus of documents.

    Cosines of n-grams' tf-idf vectors, n from 1 to 4, where a candidate gains nothing by repeating itself, times
    a penalty for another length. Parameters as those of `bleu`; with one picture alone it is 0.
    """
    documents = Counter(gram for others in references for gram in set().union(*map(_grams, others)))
    weights = {gram: math.log(len(references) / count) for gram, count in documents.items()}
    unseen = math.log(len(references))
    scores = []
    for candidate, others in zip(candidates, references, strict=True):
        mine = _Weighed(candidate, weights, unseen)
        scores.append(np.mean([mine.similarity(_Weighed(other, weights, unseen)) for other in others]))
    return 10 * float(np.mean(scores))


class _Weighed:
    """A text as tf-idf vectors, one for each length of n-grams."""

    def __init__(self, text: Words, weights: dict[tuple[str, ...], float], unseen: float) -> None:
        self.length = max(0, len(text) - 1)  # in bigrams, as the reference counts
        self.values = {gram: count * weights.get(gram, unseen) for gram, count in _grams(text).items()}
        squares = np.zeros(_LONGEST)
        for gram, value in self.values.items():
            squares[len(gram) - 1] += value**2
        self.norms = np.sqrt(squares)

    def similarity(self, other: _Weighed) -> float:
        """Of a candidate to a reference, from 0 to 1."""
        products = np.zeros(_LONGEST)
        for gram in self.values.keys() & other.values.keys():
            products[len(gram) - 1] += min(self.values[gram], other.values[gram]) * other.values[gram]
        norms = self.norms * other.norms
        cosines = np.divide(products, norms, out=np.zeros(_LONGEST), where=norms > 0)
        return float(cosines.mean()) * math.exp(-((self.length - other.length) ** 2) / (2 * _SIGMA**2))


def _grams(text: Words) -> Counts:
    """Count the n-grams of a text, n from 1 to 4."""
    return Counter(tuple(text[i : i + n]) for n in range(1, _LONGEST + 1) for i in range(len(text) - n + 1))
