from __future__ import annotations

import os
import sys

import pytest

from mmrag.errors import InputError
from mmrag.sources.uri import absolute, is_below, item_id, to_uri
from mmrag.sources.walk import walk


@pytest.fixture
def tree(tmp_path):
    home = tmp_path / "home"
    for name in (
        "a/1.jpg", "a/2.PNG", "a/notes.txt", "a/b/3.webp", ".hidden/4.jpg", "a/.5.jpg", "a/._6.jpg",
        "node_modules/7.jpg", "a/@eaDir/8.jpg", ".git/9.jpg", "2019/10.jpg", "2019/raw/11.tif",
    ):  # fmt: skip
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return home


def uris(found):
    return [file.uri for file in found.files]


def test_finds_pictures_and_skips_hidden_and_housekeeping_folders(tree):
    assert uris(walk(tree, home=tree)) == ["2019/10.jpg", "2019/raw/11.tif", "a/1.jpg", "a/2.PNG", "a/b/3.webp"]


@pytest.mark.parametrize(
    ("globs", "left_out"),
    [
        (["*.jpg"], {"2019/10.jpg", "a/1.jpg"}),
        (["2019"], {"2019/10.jpg", "2019/raw/11.tif"}),
        (["./2019/"], {"2019/10.jpg", "2019/raw/11.tif"}),
        (["2019/raw/*"], {"2019/raw/11.tif"}),
        (["raw", "b"], {"2019/raw/11.tif", "a/b/3.webp"}),
    ],
)
def test_exclude_globs(tree, globs, left_out):
    everything = set(uris(walk(tree, home=tree)))
    assert set(uris(walk(tree, home=tree, exclude=globs))) == everything - left_out


def test_one_file_is_taken_whatever_its_suffix(tree):
    assert uris(walk(tree / "a" / "notes.txt", home=tree)) == ["a/notes.txt"]


def test_outside_home_uris_are_absolute(tree, tmp_path):
    assert uris(walk(tree / "2019" / "raw", home=tmp_path / "elsewhere")) == [f"{tree}/2019/raw/11.tif"]


def test_loops_of_links_end(tree):
    (tree / "a" / "loop").symlink_to(tree, target_is_directory=True)
    found = uris(walk(tree / "a", home=tree))
    assert len(found) == len({os.path.realpath(tree / uri) for uri in found})
    assert "a/1.jpg" in found


def test_what_is_no_file_has_a_problem(tree):
    os.mkfifo(tree / "a" / "pipe.jpg")
    (tree / "a" / "gone.jpg").symlink_to(tree / "nowhere.jpg")
    problems = {file.uri: file.problem for file in walk(tree / "a", home=tree).files if file.problem}
    assert problems == {"a/pipe.jpg": "not a regular file", "a/gone.jpg": "cannot be read: No such file or directory"}


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS refuses names that are not UTF-8")
def test_names_that_are_not_utf8_are_named_failures(tree):
    with open(os.fsencode(tree / "a") + b"/\xff.jpg", "wb"):
        pass
    (bad,) = [file for file in walk(tree / "a", home=tree).files if file.problem]
    assert bad.uri == "a/\\udcff.jpg"
    assert "UTF-8" in bad.problem


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_cannot_be_listed_is_reported(tree):
    (tree / "2019").chmod(0)
    found = walk(tree, home=tree)
    (tree / "2019").chmod(0o755)
    assert [folder.uri for folder in found.unlisted] == ["2019"]


def test_links_never_take_the_place_of_folders(tree):
    (tree / "0").symlink_to(tree / "a", target_is_directory=True)
    (tree / "zero").symlink_to(tree / "2019", target_is_directory=True)
    assert uris(walk(tree, home=tree)) == ["2019/10.jpg", "2019/raw/11.tif", "a/1.jpg", "a/2.PNG", "a/b/3.webp"]


def test_links_that_lead_in_circles_are_named(tree):
    (tree / "a" / "self.jpg").symlink_to(tree / "a" / "self.jpg")
    (bad,) = [file for file in walk(tree / "a", home=tree).files if file.problem]
    assert (bad.uri, bad.problem) == ("a/self.jpg", "cannot be read: Too many levels of symbolic links")


def test_uris(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    home = tmp_path.resolve()
    assert to_uri(absolute("x/../y.jpg", home), home) == "y.jpg"
    assert to_uri(home, home) == "."
    assert is_below("/a/b/c.jpg", "/a/b")
    assert is_below("/a", "/")
    assert not is_below("/a/bc.jpg", "/a/b")
    assert item_id("a/1.jpg") == item_id("a/1.jpg") != item_id("a/2.jpg")
    assert len(item_id("ü\n'")) == 24
    with pytest.raises(InputError, match="empty"):
        absolute("", home)


def test_one_file_has_one_name(tmp_path):
    home = tmp_path.resolve() / "home"
    (home / "real").mkdir(parents=True)
    (home / "link").symlink_to(home / "real")
    (tmp_path / "door").symlink_to(home)
    assert to_uri(absolute(home / "link" / "x.jpg", home), home) == "link/x.jpg"  # as a walk of home names it
    assert to_uri(absolute(tmp_path / "door" / "real" / "x.jpg", home), home) == "real/x.jpg"
