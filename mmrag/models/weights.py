"""Weights on disk: half precision or 8-bit blocks in safetensors, read by ONNX Runtime and torch alike.

A matrix ``NAME`` is stored either as ``NAME`` (float16 or float32, transposed if the name ends in
``.T``) or as ``NAME.q8`` and ``NAME.scale``: 8-bit blocks along its rows, each with its own scale.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmrag.errors import ModelError

Floats = npt.NDArray[np.float32]

BLOCK = 32
ZERO = 128


def quantize(matrix: Floats, block: int = BLOCK) -> tuple[npt.NDArray[np.uint8], Floats]:
    """Quantise a matrix symmetrically to 8 bits, a scale for every `block` values of a row.

    Parameters
    ----------
    matrix : float32 ``(rows, columns)``
        With columns a multiple of `block`.

    Returns
    -------
    uint8 ``(rows, columns / block, block)``
        ``round(value / scale) + 128``.
    float32 ``(rows, columns / block)``
        Scales.
    """
    blocks = matrix.reshape(len(matrix), -1, block)
    scales = np.maximum(np.abs(blocks).max(axis=2), 1e-12) / 127
    values = np.round(blocks / scales[:, :, None]) + ZERO
    return values.astype(np.uint8), scales.astype(np.float32)


def dequantize(values: npt.NDArray[np.uint8], scales: Floats) -> Floats:
    """Undo `quantize`: ``(rows, blocks, block)`` and ``(rows, blocks)`` → ``(rows, columns)``."""
    matrix = (values.astype(np.float32) - ZERO) * scales.reshape(*values.shape[:2], 1)
    return matrix.reshape(len(values), -1).astype(np.float32)


def read_weights(folder: Path) -> dict[str, Floats]:
    """Read the weights of a model folder under the names of the networks in `mmrag.models.towers`.

    Raises
    ------
    ModelError
        If a file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    stored: dict[str, npt.NDArray[np.generic]] = {}
    for tower in ("vision_model", "text_model"):
        path = folder / "onnx" / f"{tower}.safetensors"
        try:
            stored |= load_file(path)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"cannot read the weights {path}: {error}") from error
    weights: dict[str, Floats] = {}
    for name, array in stored.items():
        if name.endswith(".q8"):
            name = name.removesuffix(".q8")
            weights[name] = dequantize(array, stored[f"{name}.scale"])  # type: ignore[arg-type]
        elif name.endswith(".T"):
            weights[name.removesuffix(".T")] = np.ascontiguousarray(array.T, dtype=np.float32)
        elif not name.endswith(".scale"):
            weights[name] = array.astype(np.float32)
    return weights
