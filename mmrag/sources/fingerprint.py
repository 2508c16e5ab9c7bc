"""Fingerprints: 64 bits of a picture or a text, few of which differ between those that look or read nearly the same.

Two are compared by the number of bits in which they differ. 0 is the fingerprint of what is too plain to be compared,
such as a picture of one colour.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.Image import Image

PLAIN = 0
"""Of what is too plain to be compared."""

_CELLS = 9
_LEAST_VARIED = 6
_SHINGLE = 4
_LEAST_CHARACTERS = 64
_RISES_ACROSS = np.add.outer(np.arange(8), np.arange(8)) % 2 == 0


def fingerprint_picture(image: Image) -> int:
    """Fingerprint a picture: whether it gets brighter from cell to cell of a 9 × 9 grid.

    It is a difference hash whose bits look to the right and downwards in turn, like the fields of a chessboard. What is
    encoded again, scaled, made brighter, marked in a corner or cropped by a few percent keeps most of its bits; a
    mirrored picture does not.

    Parameters
    ----------
    image : PIL image
        Of any size and mode.

    Returns
    -------
    int
        Of 64 bits, signed; `PLAIN` if it gets brighter in one direction only, or nowhere.
    """
    from PIL.Image import Resampling

    cells = image.resize((_CELLS, _CELLS), Resampling.BOX).convert("L")
    grey = np.asarray(cells, dtype=np.int16)
    across, down = grey[:-1, 1:] > grey[:-1, :-1], grey[1:, :-1] > grey[:-1, :-1]
    bits = np.where(_RISES_ACROSS, across, down)
    halves = (bits[_RISES_ACROSS], bits[~_RISES_ACROSS])
    varied = sum(min(int(half.sum()), int((~half).sum())) for half in halves)
    return _as_int(bits.reshape(-1)) if varied >= _LEAST_VARIED else PLAIN


def fingerprint_text(text: str) -> int:
    """Fingerprint a text by its runs of four characters, whatever its case and white space.

    A simhash (Charikar 2002): each bit is what most of the hashes of the runs have there. Texts of less than 64
    characters are compared as a whole: theirs differ in half of the bits if they differ at all.

    Parameters
    ----------
    text : str
        Of any length.

    Returns
    -------
    int
        Of 64 bits, signed; `PLAIN` if there is nothing but white space.
    """
    said = " ".join(text.casefold().split())
    if not said:
        return PLAIN
    characters = np.frombuffer(said.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    width = _SHINGLE if len(said) >= _LEAST_CHARACTERS else len(said)
    hashes = np.zeros(len(said) + 1 - width, dtype=np.uint64)
    for start in range(width):
        hashes = _mixed(hashes + characters[start : start + len(hashes)])
    bits = np.unpackbits(np.unique(hashes).view(np.uint8).reshape(-1, 8), axis=1)
    return _as_int(2 * bits.sum(axis=0, dtype=np.int64) > len(bits))


def _mixed(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Let every bit of a number depend on all others: one step of SplitMix64 (Steele et al. 2014)."""
    mixed = hashes + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _as_int(bits: npt.NDArray[np.bool_]) -> int:
    return int.from_bytes(np.packbits(bits).tobytes(), "big", signed=True)
