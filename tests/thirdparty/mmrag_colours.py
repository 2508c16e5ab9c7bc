"""Pictures by their colours: histograms that are searched by the names of colours."""

from __future__ import annotations

import logging
import re

import numpy as np
from PIL import Image, ImageColor

import mmrag
from mmrag.errors import InputError, ModelError

SIDE = 32  # pictures are looked at this small
NEAR = 0.15  # how far apart, from 0 to 1, two colours are alike

logger = logging.getLogger("mmrag_colours")


class Colours(mmrag.Encoder, mmrag.Matcher):
    """A picture is how much of it is of which colour; a text is the colours that it names.

    Parameters
    ----------
    bins : int
        Into how many parts red, green and blue are divided each.
    """

    decode_at_least = SIDE

    def __init__(self, bins: int) -> None:
        self.bins = bins
        self.card = mmrag.Card(
            name="colours",
            family="colours",
            revision=f"1.{bins}",
            dimension=bins**3,
            roles=("encoder", "matcher"),
            max_tokens=64,
            languages=("en",),
            summary="Colour histograms, and the names of colours that CSS knows.",
            licence_code="Apache-2.0",
        )
        self.identity = mmrag.Identity(
            name=self.card.name,
            revision=self.card.revision,
            weights="none",
            preprocessing=f"{SIDE} × {SIDE}, box",
            dimension=self.card.dimension,
        )
        self.feature_shape = (self.card.dimension,)
        middles = (np.arange(bins) + 0.5) / bins
        self.centres = np.stack(np.meshgrid(middles, middles, middles, indexing="ij"), axis=-1).reshape(-1, 3)

    # Encoder

    def preprocess(self, image):
        """Turn an upright RGB picture into float32 ``(3, 32, 32)``, from 0 to 1."""
        small = image.resize((SIDE, SIDE), Image.Resampling.BOX)
        return np.asarray(small, dtype=np.float32).transpose(2, 0, 1) / 255

    def _embed_pixels(self, pixels):
        return np.sqrt(self._histograms(pixels))

    def _embed_text(self, texts):
        return np.sqrt([self._closeness(text) for text in texts])

    # Matcher

    def features(self, items):
        """Compute the histogram of each picture, float32 ``(n, dimension)``."""
        if not len(items):
            return np.empty((0, *self.feature_shape), dtype=np.float32)
        return self._histograms(np.stack([self.preprocess(item) for item in items]))

    def match(self, texts, features, wanted=None, *, cosines=True):
        """Judge each pair by the share of the picture that has a colour of the text."""
        if isinstance(texts, str):
            raise InputError("match takes a list of texts; put the one text into a list")
        shape = (len(texts), len(features))
        wanted = np.ones(shape, dtype=bool) if wanted is None else np.asarray(wanted)
        if wanted.shape != shape:
            raise InputError(f"wanted has the shape {wanted.shape}, not {shape}: a row per text, a column per item")
        features = np.asarray(features, dtype=np.float32).reshape(-1, self.card.dimension)
        closeness = np.array([self._closeness(text) for text in texts]).reshape(-1, self.card.dimension)
        shares = np.where(wanted, np.clip(closeness @ features.T, 1e-4, 1 - 1e-4), np.nan)
        own = np.where(wanted, self.encode_text(texts) @ np.sqrt(features.T), np.nan) if cosines else None
        return mmrag.Judgement(
            logits=np.log(shares / (1 - shares)).astype(np.float32),
            probabilities=shares.astype(np.float32),
            cosines=None if own is None else own.astype(np.float32),
        )

    def _histograms(self, pixels):
        """Count colours: ``(n, 3, h, w)`` → float32 ``(n, dimension)``, each row summing up to 1."""
        places = np.minimum((pixels * self.bins).astype(int), self.bins - 1)  # (n, 3, h, w)
        numbers = (places * [[[[self.bins**2]], [[self.bins]], [[1]]]]).sum(axis=1).reshape(len(pixels), -1)
        counts = [np.bincount(row, minlength=self.card.dimension) for row in numbers]
        return np.array(counts, dtype=np.float32) / numbers.shape[1]

    def _closeness(self, text):
        """Tell how close each bin is to a colour that the text names; all are alike where it names none."""
        words = re.findall(r"[a-z]+", text.lower())
        if len(words) > self.card.max_tokens:
            logger.warning("only the first %d tokens are read of a text of %d", self.card.max_tokens, len(words))
        named = [word for word in words[: self.card.max_tokens] if word in ImageColor.colormap]
        if not named:
            return np.full(self.card.dimension, 0.5)
        colours = np.array([ImageColor.getrgb(name) for name in named]) / 255  # (colours, 3)
        outside = np.maximum(abs(self.centres[:, None] - colours) - 0.5 / self.bins, 0)  # (dimension, colours, 3)
        nearest = np.sqrt((outside**2).sum(axis=2)).min(axis=1)  # (dimension,)
        return np.exp(-((nearest / NEAR) ** 2))


def open_colours(reference):
    """Open ``colours:BINS``, such as ``colours:4``; what stands after the colon is `reference`."""
    if reference not in ("", "2", "3", "4", "6", "8"):
        raise ModelError(f"colours:{reference} is not known; give colours:BINS with 2, 3, 4, 6 or 8 bins")
    return Colours(int(reference or 4))
