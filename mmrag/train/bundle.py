"""A training that travels: all that a machine needs that has torch and its friends, and neither mmrag nor a network.

A bundle is a folder with mmrag's own source, the models that the recipe names, the pairs with their pictures made
small, and the recipe. `python -m mmrag.train` packs, runs and joins.
"""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from mmrag import recipe as recipes
from mmrag.errors import InputError, ItemError, MissingExtraError
from mmrag.models import catalogue
from mmrag.models.checkpoint import Checkpoint
from mmrag.sources.image import read_image
from mmrag.sources.pairs import Pair, open_pairs
from mmrag.train.log import Reporter
from mmrag.train.loop import TrainReport, fit
from mmrag.train.pieces import claim_empty
from mmrag.train.recipe import TrainRecipe
from mmrag.train.start import IMAGE_PACKAGE, TEXT_PACKAGE
from mmrag.train.tasks import open_task

RECIPE_NAME = "recipe.json"
PAIRS_NAME, VAL_NAME = "pairs.tar", "val.tar"
JPEG_QUALITY = 95

_PACKAGE = Path(__file__).resolve().parents[1]
_BUILTIN = "builtin"
_FROM_PACKAGES = "packages"
_PLAIN = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png"}  # formats that are read everywhere


def pack(
    recipe: TrainRecipe,
    pairs: Sequence[Pair],
    out: Path,
    *,
    val: Sequence[Pair] | None = None,
    side: int | None = None,
) -> Counter[str]:
    """Write a bundle.

    Parameters
    ----------
    recipe : TrainRecipe
        How to train.
    pairs, val : sequence of Pair
        What to train and to measure on.
    out : path
        An empty folder, or none yet.
    side : int or None
        Pictures whose shorter side is longer are shrunk to it, in pixels; the model's input size is enough, and more
        where an augmentation crops. None leaves all as they are. JPEG and PNG files that need not be shrunk keep their
        bytes.

    Returns
    -------
    Counter of str
        Pairs that could not be read and are left out, by reason.

    Raises
    ------
    InputError
        If no pair can be read, or `out` holds something.
    ModelError
        If a model is not here.
    """
    claim_empty(out)
    leave_out = shutil.ignore_patterns("__pycache__", _BUILTIN)
    shutil.copytree(_PACKAGE, out / _PACKAGE.name, ignore=leave_out)
    data = dataclasses.replace(recipe.data, text_key=None)  # the texts are chosen
    recipe = with_models(dataclasses.replace(recipe, data=data), lambda name, place: _pack_model(name, out, place))
    (out / RECIPE_NAME).write_text(json.dumps(dataclasses.asdict(recipe), indent=1), encoding="utf-8")
    skipped = write_pairs(pairs, out / PAIRS_NAME, side=side)
    if val is not None:
        skipped += write_pairs(val, out / VAL_NAME, side=side)
    return skipped


def with_models(recipe: TrainRecipe, rename: Callable[[str, str], str]) -> TrainRecipe:
    """Give the models that a recipe names other names.

    Parameters
    ----------
    recipe : TrainRecipe
        Its start, and what some tasks' settings name.
    rename : callable
        Makes the new name of the old one and of what the model is to the recipe.
    """
    settings = dict(recipe.settings)
    if settings.get("llm"):
        settings["llm"] = rename(settings["llm"], "llm")
    if settings.get("distill", {}).get("teacher"):
        settings["distill"] = {**settings["distill"], "teacher": rename(settings["distill"]["teacher"], "teacher")}
    return dataclasses.replace(recipe, settings=settings, start=rename(recipe.start, "start"))


def _pack_model(name: str, out: Path, place: str) -> str:
    """Copy a model's files; gives its name in the bundle."""
    if name == _FROM_PACKAGES:
        for package in (IMAGE_PACKAGE, TEXT_PACKAGE):  # they are found beside mmrag
            spec = find_spec(package)
            if spec is None or not spec.submodule_search_locations:
                raise MissingExtraError(package, "dev")
            shutil.copytree(spec.submodule_search_locations[0], out / package)
        return name
    shutil.copytree(model_folder(name), out / place)
    return place


def model_folder(name: str) -> Path:
    """Find where a model's files lie: "builtin", a folder, a name of the catalogue, or FAMILY:NAME.

    Raises
    ------
    ModelError
        If it is not here.
    """
    if name == _BUILTIN:
        return _PACKAGE / "models" / _BUILTIN
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    full = catalogue.full_name(name)
    return Checkpoint.locate(full.partition(":")[2] or full).path


def write_pairs(pairs: Sequence[Pair], path: Path, *, side: int | None) -> Counter[str]:
    """Write pairs as a tar in webdataset layout, in their order; gives those left out, as `pack` does."""
    skipped: Counter[str] = Counter()
    with tarfile.open(path, "w") as archive:
        for row in range(len(pairs)):
            try:
                pair = pairs[row]
                suffix, image = shrunk(pair.image, side)
            except ItemError as error:
                skipped[str(error)] += 1
                continue
            _add(archive, f"{row:08}.{suffix}", image)
            _add(archive, f"{row:08}.json", json.dumps({"texts": pair.texts}, ensure_ascii=False).encode())
    if sum(skipped.values()) == len(pairs):
        raise InputError(f"none of {len(pairs)} pairs can be read: {dict(skipped)}")
    return skipped


def shrunk(data: bytes, side: int | None) -> tuple[str, bytes]:
    """Shrink a picture; gives the suffix of its file, and its bytes.

    Raises
    ------
    ItemError
        If it cannot be read.
    """
    image = read_image(data)
    plain = next((suffix for magic, suffix in _PLAIN.items() if data.startswith(magic)), None)
    share = 1.0 if side is None else side / min(image.size)
    if plain and share >= 1:
        return plain, data
    if share < 1:
        image = image.resize((round(image.width * share), round(image.height * share)), reducing_gap=3.0)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=JPEG_QUALITY)
    return "jpg", file.getvalue()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def run(
    bundle: Path, out: Path, *, device: str = "cpu", resume: bool = False, reporter: Reporter | None = None
) -> TrainReport:
    """Train as a bundle says; the other parameters, and errors, are those of `mmrag.train.loop.fit`.

    Raises
    ------
    InputError
        If there is no bundle.
    """
    try:
        written = json.loads((bundle / RECIPE_NAME).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"there is no bundle in {str(bundle)!r}: cannot read {RECIPE_NAME}: {error.strerror}"
        ) from error
    recipe = recipes.build(TrainRecipe, written, where=RECIPE_NAME)
    here = with_models(recipe, lambda name, _: name if name == _FROM_PACKAGES else str(bundle.resolve() / name))
    task = open_task(here.task, start=here.start, settings=here.settings)
    val = open_pairs([bundle / VAL_NAME]) if (bundle / VAL_NAME).is_file() else None
    return fit(
        task,
        open_pairs([bundle / PAIRS_NAME]),
        val=val,
        out=out,
        recipe=recipe,  # with names that are the same wherever the bundle lies, or no run could go on elsewhere
        device=device,
        resume=resume,
        reporter=reporter,
    )
