from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mmrag.errors import InputError
from mmrag.report.heat import SIDE, colours, overlay, write_overlays
from mmrag.search.explain import Explanation
from mmrag.types import Hit, Item

GREY = Image.new("RGB", (120, 80), (128, 128, 128))


def lightness(rgb):
    """CIE L*, of sRGB from 0 to 255."""
    linear = np.where(rgb / 255 <= 0.04045, rgb / 255 / 12.92, ((rgb / 255 + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)


def test_the_colours_grow_lighter_in_even_steps():
    steps = np.diff(lightness(colours(np.linspace(0, 1, 17, dtype=np.float32))))
    assert (steps > 0).all()
    assert steps.max() < 1.6 * steps.mean()


def test_what_is_hot_is_light_and_in_its_place():
    heat = np.zeros((4, 6), np.float32)
    heat[0, 5] = 1  # above on the right
    drawn = np.asarray(overlay(GREY, heat), dtype=np.float64)[:80]
    shown = lightness(drawn)
    assert np.unravel_index(shown.argmax(), shown.shape)[0] < 20
    assert np.unravel_index(shown.argmax(), shown.shape)[1] >= 100
    assert shown[:20, 100:].mean() > shown[40:, :60].mean() + 20


def test_a_level_map_and_a_large_picture():
    drawn = overlay(Image.new("RGB", (2000, 1000), "white"), np.full((3, 3), 0.25, np.float32))
    assert drawn.width == SIDE
    picture = np.asarray(drawn)[: SIDE // 2]
    assert (picture == picture[0, 0]).all()


def test_the_legend_tells_the_range():
    heat = np.array([[-0.1, 0.3]], np.float32)
    other = np.array([[-0.1, 0.7]], np.float32)
    first, again, second = (np.asarray(overlay(GREY, one, title="a dog")) for one in (heat, heat, other))
    assert np.array_equal(first, again)
    assert np.array_equal(first[:80], second[:80])  # the same map, scaled
    assert not np.array_equal(first[80:], second[80:])


def test_files_by_rank_and_token(tmp_path):
    hit = Hit(3, 0.5, "cosine", Item(uri="a/b c.jpg", id="x"))
    heat = np.eye(3, dtype=np.float32)
    drawn = write_overlays(tmp_path / "why", [Explanation(hit, GREY, heat, (("dog", heat), ("/s", heat)))], "a dog")
    assert drawn == {"x": tmp_path / "why" / "003-b c.png"}
    names = sorted(path.name for path in (tmp_path / "why").iterdir())
    assert names == ["003-b c.01-dog.png", "003-b c.02-_s.png", "003-b c.png"]
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write heat maps to"):
        write_overlays(tmp_path / "file", [], "")


def test_a_name_of_the_greatest_length_and_words_on_several_lines(tmp_path):
    name, heat = "海" * 83, np.eye(3, dtype=np.float32)  # 249 bytes, 253 with its suffix
    hit = Hit(1, 0.5, "cosine", Item(uri=f"{name}.jpg", id="x"))
    drawn = write_overlays(tmp_path, [Explanation(hit, GREY, heat, (("w" * 200, heat),))], "a dog\non a\tbeach")
    assert drawn["x"].name == f"001-{'海' * 40}.png"
    assert np.array_equal(np.asarray(Image.open(drawn["x"])), np.asarray(overlay(GREY, heat, title="a dog on a beach")))
