"""Heat maps over pictures: which parts have to do with what was asked."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from mmrag.errors import InputError
from mmrag.roles import Heat

if TYPE_CHECKING:
    from mmrag.search.explain import Explanation

SIDE = 640
"""Longest side of an overlay, in pixels."""

_SHARE = 0.55  # of the colours, over the picture in grey
_BAR = 10
_MARGIN = 4
_MOST_NAME_BYTES = 120  # of a picture's name in that of a file; a whole name may have 255

# Viridis (Smith and van der Walt, 2015; CC0) at nine equal steps: lightness rises evenly, for the colour-blind too.
_STEPS = np.array(
    [
        *((68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141)),
        *((39, 173, 129), (92, 200, 99), (170, 220, 50), (253, 231, 37)),
    ],
    dtype=np.float32,
)


def overlay(image: Image.Image, heat: Heat, *, title: str = "") -> Image.Image:
    """Draw a heat map over a picture, with a legend below: the lowest and the highest value, and their colours.

    Parameters
    ----------
    image : PIL image
        Upright RGB.
    heat : float32 ``(rows, columns)``
        Over the whole picture.
    title : str
        What is explained, for the legend.

    Returns
    -------
    PIL image, RGB
        At most `SIDE` pixels wide and high, without the legend. The same for the same input.
    """
    shown = image.copy()
    shown.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    low, high = float(heat.min()), float(heat.max())
    scaled = Image.fromarray((heat - low) / max(high - low, 1e-9))
    smooth = np.asarray(scaled.resize(shown.size, Image.Resampling.BICUBIC)).clip(0, 1)
    grey = np.asarray(shown.convert("L"), dtype=np.float32)[..., None]
    mixed = (1 - _SHARE) * grey + _SHARE * colours(smooth)
    return _with_legend(Image.fromarray(np.rint(mixed).astype(np.uint8)), low, high, title)


def colours(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Give each value from 0 to 1 its colour, ``(…, 3)`` from 0 to 255."""
    steps = np.linspace(0, 1, len(_STEPS))
    channels = [np.interp(values, steps, _STEPS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


def _with_legend(picture: Image.Image, low: float, high: float, title: str) -> Image.Image:
    font = ImageFont.load_default()
    left, right = f"{low:.2f}", " ".join(f"{high:.2f} {title}".split())  # a legend is one line
    canvas = Image.new("RGB", (picture.width, picture.height + _BAR + 2 * _MARGIN + 12), "white")
    canvas.paste(picture, (0, 0))
    ramp = colours(np.broadcast_to(np.linspace(0, 1, picture.width, dtype=np.float32), (_BAR, picture.width)))
    canvas.paste(Image.fromarray(np.rint(ramp).astype(np.uint8)), (0, picture.height))
    draw = ImageDraw.Draw(canvas)
    top = picture.height + _BAR + _MARGIN
    draw.text((_MARGIN, top), left, fill="black", font=font)
    width = draw.textlength(right, font=font)
    draw.text((max(_MARGIN, picture.width - _MARGIN - width), top), right, fill="black", font=font)
    return canvas


def write_overlays(folder: Path, explanations: Iterable[Explanation], query: str) -> dict[str, Path]:
    """Write the heat map of each hit as ``001-NAME.png``, and of each of its tokens as ``001-NAME.01-TOKEN.png``.

    Returns
    -------
    dict of str to path
        The file of each hit's whole query, by the id of its item.

    Raises
    ------
    InputError
        If a file cannot be written.
    """
    written: dict[str, Path] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for one in explanations:
            stem = f"{one.hit.rank:03}-{_cut(Path(one.hit.item.uri).stem)}"
            path = written[one.hit.item.id] = folder / f"{stem}.png"
            overlay(one.image, one.heat, title=query).save(path)
            for number, (token, heat) in enumerate(one.tokens, start=1):
                name = _cut(re.sub(r"[^\w#]", "_", token))
                overlay(one.image, heat, title=token).save(folder / f"{stem}.{number:02}-{name}.png")
    except OSError as error:
        raise InputError(f"cannot write heat maps to {str(folder)!r}: {error.strerror or error}") from error
    return written


def _cut(name: str) -> str:
    """Cut a name so that a file's name has room for it; one character may be four bytes."""
    return name.encode()[:_MOST_NAME_BYTES].decode(errors="ignore")
