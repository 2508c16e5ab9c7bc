"""The whole way on real photographs: those that the wheels of scikit-image and scikit-learn carry; and on a note."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from mmrag.compose.answer import Answer
from mmrag.compose.ask import EXTRACTIVE
from mmrag.compose.ask import ask as answer_question
from mmrag.compose.illustrated import Illustrated
from mmrag.errors import MissingExtraError
from mmrag.home import create
from mmrag.index import Index
from mmrag.search.shorthand import only
from mmrag.stores.manifest import FOLDER_NAME
from mmrag.types import Hit

COLLECTIONS = (("skimage", "data"), ("sklearn", "datasets/images"))
EXPECTED = {
    "a cup of coffee": ("coffee.png",),
    "a cat": ("chelsea.png",),
    "a motorcycle": ("motorcycle_left.png", "motorcycle_right.png"),
    "a flower": ("flower.jpg",),
    "a temple": ("china.jpg",),
}
CAT_FACE = (120, 0, 360, 240)
NOTE = """# A day in town

A red motorcycle is parked in front of the house.

Our cat Chelsea sleeps on the blue sofa all day.

The train home leaves at ten past seven, from platform four.
"""
QUESTIONS = {"Where does Chelsea sleep?": "sofa", "Who won the election?": None}
"""What is asked, and a word of the right answer; None where nothing answers."""
BELONGING = ("motorcycle_left.png", "motorcycle_right.png")
"""Of these, one belongs into the note, and no other picture does."""

_SUFFIXES = (".jpg", ".png")


@dataclass(frozen=True)
class Searched:
    """One search of the demo.

    Attributes
    ----------
    asked : str
        The arguments of `mmrag search`.
    hits : list of Hit
        The best three.
    found : bool
        Whether the right picture is first.
    """

    asked: str
    hits: list[Hit]
    found: bool


def photographs() -> list[Path]:
    """List the photographs.

    Raises
    ------
    MissingExtraError
        If one of the two packages is not installed.
    """
    paths: list[Path] = []
    for package, inside in COLLECTIONS:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise MissingExtraError(package, "demo")
        folder = Path(spec.submodule_search_locations[0], inside)
        paths += sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)
    return paths


def prepare(out: Path) -> Index:
    """Copy the photographs to ``out/pictures`` and make a new, empty index in `out`."""
    pictures = out / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    for path in photographs():
        shutil.copyfile(path, pictures / path.name)
    shutil.rmtree(out / FOLDER_NAME, ignore_errors=True)
    return create(out)


def search(index: Index) -> Iterator[Searched]:
    """Search for what is known to be there: in words, and by a part of a picture, mirrored."""
    for words, right in EXPECTED.items():
        hits = index.search(words, k=3)
        yield Searched(f'"{words}"', hits, Path(hits[0].item.uri).name in right)
    cat = index.home / "pictures" / "chelsea.png"
    with Image.open(cat) as picture:
        face = ImageOps.mirror(picture.convert("RGB").crop(CAT_FACE))
    face.save(index.home / "query.jpg")
    hits = index.search(index.home / "query.jpg", k=3)
    yield Searched(
        "--image query.jpg     # the cat's face, cut out and mirrored", hits, hits[0].item.uri.endswith(cat.name)
    )


def write_note(out: Path) -> Path:
    """Write a note to ``out/notes``, which is to be indexed, and give its path."""
    path = out / "notes" / "day.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(NOTE, encoding="utf-8")
    return path


def ask(index: Index) -> Iterator[tuple[Answer, bool]]:
    """Ask what the note tells, and what nothing does; give the answers, and whether they are right."""
    for question, word in QUESTIONS.items():
        answer = answer_question(index, question, generator=EXTRACTIVE, where=only("text"))
        yield answer, answer.refused if word is None else word in answer.text


def is_illustrated(illustrated: Illustrated) -> bool:
    """Tell whether the note has got the one picture that belongs into it."""
    return [Path(one.item.uri).name in BELONGING for one in illustrated.placements] == [True]
