from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from mmrag.search.near import MOST_BITS, SURE_BITS
from mmrag.sources.fingerprint import PLAIN, fingerprint_picture, fingerprint_text

PROSE = (
    "The lighthouse stands at the end of the pier, and every evening its keeper climbs one hundred and twelve steps to "
    "light the lamp. In winter the waves reach the gallery, and the door has to be tied with a rope from inside."
)


def differing(one, other):
    return bin((one ^ other) & (2**64 - 1)).count("1")


def encoded_again(image):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=50)
    return Image.open(file)


def marked(image):
    image = image.copy()
    width, height = image.size
    ImageDraw.Draw(image).rectangle((0.8 * width, 0.92 * height, 0.97 * width, 0.97 * height), fill="white")
    return image


CHANGES = {
    "encoded again": encoded_again,
    "half": lambda image: image.resize((image.width // 2, image.height // 2)),
    "twice": lambda image: image.resize((2 * image.width, 2 * image.height)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.9),
    "marked": marked,
}


@pytest.fixture(scope="module")
def pictures(photographs):
    names = ("chelsea.png", "coffee.png", "astronaut.png", "rocket.jpg", "motorcycle_left.png")
    return [Image.open(photographs / name).convert("RGB") for name in names]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_small_changes_of_a_picture_keep_its_bits(pictures, change):
    assert max(differing(fingerprint_picture(one), fingerprint_picture(change(one))) for one in pictures) <= SURE_BITS


def test_other_pictures_and_mirrored_ones_differ(pictures):
    found = [fingerprint_picture(one) for one in pictures]
    found += [fingerprint_picture(ImageOps.mirror(one)) for one in pictures]
    pairs = [differing(one, other) for n, one in enumerate(found) for other in found[:n]]
    assert min(pairs) > MOST_BITS


def test_the_bits_are_those_of_a_grid_looked_at_cell_by_cell():
    grey = np.random.default_rng(0).integers(0, 256, (9, 9), dtype=np.uint8)
    bits = [
        grey[y, x + 1] > grey[y, x] if (x + y) % 2 == 0 else grey[y + 1, x] > grey[y, x]
        for y in range(8)
        for x in range(8)
    ]
    expected = int("".join(str(int(bit)) for bit in bits), 2)
    assert fingerprint_picture(Image.fromarray(grey).convert("RGB")) % 2**64 == expected


def test_plain_pictures_are_not_compared():
    across = np.tile(np.arange(0, 252, 4, dtype=np.uint8), (63, 1))
    for grey in (np.full((40, 40), 200, np.uint8), across, across.T, across[:, ::-1]):
        assert fingerprint_picture(Image.fromarray(np.ascontiguousarray(grey))) == PLAIN


def test_case_and_white_space_do_not_count():
    assert fingerprint_text(f"  {PROSE.upper()}\n".replace(", ", ",\n\t")) == fingerprint_text(PROSE)
    assert fingerprint_text("A red\n one") == fingerprint_text("a RED one")
    assert fingerprint_text(" \n") == PLAIN


def test_small_edits_of_a_text_keep_most_bits():
    words = PROSE.split()
    edited = [" ".join([*words[:n], *words[n + 1 :]]) for n in range(len(words))]
    edited += [PROSE[:n] + "x" + PROSE[n + 1 :] for n in range(len(PROSE))]
    bits = [differing(fingerprint_text(PROSE), fingerprint_text(one)) for one in edited]
    assert np.mean(np.array(bits) <= MOST_BITS) >= 0.9
    assert max(bits) <= 2 * MOST_BITS


def test_other_texts_differ_and_short_ones_as_a_whole():
    other = (
        "A cook needs three things before the guests arrive: a sharp knife, a hot pan, and an hour without telephone."
    )
    assert differing(fingerprint_text(PROSE), fingerprint_text(other)) > 2 * MOST_BITS
    assert differing(fingerprint_text("invoice 2023-01"), fingerprint_text("invoice 2023-02")) > MOST_BITS
    assert fingerprint_text("\ud800 is half a character") != PLAIN
