"""Pictures → what a generator says of them, and how probable a matcher finds it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmrag.bootstrap.candidates import Candidate
from mmrag.bootstrap.journal import Told
from mmrag.errors import InputError, ItemError
from mmrag.ingest.ahead import ahead
from mmrag.ingest.recipe import SourceOptions
from mmrag.machine import usable_cores
from mmrag.models.writing import check_writing
from mmrag.roles import Generator, Matcher
from mmrag.search.judge import PIXELS_AT_ONCE, judge_pairs, picture_blocks
from mmrag.sources.image import reduced
from mmrag.sources.rooms import Rooms

if TYPE_CHECKING:
    from PIL.Image import Image

_WHOLE_AT_ONCE = 4
"""How many pictures are read ahead that must not be reduced."""


@dataclass(frozen=True)
class Writing:
    """How captions are written.

    Attributes
    ----------
    captions : int, at least 1
        How many for each picture; more than one are sampled.
    nucleus : float or None
        Sample from the smallest set of tokens whose probabilities sum up to this; None is beam search. BLIP found
        that sampling makes better pairs, as it says what is less expected (Li et al. 2022, section 4.3).
    beams : int
        Of beam search.
    prompt : str
        What each caption begins with.
    seed : int
        Decides what is sampled.
    """

    captions: int = 1
    nucleus: float | None = 0.9
    beams: int = 3
    prompt: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be written so."""
        check_writing(self.beams, 1, self.nucleus)
        if self.captions < 1:
            raise InputError(f"captions is at least 1 for each picture, not {self.captions}")
        if self.captions > 1 and self.nucleus is None:
            raise InputError("beam search finds one caption; for several, sample them: nucleus, such as 0.9")


@dataclass(frozen=True)
class Described:
    """What is told of a picture, or why nothing is."""

    candidate: Candidate
    told: tuple[Told, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class _Opened:
    candidate: Candidate
    image: Image | None
    problem: str = ""


def describe(
    todo: Sequence[Candidate], generator: Generator, matcher: Matcher, writing: Writing
) -> Iterator[list[Described]]:
    """Open pictures a little ahead, and describe and judge as many at once as go through the network."""
    sides = (generator.decode_at_least, matcher.decode_at_least)
    at_least = None if None in sides else max(side or 0 for side in sides)
    at_once = usable_cores() if at_least else min(usable_cores(), _WHOLE_AT_ONCE)
    opened = ahead(
        partial(_open, Rooms(), at_least),
        todo,
        threads=at_once,
        depth=at_once,
        seconds=SourceOptions().max_seconds,
        instead=lambda candidate, reason: _Opened(candidate, None, reason),
    )
    for some in _together(opened, generator.batch):
        described = [Described(one.candidate, problem=one.problem) for one in some if one.image is None]
        seen = [(one.candidate, one.image) for one in some if one.image is not None]
        if seen:
            told = _tell(seen, generator, matcher, writing)
            described += [Described(one, texts) for (one, _), texts in zip(seen, told, strict=True)]
        yield described


def _together(opened: Iterator[_Opened], batch: int) -> Iterator[list[_Opened]]:
    """Group pictures: as many as go through the network at once, and fewer of large ones."""
    some: list[_Opened] = []
    pixels = 0
    for one in opened:
        some.append(one)
        pixels += one.image.width * one.image.height if one.image else 0
        if len(some) == batch or pixels >= PIXELS_AT_ONCE:
            yield some
            some, pixels = [], 0
    if some:
        yield some


def _open(rooms: Rooms, at_least: int | None, candidate: Candidate) -> _Opened:
    try:
        data = candidate.picture.read()
        with ExitStack() as held:
            image = reduced(rooms.decode(data, held, at_least=at_least), at_least)
        if candidate.stored:
            _store(data, candidate.image)
    except ItemError as error:
        return _Opened(candidate, None, str(error))
    except MemoryError:
        return _Opened(candidate, None, "too large to handle in memory")
    return _Opened(candidate, image)


def _store(data: bytes, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_bytes(data)
    os.replace(aside, path)


def _tell(
    seen: Sequence[tuple[Candidate, Image]], generator: Generator, matcher: Matcher, writing: Writing
) -> list[tuple[Told, ...]]:
    """Describe pictures, and judge what was written and what people have said."""
    images = [image for _, image in seen]
    origins = [dict.fromkeys(candidate.texts, "human") for candidate, _ in seen]
    for captions in _captions(images, generator, writing):
        for mine, caption in zip(origins, captions, strict=True):
            if caption.strip():
                mine.setdefault(caption.strip(), "model")
    believed = iter(_judged([list(mine) for mine in origins], images, matcher))
    return [tuple(Told(text, origin, round(next(believed), 4)) for text, origin in mine.items()) for mine in origins]


def _captions(images: Sequence[Image], generator: Generator, writing: Writing) -> Iterator[list[str]]:
    options: dict[str, Any] = {"prompt": writing.prompt, "beams": writing.beams, "nucleus": writing.nucleus}
    for number in range(writing.captions):
        yield generator.caption(images, seed=writing.seed + number, **options)


def _judged(texts: Sequence[Sequence[str]], images: Sequence[Image], matcher: Matcher) -> list[float]:
    """Tell how probable each picture's own texts are, one after the other."""
    every = [text for mine in texts for text in mine]
    if not every:
        return []
    owner = np.repeat(np.arange(len(texts)), [len(mine) for mine in texts])
    wanted = np.stack([np.arange(len(every)), owner], axis=1)
    blocks = picture_blocks(matcher, enumerate(images))
    probabilities: list[float] = judge_pairs(matcher, every, wanted, blocks, cosines=False).probabilities.tolist()
    return probabilities
