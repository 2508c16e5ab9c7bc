from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="needs the train extra")

from mmrag.errors import InputError
from mmrag.models.preprocess import Preprocessing
from mmrag.sources.pairs import Pair
from mmrag.train.data import Augmentation, Dataset, Pictures

PREPROCESSING = Preprocessing(16, 16, 3, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def png(seed, size=(20, 24)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


PAIRS = [Pair("a", png(0), ("one", "two")), Pair("b", png(1), ("three",)), Pair("c", png(2), ("4", "5", "6"))]


def test_texts_are_chosen_among_the_pictures_own():
    data = Dataset.read(PAIRS)
    rng = np.random.default_rng(0)
    seen = {row: {data.texts[data.choose_texts(np.array([row]), rng)[0]] for _ in range(60)} for row in range(3)}
    assert seen == {0: {"one", "two"}, 1: {"three"}, 2: {"4", "5", "6"}}
    assert data.image_of_text.tolist() == [0, 0, 1, 2, 2, 2]


def test_a_picture_that_cannot_be_read_is_named_and_left_out(caplog):
    data = Dataset.read([*PAIRS, Pair("broken", b"no picture", ("x",))])
    assert len(data) == 3
    assert "broken" in caplog.text


def test_one_pair_cannot_be_told_apart():
    with pytest.raises(InputError, match="at least two"):
        Dataset.read(PAIRS[:1])


def test_what_a_picture_looks_like_depends_on_seed_epoch_and_row_only():
    pictures = Pictures([png(i) for i in range(4)], PREPROCESSING, threads=3)
    look = lambda batches, seed: np.concatenate(  # noqa: E731
        list(pictures.batches(batches, augmentation=Augmentation(), seed=seed))
    )
    together = look([[0, 1, 2, 3]], (0, 1))
    np.testing.assert_array_equal(together, look([[0], [1, 2], [3]], (0, 1)))
    assert np.abs(together - look([[0, 1, 2, 3]], (0, 2))).mean() > 0.05


def test_without_augmentation_pictures_are_only_preprocessed():
    data = png(3)
    (batch,) = Pictures([data], PREPROCESSING, threads=1).batches([[0]])
    expected = PREPROCESSING(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(batch[0], expected)


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
