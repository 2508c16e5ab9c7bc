from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="needs the train extra")

from mmrag.errors import InputError
from mmrag.train.augmentation import Augmentation


def png(seed, size=(20, 24)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_an_augmentation_that_may_change_nothing_only_resizes():
    image = Image.open(io.BytesIO(png(4))).convert("RGB")
    still = Augmentation(crop=1, ratio=1, jitter=0, flip=False)
    found = still(image, (16, 16), np.random.default_rng(0))
    np.testing.assert_array_equal(found, image.resize((16, 16), Image.Resampling.BICUBIC))


def test_crops_keep_their_share_of_the_picture():
    image = Image.new("RGB", (400, 300))
    rng = np.random.default_rng(0)
    for _ in range(200):
        left, top, right, bottom = Augmentation(crop=0.5)._box(image, rng)
        assert 0 <= left < right <= 400 + 1e-9
        assert 0 <= top < bottom <= 300 + 1e-9
        assert (right - left) * (bottom - top) >= 0.43 * 400 * 300  # a stretched crop may be cut at the edge


@pytest.mark.parametrize("wrong", [{"crop": 0}, {"ratio": 0.5}, {"jitter": 1}])
def test_augmentations_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError, match="crop"):
        Augmentation(**wrong)
