"""A folder of bad and odd files: each ends as an item or as a failure with its reason."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import mmrag
from mmrag.errors import QueryError
from tests.sources.zoo import ITEM, NAME, make_zoo

# Outside of the tests they are silenced, as test_mutations.py shows.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


ROOT = Path(__file__).resolve().parents[2]
QUIET = """
import logging, sys
logging.basicConfig()
import mmrag
from mmrag.models import registry
from tests.toy import open_toy
registry.register("toy", open_toy)
changes = mmrag.create(sys.argv[2], model="toy:1").add(sys.argv[1])
print(changes.added + len(changes.failed))
"""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    home = tmp_path_factory.mktemp("zoo")
    (home / "images").mkdir()
    return home, make_zoo(home / "images")


@pytest.fixture(scope="module")
def indexed(zoo):
    home, _ = zoo
    index = mmrag.create(home, model="toy:1")
    return index, index.add(home / "images")


def test_every_specimen_ends_as_it_must(zoo, indexed):
    index, changes = indexed
    expected = {f"images/{name}": outcome for name, outcome in zoo[1].items()}
    items = {uri for _, uri, failure in index._view.scan(("uri", "failure")) if failure is None}
    reasons = {failure.uri: failure.reason for failure in index.failures()}
    assert items | set(reasons) == set(expected)
    ended = {uri: reasons.get(uri, ITEM) for uri in expected}
    assert {uri: ended[uri] for uri, outcome in expected.items() if not re.search(outcome, ended[uri])} == {}
    assert (changes.added, len(changes.failed)) == (len(items), len(reasons))
    assert len(index) == len(items)


def test_the_second_run_reads_only_what_may_have_become_readable(zoo, indexed):
    index, first = indexed
    embedded = index.encoder.embedded
    second = index.update()
    assert (second.added, second.updated, second.moved, second.removed) == (0, 0, 0, 0)
    assert second.unchanged == first.added
    assert len(second.failed) + second.still_failing == len(first.failed)
    again = re.compile("limit of|regular file|symbolic link|No such file|UTF-8|Permission")
    assert all(again.search(failure.reason) for failure in second.failed if not failure.uri.endswith("/proc.jpg"))
    assert index.encoder.embedded == embedded


def test_every_specimen_may_be_asked_for(zoo, indexed):
    home, outcomes = zoo
    index, _ = indexed
    for name, outcome in outcomes.items():
        path = home / "images" / name.encode().replace(b"\\udce9", b"\xe9").decode("utf-8", "surrogateescape")
        assert re.search(outcome.replace("^", "") if outcome != NAME else ITEM, asked(index, path)), name


def asked(index, path):
    """What becomes of a query: as of a file."""
    try:
        return ITEM if len(index.search(path, k=3)) == 3 else "too few hits"
    except QueryError as error:
        return str(error)


def test_nothing_but_the_failures_is_said(zoo, tmp_path):
    home, outcomes = zoo
    command = [sys.executable, "-c", QUIET, str(home / "images"), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert (done.stderr, done.stdout) == ("", f"{len(outcomes)}\n")


def test_two_names_for_one_file_are_one_hit(zoo, indexed):
    home, _ = zoo
    index, _ = indexed
    hit = index.search(home / "images" / "plain.jpg", k=1)[0]
    assert sorted((hit.item.uri, *hit.duplicates)) == [
        "images/hard link.jpg",
        "images/plain.jpg",
        "images/soft link.jpg",
    ]


def test_the_healthy_are_right(zoo):
    from mmrag.sources.image import read_image

    home, _ = zoo
    sizes = {
        name: read_image((home / "images" / name).read_bytes()).size
        for name in ("turned.jpg", "turned.heic", "turned.tif")
    }
    assert sizes == {"turned.jpg": (64, 96), "turned.heic": (64, 96), "turned.tif": (64, 96)}
    with Image.open(home / "images" / "plain.jpg") as plain:
        assert read_image((home / "images" / "plain.jpg").read_bytes()).tobytes() == plain.tobytes()
    rle = read_image((home / "images" / "rle.bmp").read_bytes())
    assert [rle.getpixel(at) for at in ((0, 1), (0, 0), (3, 0))] == [(255, 0, 0), (255, 0, 0), (0, 0, 255)]
