"""Which file belongs to which picture."""

import pytest

from mmrag.sources.sidecar import Sidecars, pictures_beside


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "a.txt", "b.PNG", "b.JSON", "b.txt", "c.jpg", "c.d.jpg", "c.d.txt", "notes.txt", "d.txt.jpg"):
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.mark.parametrize(
    ("picture", "sidecar"),
    [("a.jpg", "a.txt"), ("b.PNG", "b.JSON"), ("c.jpg", None), ("c.d.jpg", "c.d.txt"), ("d.txt.jpg", None)],
)
def test_a_picture_has_the_sidecar_of_its_name(folder, picture, sidecar):
    found = Sidecars().of(str(folder / picture))
    assert (found and found.name) == sidecar


@pytest.mark.parametrize(
    ("sidecar", "pictures"),
    [("a.txt", ["a.jpg"]), ("b.JSON", ["b.PNG"]), ("notes.txt", []), ("c.d.txt", ["c.d.jpg"]), ("a.jpg", [])],
)
def test_a_sidecar_knows_its_pictures_even_when_it_is_gone(folder, sidecar, pictures):
    (folder / sidecar).unlink()
    expected = [str(folder / name) for name in pictures]
    assert pictures_beside(str(folder / sidecar)) == expected


def test_a_folder_that_is_gone_has_neither(tmp_path):
    assert Sidecars().of(str(tmp_path / "no" / "a.jpg")) is None
    assert pictures_beside(str(tmp_path / "no" / "a.txt")) == []


def test_a_text_is_read_line_by_line_and_a_folder_is_none(folder):
    (folder / "a.txt").write_bytes("\ufeffeins\r\n\r\n zwei \xff".encode())
    assert Sidecars().of(str(folder / "a.jpg")).read().texts == ("eins", "zwei ÿ")
    (folder / "a.txt").unlink()
    (folder / "a.txt").mkdir()
    assert Sidecars().of(str(folder / "a.jpg")) is None
