from __future__ import annotations

import dataclasses
import json

import pytest

import mmrag
from mmrag.errors import IndexFormatError
from mmrag.stores.manifest import Manifest, Writer
from mmrag.stores.view_settings import ViewSettings

FORMAT_1 = """{
 "format": 1,
 "created": "2026-11-01T10:00:00+00:00",
 "version": "0.1.0",
 "model": "toy:1",
 "identity": {"name": "toy", "revision": "1", "weights": "none", "preprocessing": "mean colour", "dimension": 4},
 "view": "exact",
 "folders": [{"uri": "images", "exclude": ["*.gif"]}]
}
"""


def stored(index):
    return json.loads((index.folder / "manifest.json").read_text())


def test_an_index_of_format_1_is_read_and_written_as_format_5(colours):
    index = mmrag.create(".", model="toy:1")
    index.add("images", exclude=["*.gif"])
    (index.folder / "manifest.json").write_text(FORMAT_1)
    old = mmrag.open(".")
    assert old.search("red", k=1)[0].item.uri == "images/red.png"
    assert (old.manifest.writer, old.manifest.keep_versions) == (Writer("onnxruntime", "fp32"), 10)
    assert stored(old)["format"] == 1
    assert old.update().unchanged == 6
    assert stored(old) == {
        **json.loads(FORMAT_1),
        "identity": {**json.loads(FORMAT_1)["identity"], "vectors": 1},
        "format": 5,
        "writer": {"engine": "onnxruntime", "precision": "fp32"},
        "modalities": [],
        "keep_versions": 10,
        "store": "",
        "view": dataclasses.asdict(ViewSettings()),
        "choice": {"auto": False, "why": ""},
        "tuning": None,
        "captions": [],
    }
    assert Manifest.read(old.folder) == old.manifest


@pytest.mark.parametrize("number", [0, 6, 99])
def test_formats_that_nobody_knows_are_refused(tmp_path, number):
    (tmp_path / "manifest.json").write_text(FORMAT_1.replace('"format": 1', f'"format": {number}'))
    with pytest.raises(IndexFormatError, match=f"has format {number}, this mmrag reads formats 1 to 5; install"):
        Manifest.read(tmp_path)


def test_a_damaged_manifest_of_format_1_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text(FORMAT_1.replace('"view"', '"veiw"'))
    with pytest.raises(IndexFormatError, match="did you mean 'view'"):
        Manifest.read(tmp_path)
