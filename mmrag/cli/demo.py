"""demo: the whole way on real photographs, in one command."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mmrag.index import Index
    from mmrag.types import Hit

# Photographs that the wheels of scikit-image and scikit-learn carry.
COLLECTIONS = (("skimage", "data"), ("sklearn", "datasets/images"))
_SUFFIXES = (".jpg", ".png")

EXPECTED = {
    "a cup of coffee": ("coffee.png",),
    "a cat": ("chelsea.png",),
    "a motorcycle": ("motorcycle_left.png", "motorcycle_right.png"),
    "a flower": ("flower.jpg",),
    "a temple": ("china.jpg",),
}


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(epilog="Example:  mmrag demo --out ./mmrag-demo")(demo)


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to put the pictures and the index.")] = Path(
        "mmrag-demo"
    ),
) -> None:
    """Index and search real photographs.

    They come with scikit-image and scikit-learn: pip install 'mmrag[demo]'. Fails if the right picture is not first.
    """
    from mmrag.errors import MmragError
    from mmrag.index import create

    pictures = _copy_pictures(out / "pictures")
    shutil.rmtree(out / ".mmrag", ignore_errors=True)
    corpus = create(out)
    typer.echo(f"{pictures} pictures → {out}\n{corpus.add(out / 'pictures')}")
    wrong = [words for words, right in EXPECTED.items() if not _search(corpus, words, right)]
    if not _search_by_picture(corpus, out / "pictures" / "chelsea.png"):
        wrong.append("the mirrored face of the cat")
    if wrong:
        raise MmragError(f"the right picture was not first for: {', '.join(wrong)}")
    typer.echo(f'\nAll found. Now yours:  mmrag search "a rocket launch" --index {out}')


def _copy_pictures(folder: Path) -> int:
    from mmrag.errors import MissingExtraError

    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for package, inside in COLLECTIONS:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise MissingExtraError(package, "demo")
        for path in sorted(Path(spec.submodule_search_locations[0], inside).iterdir()):
            if path.suffix in _SUFFIXES:
                shutil.copyfile(path, folder / path.name)
                count += 1
    return count


def _search(corpus: Index, words: str, right: tuple[str, ...]) -> bool:
    hits = corpus.search(words, k=3)
    _show(f'mmrag search "{words}"', hits)
    return bool(hits) and Path(hits[0].item.uri).name in right


def _search_by_picture(corpus: Index, cat: Path) -> bool:
    from PIL import Image, ImageOps

    with Image.open(cat) as picture:
        face = ImageOps.mirror(picture.convert("RGB").crop((120, 0, 360, 240)))
    face.save(corpus.home / "query.jpg")
    hits = corpus.search(corpus.home / "query.jpg", k=3)
    _show("mmrag search --image query.jpg     (the cat's face, cut out and mirrored)", hits)
    return Path(hits[0].item.uri).name == cat.name


def _show(command: str, hits: list[Hit]) -> None:
    typer.echo(f"\n$ {command}")
    for hit in hits:
        typer.echo(f"{hit.rank:>3}  {hit.kind} {hit.score:.3f}  {hit.item.uri}")
