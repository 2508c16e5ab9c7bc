from __future__ import annotations

import numpy as np
import pytest

from mmrag.errors import ModelError
from mmrag.models.weights import dequantize, quantize, read_weights


def test_quantised_blocks_by_hand():
    matrix = np.array([[0.0, 1.27, -1.27, 0.01] * 8, [2.54, 0, 0, 0] * 8], np.float32)
    values, scales = quantize(matrix)
    assert scales == pytest.approx(np.array([[0.01], [0.02]]))
    assert values[0, 0, :4].tolist() == [128, 255, 1, 129]
    assert values[1, 0, :4].tolist() == [255, 128, 128, 128]
    assert np.allclose(dequantize(values, scales), matrix, atol=1e-6)


def test_the_error_is_at_most_half_a_step_of_the_block():
    random = np.random.default_rng(0)
    matrix = random.normal(size=(64, 384)).astype(np.float32) * np.logspace(-3, 3, 64, dtype=np.float32)[:, None]
    values, scales = quantize(matrix)
    error = np.abs(dequantize(values, scales) - matrix).reshape(64, 12, 32)
    assert (error <= scales[:, :, None] * 0.5001).all()
    assert np.all(np.isfinite(dequantize(*quantize(np.zeros((2, 32), np.float32)))))


def test_missing_weights_are_a_clear_error(tmp_path):
    with pytest.raises(ModelError, match="cannot read the weights"):
        read_weights(tmp_path)
