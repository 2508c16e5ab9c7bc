"""The pictures of an index, classified by the vectors that it holds: no picture is opened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from mmrag.roles import Encoder
from mmrag.sources.uri import shown_name
from mmrag.stores.view import View
from mmrag.types import Classification
from mmrag.zeroshot.classifier import Classifier
from mmrag.zeroshot.prompts import folder_labels

if TYPE_CHECKING:
    from mmrag.ingest.write import Progress

_ROWS_AT_ONCE = 1024


def classify_stored(
    view: View,
    encoder: Encoder,
    labels: Sequence[str] | None,
    *,
    templates: str | Sequence[str] | None = None,
    k: int = 5,
    logit_scale: float | None = None,
    progress: Progress | None = None,
) -> Iterator[Classification]:
    """Classify the pictures of a view, by uri; parameters and errors as those of `mmrag.classify`."""
    scanned = view.scan(("uri", "part", "modality", "failure"))
    pictures = (
        (shown_name(uri, part), ref, failure) for ref, uri, part, modality, failure in scanned if modality == "image"
    )
    rows = sorted(pictures)
    wanted = folder_labels([uri for uri, *_ in rows]) if labels is None else labels
    classifier = Classifier.build(encoder, wanted, templates=templates, logit_scale=logit_scale, k=k, progress=progress)
    return _classify(view, classifier, rows, progress)


def _classify(
    view: View, classifier: Classifier, rows: list[tuple[str, int, str | None]], progress: Progress | None
) -> Iterator[Classification]:
    remaining, done = iter(rows), 0
    while some := list(islice(remaining, _ROWS_AT_ONCE)):
        found = [(uri, view.vector(ref)) for uri, ref, failure in some if failure is None]
        classified: Iterator[Any] = iter(())
        if found:
            uris, vectors = zip(*found, strict=True)
            classified = iter(classifier.classify(uris, np.stack(vectors)))
        for uri, _, failure in some:
            yield Classification(uri, failure=failure) if failure is not None else next(classified)
            done += 1
            if progress:
                progress(done, len(rows))
