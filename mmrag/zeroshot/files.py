"""Folders, files and pictures in memory, classified while they are read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmrag.errors import InputError
from mmrag.ingest.batches import in_batches
from mmrag.ingest.load import Loaded, Loader
from mmrag.ingest.recipe import SourceOptions
from mmrag.models.registry import load_encoder
from mmrag.roles import Encoder
from mmrag.sources.uri import absolute
from mmrag.sources.walk import File, walk
from mmrag.types import Classification, Item
from mmrag.zeroshot.classifier import Classifier
from mmrag.zeroshot.prompts import folder_labels

if TYPE_CHECKING:
    from mmrag.ingest.write import Progress
    from mmrag.types import ImageInput


def classify(
    sources: ImageInput | Sequence[ImageInput],
    labels: Sequence[str] | None = None,
    *,
    model: str | Encoder = "builtin",
    precision: str | None = None,
    device: str = "auto",
    templates: str | Sequence[str] | None = None,
    k: int = 5,
    logit_scale: float | None = None,
    exclude: Sequence[str] = (),
    progress: Progress | None = None,
) -> Iterator[Classification]:
    """Tell which of some labels fit pictures, without training (Radford et al. 2021, section 3.1).

    Each label is put into templates ("a photo of a {}."), and a picture's probabilities are the softmax over its
    cosines with the labels: they compare the labels given, and always sum up to 1.

    Parameters
    ----------
    sources : path, bytes, PIL image, or a sequence of these
        Folders are walked as `Index.add` walks them.
    labels : sequence of str or None
        At least two; by default the names of the folders that the pictures lie in, an underscore being a space.
    model : str or Encoder
        What `load_encoder` takes, or gives; one that it gave computes as it does, and not as said here.
    precision : {"fp32", "bf16", "fp16", "int8"} or None
        What pictures are encoded in.
    device : {"auto", "cpu", "cuda", "mps"}
        Where; ONNX models run on the CPU.
    templates : {"imagenet", "chinese", "plain"}, path, sequence of str, or None
        What makes sentences of labels, ``{}`` being the label; by default what suits the model's languages.
    k : int
        How many labels a picture gets.
    logit_scale : float or None
        What cosines are multiplied with before the softmax: the higher, the surer. By default what the model was
        trained with, if its card says so, or else CLIP's 100.
    exclude : sequence of str
        Globs to leave out of folders.
    progress : callable or None
        Called with how many are done and how many there are: labels, where there are many, and then pictures.

    Yields
    ------
    Classification
        Of each picture, in the order of `sources`; of one that cannot be read, why.

    Raises
    ------
    InputError
        If a path does not exist, or labels or templates cannot be used.
    ModelError
        If the model cannot be loaded, or does not read texts and see pictures both.

    Examples
    --------
    >>> for one in mmrag.classify("./images", ["cat", "dog"]):  # doctest: +SKIP
    ...     print(one.uri, one.failure or one.labels[0])
    """
    home = Path(os.path.realpath("."))
    found = _find(sources, home, exclude)
    encoder = load_encoder(model, precision=precision, device=device) if isinstance(model, str) else model
    wanted = folder_labels([one.uri for one in found]) if labels is None else labels
    classifier = Classifier.build(encoder, wanted, templates=templates, logit_scale=logit_scale, k=k, progress=progress)
    limits = SourceOptions()
    loader = Loader(encoder, home, limits.max_pixels, content={})

    def label(loaded: list[Loaded]) -> list[Classification]:
        return _label(loaded, encoder, classifier)

    def stream() -> Iterator[Classification]:
        with closing(in_batches(loader, found, label, seconds=limits.max_seconds, total=len(found))) as results:
            for done, one in enumerate(results, start=1):
                yield one
                if progress:
                    progress(done, len(found))

    return stream()


def _label(loaded: list[Loaded], encoder: Encoder, classifier: Classifier) -> list[Classification]:
    seen = [(one.row.uri, one.pixels) for one in loaded if one.pixels is not None]
    classified: Iterator[Classification] = iter(())
    if seen:
        vectors = encoder.encode_pixels(np.stack([pixels for _, pixels in seen]))
        classified = iter(classifier.classify([uri for uri, _ in seen], vectors))
    return [
        Classification(one.row.uri, failure=one.row.failure) if one.pixels is None else next(classified)
        for one in loaded
    ]


def _find(sources: ImageInput | Sequence[ImageInput], home: Path, exclude: Sequence[str]) -> list[File | Item]:
    if isinstance(exclude, str):
        raise InputError(f"exclude takes a list of globs; put the one glob into a list: [{exclude!r}]")
    many = isinstance(sources, Iterable) and not isinstance(sources, (str, bytes))
    listed: list[Any] = list(sources) if many else [sources]  # type: ignore[arg-type]
    found: list[File | Item] = []
    for n, source in enumerate(listed):
        if isinstance(source, (str, Path)):
            found += _walk(source, home, exclude)
        elif isinstance(source, bytes) or hasattr(source, "convert"):
            found.append(Item(uri=f"picture {n}", image=source))
        else:
            raise InputError(f"paths, PIL images and bytes can be classified, not {type(source).__name__}")
    return found


def _walk(source: str | Path, home: Path, exclude: Sequence[str]) -> list[File]:
    path = absolute(source, home)
    if not os.path.lexists(path):
        raise InputError(f"there is no file or folder {str(source)!r}")
    walked = walk(path, home=home, exclude=exclude)
    return [*walked.unlisted, *walked.files]
