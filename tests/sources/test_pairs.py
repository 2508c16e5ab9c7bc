from __future__ import annotations

import io
import json
import tarfile

import pytest

from mmrag.errors import InputError
from mmrag.sources.pairs import read_pairs


def make_tar(path, members):
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_webdataset_tars(tmp_path):
    members = [
        ("x/1.jpg", b"J1"),
        ("x/1.json", json.dumps({"en": ["a dog", " a cat "], "zh": ["狗"]}).encode()),
        ("x/2.txt", b"one\n\ntwo\n"),
        ("x/2.png", b"P2"),
        ("x/3.jpg", b"no words"),
        ("4.json", b'{"text": "no picture"}'),
    ]
    path = make_tar(tmp_path / "p.tar.gz", members)
    pairs = [(pair.id, pair.image, pair.texts) for pair in read_pairs([path])]
    assert pairs == [("x/1", b"J1", ("a dog", "a cat")), ("x/2", b"P2", ("one", "two"))]
    assert [pair.texts for pair in read_pairs([path], text_key="zh")] == [("狗",)]
    assert [pair.texts for pair in read_pairs([path], text_key="en,zh")] == [("a dog", "a cat", "狗")]


def test_samples_without_a_picture_or_words_are_warned_of(tmp_path, caplog):
    path = make_tar(tmp_path / "p.tar", [("1.jpg", b"J"), ("2.jpg", b"J"), ("2.txt", b"words")])
    assert [pair.id for pair in read_pairs([path])] == ["2"]
    assert "1 has no text" in caplog.text


def test_the_first_present_key_wins(tmp_path):
    words = {"caption": "c", "captions": ["b"], "en": "e"}
    path = make_tar(tmp_path / "p.tar", [("1.jpg", b"J"), ("1.json", json.dumps(words).encode())])
    assert [pair.texts for pair in read_pairs([path])] == [("b",)]


def test_jsonl_with_paths_beside_it(tmp_path):
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics" / "1.jpg").write_bytes(b"J1")
    path = tmp_path / "p.jsonl"
    path.write_text('{"image": "pics/1.jpg", "caption": "a dog"}\n\n{"image": "pics/none.jpg", "caption": "b"}\n')
    assert [(p.id, p.image, p.texts) for p in read_pairs([path])] == [("pics/1.jpg", b"J1", ("a dog",))]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", b"{oops\n", "line 1 is not valid JSON"),
        ("p.jsonl", b'{"picture": 1}\n', "line 1: needs an object with the key 'image'"),
        ("p.jsonl", b"", "holds no pair"),
        ("p.tar", b"not a tar at all", "not a readable tar"),
        ("p.csv", b"", "has no column of pictures"),
        ("p.csv", b"image,words\na.jpg,b\n", "has no column of texts .*; it has: image, words"),
        ("p.json", b"{}", "in a layout that is known: COCO's"),
        ("p.json", b"[1]", "in a layout that is known: COCO's"),
        ("p.parquet", b"no columns", "not a readable Parquet file"),
        ("p.zip", b"", r"of no kind that holds pairs; these do: a \.tar in webdataset layout, \.jsonl"),
    ],
)
def test_bad_files_are_clear_errors(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(read_pairs([tmp_path / name]))


def test_a_missing_file_or_key_is_named(tmp_path):
    with pytest.raises(InputError, match="no file"):
        list(read_pairs([tmp_path / "none.tar"]))
    path = make_tar(tmp_path / "p.tar", [("1.jpg", b"J"), ("1.txt", b"words")])
    with pytest.raises(InputError, match="looked for the keys de"):
        list(read_pairs([path], text_key="de"))
