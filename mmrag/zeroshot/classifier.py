"""An encoder and labels → a classifier: a vector for each label, by prompt ensembling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mmrag.errors import InputError
from mmrag.roles import Encoder, Vectors
from mmrag.types import Classification
from mmrag.zeroshot.prompts import choose_templates, clean_labels, fill, folder_name

if TYPE_CHECKING:
    from mmrag.ingest.write import Progress

Logits = npt.NDArray[np.float64]

CLIP_SCALE = 100.0
"""Where CLIP's training ended (Radford et al. 2021, section 2.5); for models of which nobody said."""

_LABELS_AT_ONCE = 64


@dataclass(frozen=True)
class Classifier:
    """Tells how probable each label is for a picture.

    Attributes
    ----------
    labels : tuple of str
        At least two.
    label_vectors : float32 ``(labels, dimension)``
        Of unit length.
    logit_scale : float
        What cosines are multiplied with before the softmax.
    k : int
        How many labels a picture gets.
    """

    labels: tuple[str, ...]
    label_vectors: Vectors
    logit_scale: float = CLIP_SCALE
    k: int = 5

    @classmethod
    def build(
        cls,
        encoder: Encoder,
        labels: Sequence[str],
        *,
        templates: str | Sequence[str] | None = None,
        logit_scale: float | None = None,
        k: int = 5,
        progress: Progress | None = None,
    ) -> Classifier:
        """Embed labels: the mean of the unit vectors of their prompts, made a unit vector again.

        As CLIP does it (Radford et al. 2021, section 3.1.4).

        Parameters
        ----------
        encoder : Encoder
            One that sees pictures and reads texts.
        labels : sequence of str
            At least two, none twice.
        templates : str, sequence of str, or None
            As `choose_templates` takes them.
        logit_scale : float or None
            By default the card's, or CLIP's 100 where the card names none.
        k : int
            How many labels a picture gets; all of them where there are fewer.
        progress : callable or None
            Called with how many labels are done and how many there are, if there are many.

        Raises
        ------
        InputError
            If labels, templates, the scale or k cannot be used.
        ModelError
            If the model reads no texts.
        """
        if not isinstance(k, int) or k < 1:
            raise InputError(f"k is a whole number of at least 1, not {k!r}")
        names = clean_labels(labels)
        scale = logit_scale if logit_scale is not None else encoder.card.logit_scale or CLIP_SCALE
        if not 0 < scale < np.inf:
            raise InputError(f"logit_scale is a number above 0, not {scale:g}")
        chosen = choose_templates(templates, encoder.card, names)
        vectors = []
        for start in range(0, len(names), _LABELS_AT_ONCE):
            vectors.append(_ensemble(encoder, names[start : start + _LABELS_AT_ONCE], chosen))
            if progress and len(names) > _LABELS_AT_ONCE:
                progress(min(start + _LABELS_AT_ONCE, len(names)), len(names))
        return cls(names, np.concatenate(vectors), scale, k)

    def logits(self, vectors: Vectors) -> Logits:
        """Score pictures.

        Parameters
        ----------
        vectors : float32 ``(n, dimension)`` or ``(n, vectors, dimension)``
            Of unit length. Of several vectors of a picture, the nearest to a label counts.

        Returns
        -------
        float64 ``(n, labels)``
        """
        cosines = np.asarray(vectors, dtype=np.float64) @ self.label_vectors.T.astype(np.float64)
        return self.logit_scale * (cosines.max(axis=1) if cosines.ndim == 3 else cosines)

    def classify(self, uris: Sequence[str], vectors: Vectors) -> list[Classification]:
        """Give each picture its k most probable labels, and the rank of the one that its folder is named as."""
        logits = self.logits(vectors)
        results = []
        for uri, row, shares in zip(uris, logits, _softmax(logits), strict=True):
            best = np.argsort(-row, kind="stable")[: self.k]
            truth = self._truths.get(_folded(folder_name(uri)))
            results.append(
                Classification(
                    uri=uri,
                    labels=tuple(self.labels[n] for n in best),
                    probabilities=tuple(float(shares[n]) for n in best),
                    truth=None if truth is None else self.labels[truth],
                    truth_rank=None if truth is None else int((row >= row[truth]).sum()),  # ties count against it
                )
            )
        return results

    @cached_property
    def _truths(self) -> dict[str, int]:
        return {_folded(label): n for n, label in enumerate(self.labels)}


def _ensemble(encoder: Encoder, labels: Sequence[str], templates: Sequence[str]) -> Vectors:
    prompts = [fill(template, label) for label in labels for template in templates]
    vectors = encoder.encode_query(prompts).reshape(len(labels), len(templates), -1)  # (labels, templates, d)
    means = vectors.mean(axis=1)
    return np.asarray(means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12), dtype=np.float32)


def _softmax(logits: Logits) -> Logits:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _folded(name: str) -> str:
    return name.replace("_", " ").casefold()
