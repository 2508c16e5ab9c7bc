"""The whole way on real photographs: those that the wheels of scikit-image and scikit-learn carry."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from mmrag.errors import MissingExtraError
from mmrag.home import create
from mmrag.index import Index
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

_SUFFIXES = (".jpg", ".png")


@dataclass(frozen=True)
class Answer:
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


def ask(index: Index) -> Iterator[Answer]:
    """Search for what is known to be there: in words, and by a part of a picture, mirrored."""
    for words, right in EXPECTED.items():
        hits = index.search(words, k=3)
        yield Answer(f'"{words}"', hits, Path(hits[0].item.uri).name in right)
    cat = index.home / "pictures" / "chelsea.png"
    with Image.open(cat) as picture:
        face = ImageOps.mirror(picture.convert("RGB").crop(CAT_FACE))
    face.save(index.home / "query.jpg")
    hits = index.search(index.home / "query.jpg", k=3)
    yield Answer(
        "--image query.jpg     # the cat's face, cut out and mirrored", hits, hits[0].item.uri.endswith(cat.name)
    )
