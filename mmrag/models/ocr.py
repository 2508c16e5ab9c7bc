"""Reading what stands in pictures: the detector and recogniser that `rapidocr-onnxruntime` brings along."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from mmrag.errors import MissingExtraError

if TYPE_CHECKING:
    from PIL.Image import Image

_PACKAGE = "rapidocr-onnxruntime"


class Reader:
    """Reads Latin and Chinese print in pictures.

    Attributes
    ----------
    origin : str
        Its name and version.

    Raises
    ------
    MissingExtraError
        If the extra ``ocr`` is not installed.
    """

    decode_at_least = 2000  # rapidocr makes the longest side that long
    batch = 1

    def __init__(self) -> None:
        try:
            from rapidocr_onnxruntime import RapidOCR
        except ImportError as error:
            raise MissingExtraError("rapidocr_onnxruntime", "ocr") from error
        self.origin = f"rapidocr {version(_PACKAGE)}"
        self._read: Any = RapidOCR()

    def read(self, images: Sequence[Image]) -> list[str]:
        """Read upright RGB pictures: a line for each piece of text, from top to bottom; empty where there is none."""
        return [self._lines(image) for image in images]

    def _lines(self, image: Image) -> str:
        blue_first = np.ascontiguousarray(np.asarray(image)[:, :, ::-1])  # as OpenCV has it
        found, _ = self._read(blue_first)
        return "\n".join(text for _, text, _ in found or ())
