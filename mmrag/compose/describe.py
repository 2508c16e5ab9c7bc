"""Pictures in files → what a generator says of them: captions, and answers to questions."""

from __future__ import annotations

import os
from collections.abc import Generator as Reading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from mmrag.errors import GenerationError, InputError, ItemError, ModelError
from mmrag.ingest.ahead import ahead
from mmrag.ingest.recipe import SourceOptions
from mmrag.machine import usable_cores
from mmrag.models import catalogue
from mmrag.models.writing import check_writing
from mmrag.roles import Generator
from mmrag.sources.image import reduced
from mmrag.sources.rooms import Rooms
from mmrag.sources.uri import absolute
from mmrag.sources.walk import File, describe, walk

if TYPE_CHECKING:
    from PIL.Image import Image

    from mmrag.evaluate.pairs import Progress

_ANSWERING = (
    "blip-vqa-base",
    "instructblip-flan-t5-xl",
    "instructblip-vicuna-7b",
    "llava-1.5-7b",
    "smolvlm-256m",
    "blip2-flan-t5-xl",
    "blip2-opt-2.7b",
)
"""Of the catalogue, what answers questions about pictures; what to try first comes first."""


@dataclass(frozen=True)
class Writing:
    """How captions are written; see `Generator.caption`.

    Attributes
    ----------
    prompt : str
        What each begins with.
    beams : int
        Of beam search.
    nucleus : float or None
        Sample instead, from the smallest set of tokens whose probabilities sum up to this.
    max_tokens : int
        How many tokens are written at most.
    seed : int or None
        Decides what is sampled.
    """

    prompt: str = ""
    beams: int = 3
    nucleus: float | None = None
    max_tokens: int = 30
    seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse what nothing can be written by."""
        check_writing(self.beams, self.max_tokens, self.nucleus)


@dataclass(frozen=True)
class Description:
    """What is said of a picture, or why nothing is.

    Attributes
    ----------
    path : str
        As it is seen from the current folder.
    caption : str
        Empty where the picture could not be read or described.
    failure : str or None
        Why not.
    """

    path: str
    caption: str = ""
    failure: str | None = None


@dataclass(frozen=True)
class _Opened:
    path: str
    image: Image | None
    failure: str | None = None


def caption_files(
    paths: Sequence[str | Path],
    generator: Generator,
    writing: Writing | None = None,
    *,
    progress: Progress | None = None,
) -> Iterator[Description]:
    """Describe pictures in files.

    Parameters
    ----------
    paths : sequence of path
        Pictures, and folders, which are walked as `Index.add` walks them.
    generator : Generator
        That sees.
    writing : Writing or None
        By default `Writing()`.
    progress : callable or None
        Called with how many are done, and how many there are.

    Yields
    ------
    Description
        Of each picture, in order; of one that cannot be read or described, why.

    Raises
    ------
    InputError
        If there is no picture.
    ModelError
        If the generator does not describe.
    """
    writing = writing or Writing()
    found = [file for path in paths for file in _find(path)]
    if not found:
        raise InputError(f"there is no picture to describe in {', '.join(map(str, paths))}")
    done = 0
    with closing(_opened(found, generator)) as opened:
        while some := list(islice(opened, generator.batch)):
            yield from _described(some, generator, writing)
            done += len(some)
            if progress:
                progress(done, len(found))


def answer_about(path: str | Path, question: str, generator: Generator, *, max_tokens: int = 10) -> str:
    """Answer a question about a picture in a file.

    Raises
    ------
    InputError
        If nothing is asked, or there is no picture that can be read.
    ModelError
        If the generator does not answer.
    """
    if not question.strip():
        raise InputError('the question is empty; ask something, such as "how many dogs?"')
    opened = _open(Rooms(), generator.decode_at_least, _file(path))
    if opened.image is None:
        raise InputError(f"{path}: {opened.failure}")
    return generator.answer([opened.image], [question], max_tokens=max_tokens)[0]


def answering_model() -> str:
    """Name the first model of the catalogue that is here and answers questions about pictures.

    Raises
    ------
    ModelError
        If none is, with the command that fetches one.
    """
    here = (name for name in _ANSWERING if catalogue.entries()[name].is_here())
    name = next(here, None)
    if name is None:
        raise ModelError(
            f"no model that answers questions about pictures is here; fetch one: mmrag models pull {_ANSWERING[0]}"
        )
    return name


def _described(some: Sequence[_Opened], generator: Generator, writing: Writing) -> list[Description]:
    images = [one.image for one in some if one.image is not None]
    try:
        captions = iter(_captions(images, generator, writing) if images else ())
    except GenerationError as error:
        return [Description(one.path, failure=one.failure or str(error)) for one in some]
    return [
        Description(one.path, failure=one.failure) if one.image is None else Description(one.path, next(captions))
        for one in some
    ]


def _captions(images: Sequence[Image], generator: Generator, writing: Writing) -> list[str]:
    return generator.caption(
        images,
        prompt=writing.prompt,
        beams=writing.beams,
        nucleus=writing.nucleus,
        max_tokens=writing.max_tokens,
        seed=writing.seed,
    )


def _find(path: str | Path) -> list[File]:
    home = Path(os.path.realpath("."))
    if not os.path.isdir(absolute(path, home)):
        return [_file(path)]
    found = walk(absolute(path, home), home=home)
    return [*found.unlisted, *found.files]


def _file(path: str | Path) -> File:
    home = Path(os.path.realpath("."))
    return describe(str(absolute(path, home)), home)


def _opened(files: Sequence[File], generator: Generator) -> Reading[_Opened]:
    """Read pictures a little ahead, in several threads; one at a time where they must not be reduced."""
    threads = usable_cores() if generator.decode_at_least else 1
    return ahead(
        partial(_open, Rooms(), generator.decode_at_least),
        files,
        threads=threads,
        depth=threads + generator.batch,
        seconds=SourceOptions().max_seconds,
        instead=lambda file, reason: _Opened(file.uri, None, reason),
    )


def _open(rooms: Rooms, at_least: int | None, file: File) -> _Opened:
    if file.problem:
        return _Opened(file.uri, None, file.problem)
    try:
        with ExitStack() as held:
            image = rooms.decode(rooms.read(file.path, held).data, held, at_least=at_least)
            return _Opened(file.uri, reduced(image, at_least))
    except ItemError as error:
        return _Opened(file.uri, None, str(error))
    except MemoryError:
        return _Opened(file.uri, None, "too large to handle in memory")
