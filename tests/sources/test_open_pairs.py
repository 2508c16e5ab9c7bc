"""Every format that pairs are kept in, read as its own tools write it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmrag.errors import InputError, ItemError
from mmrag.sources.pairs import open as module
from mmrag.sources.pairs import open_pairs, read_pairs
from tests.sources.test_pairs import make_tar

WORDS = {"a.jpg": ["a dog", "a brown dog"], "b.jpg": ["a cat"], "c.jpg": ["the sea"]}


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A folder `pictures` with a.jpg, b.jpg and c.jpg, which hold their own names."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in WORDS:
        (folder / name).write_bytes(name.encode())
    return folder


def found(pairs) -> dict[str, tuple[bytes, tuple[str, ...]]]:
    """What is read in order; random access from the end must give the same."""
    both = {pairs[n].id: (pairs[n].image, pairs[n].texts) for n in reversed(range(len(pairs)))}
    assert len(both) == len(pairs)
    return dict(reversed(both.items()))


def expected(ids=None):
    return {ids[name] if ids else name: (name.encode(), tuple(texts)) for name, texts in WORDS.items()}


def write_table(path, *, delimiter=","):
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, delimiter=delimiter)
        rows.writerow(["image", "caption"])
        rows.writerows((name, text) for name, texts in WORDS.items() for text in texts)
    return path


def coco():
    names = dict(enumerate(WORDS, 10))
    notes = [{"image_id": number, "caption": text} for number, name in names.items() for text in WORDS[name]]
    return {
        "images": [{"id": number, "file_name": name} for number, name in names.items()],
        "annotations": notes[::-1],
    }


def karpathy(splits):
    return {
        "images": [
            {"filename": name, "split": split, "sentences": [{"raw": text} for text in WORDS[name]]}
            for name, split in zip(WORDS, splits, strict=True)
        ]
    }


def same_but_for_order(pairs):
    return {key: (image, tuple(sorted(texts))) for key, (image, texts) in found(pairs).items()}


@pytest.mark.parametrize("compression", [".tar", ".tar.gz"])
def test_a_tar_in_any_order(tmp_path, compression):
    members = []
    for name, texts in WORDS.items():
        members += [(name, name.encode()), (name.replace("jpg", "json"), json.dumps({"captions": texts}).encode())]
    path = make_tar(tmp_path / f"p{compression}", [*members, ("d.jpg", b"no words"), ("e.txt", b"no picture")])
    pairs = open_pairs([path])
    assert found(pairs) == expected({name: name[0] for name in WORDS})
    assert pairs.skipped == {"no text": 1, "no picture": 1}
    assert [pair.id for pair in pairs] == [pair.id for pair in read_pairs([path])]


def test_pictures_of_a_plain_tar_are_not_held_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_IN_MEMORY", 10_000)
    members = [("1.jpg", bytes(9_000)), ("1.txt", b"one"), ("2.jpg", bytes(9_000)), ("2.txt", b"two")]
    assert len(open_pairs([make_tar(tmp_path / "p.tar", members)])) == 2
    with pytest.raises(InputError, match=r"p\.tar\.gz is compressed and larger than 10,000 bytes; unpack it"):
        open_pairs([make_tar(tmp_path / "p.tar.gz", members)])


def test_a_picture_that_has_gone_is_an_error_of_its_own(tmp_path):
    members = [("1.jpg", b"J1"), ("1.txt", b"one"), ("2.txt", b"two"), ("2.jpg", b"J2" * 1000)]
    path = make_tar(tmp_path / "p.tar", members)
    pairs = open_pairs([path])
    path.write_bytes(path.read_bytes()[:3_000])
    assert pairs[0].image == b"J1"
    with pytest.raises(ItemError, match="has become shorter"):
        pairs[1]
    path.unlink()
    with pytest.raises(ItemError, match="cannot be read: No such file"):
        pairs[0]


def test_rows_of_the_same_picture_are_one(pictures):
    for path in (write_table(pictures / "p.csv"), write_table(pictures / "p.tsv", delimiter="\t")):
        assert found(open_pairs([path])) == expected()
        assert [pair.texts for pair in read_pairs([path])] == [tuple(texts) for texts in WORDS.values()]


def test_a_folder_with_a_table_in_it_or_above_its_pictures(pictures, tmp_path):
    write_table(pictures / "captions.txt")
    assert found(open_pairs([pictures])) == expected()
    (pictures / "captions.txt").rename(tmp_path / "captions.txt")  # Flickr8k as it is handed out
    assert found(open_pairs([tmp_path])) == expected()


def test_a_folder_with_captions_beside_the_pictures(pictures):
    (pictures / "a.txt").write_text("a dog\n\na brown dog\n")
    (pictures / "b.json").write_text('{"text": "a cat", "zh": "猫"}')
    pairs = open_pairs([pictures])
    assert found(pairs) == {name: both for name, both in expected().items() if name != "c.jpg"}
    assert pairs.skipped == {"no text": 1}
    assert [pair.texts for pair in open_pairs([pictures], text_key="zh")] == [("猫",)]


def test_coco_finds_its_pictures_beside_it(pictures, tmp_path):
    for folder in (pictures, tmp_path, tmp_path / "annotations"):
        folder.mkdir(exist_ok=True)
        path = folder / "captions.json"
        path.write_text(json.dumps(coco()))
        assert same_but_for_order(open_pairs([path])) == {
            name: (image, tuple(sorted(texts))) for name, (image, texts) in expected().items()
        }
    far = tmp_path / "far" / "away" / "captions.json"
    far.parent.mkdir(parents=True)
    far.write_text(json.dumps(coco()))
    with pytest.raises(
        InputError, match=r"names pictures such as 'a\.jpg', and none of the first 3 is in .*\(images\)"
    ):
        open_pairs([far])
    assert len(open_pairs([far], images=pictures)) == 3


def test_karpathy_splits_are_chosen(pictures):
    path = pictures / "dataset.json"
    path.write_text(json.dumps(karpathy(["train", "restval", "test"])))
    for split, names in (("train", "a"), ("train+restval", "ab"), ("test", "c")):
        assert [pair.id[0] for pair in open_pairs([f"{path}#{split}"])] == list(names)
    there = r"choose of restval, test, train: .*dataset\.json#"
    for asked, message in ((str(path), "several splits; "), (f"{path}#val", "no split 'val'; ")):
        with pytest.raises(InputError, match=message + there):
            open_pairs([asked])
    path.write_text(json.dumps(karpathy(["train"] * 3)))
    assert found(open_pairs([path])) == expected()


def test_parquet_with_paths_or_with_pictures(pictures, monkeypatch):
    names = [name for name, texts in WORDS.items() for _ in texts]
    texts = [text for texts in WORDS.values() for text in texts]
    pq.write_table(pa.table({"image_path": names, "caption": texts}), pictures / "paths.parquet")
    assert found(open_pairs([pictures / "paths.parquet"])) == expected()
    inside = {"image": [{"bytes": name.encode(), "path": None} for name in WORDS], "captions": list(WORDS.values())}
    pq.write_table(pa.table(inside), pictures / "inside.parquet", row_group_size=2)
    monkeypatch.setattr("mmrag.sources.pairs.columns.MOST_KEPT_BYTES", 1)
    assert list(found(open_pairs([pictures / "inside.parquet"])).values()) == list(expected().values())


def test_a_row_of_parquet_without_a_picture(tmp_path):
    pq.write_table(pa.table({"image": [b"A", None], "text": ["a", "b"]}), tmp_path / "p.parquet")
    pairs = open_pairs([tmp_path / "p.parquet"])
    assert pairs[0].image == b"A"
    with pytest.raises(ItemError, match="no picture"):
        pairs[1]


def test_what_the_datasets_package_saves(tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs the package datasets")
    datasets.disable_progress_bars()
    for number, colour in enumerate(("red", "blue", "green")):
        Image.new("RGB", (4, 4), colour).save(tmp_path / f"{number}.png")
    files = [str(tmp_path / f"{number}.png") for number in range(3)]
    columns = {"image": files, "caption": [["a", "b"], ["c"], ["d"]]}
    whole = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    whole.save_to_disk(tmp_path / "whole", num_shards=2)
    parts = datasets.DatasetDict(train=whole.shuffle(seed=1), test=whole.select([2]))
    parts.save_to_disk(tmp_path / "parts")
    for name, part in (("whole", whole), ("parts#train", parts["train"]), ("parts#test", parts["test"])):
        pairs = open_pairs([tmp_path / name])
        assert [pair.texts for pair in pairs] == [tuple(row["caption"]) for row in part]
        undecoded = part.cast_column("image", datasets.Image(decode=False))
        assert [pair.image for pair in pairs] == [Path(row["image"]["path"]).read_bytes() for row in undecoded]
    with pytest.raises(InputError, match="several splits; choose of test, train"):
        open_pairs([tmp_path / "parts"])
    datasets.Dataset.from_dict({"image": files, "text": ["a", "b", "c"]}).save_to_disk(tmp_path / "paths")
    assert [(pair.id, pair.texts) for pair in open_pairs([tmp_path / "paths"])] == [
        (name, (text,)) for name, text in zip(files, "abc", strict=True)
    ]


def test_addresses_are_not_fetched(pictures):
    path = pictures / "p.csv"
    path.write_text("url,text\nhttps://example.org/x.jpg,a dog\na.jpg,a cat\n")
    pairs = open_pairs([path])
    assert [pair.id for pair in pairs] == ["a.jpg"]
    assert pairs.skipped == {"the picture is an address; download it first, and give its path": 1}


def test_several_sources_and_parts_of_them(pictures, tmp_path):
    first = write_table(pictures / "p.csv")
    second = make_tar(tmp_path / "p.tar", [("1.jpg", b"J"), ("1.txt", b"words")])
    pairs = open_pairs([first, second])
    assert [pair.id for pair in pairs] == ["a.jpg", "b.jpg", "c.jpg", "1"]
    assert [pair.id for pair in pairs[1:3]] == ["b.jpg", "c.jpg"]
    assert pairs[-1].image == b"J"
    with pytest.raises(InputError, match=r"there is no file 'none\.csv'"):
        open_pairs([first, "none.csv"])
    with pytest.raises(InputError, match="has no splits, and 'train' was asked for"):
        open_pairs([f"{first}#train"])


def test_a_missing_picture_is_an_error_when_it_is_asked_for(pictures, caplog):
    path = write_table(pictures / "p.csv")
    (pictures / "b.jpg").unlink()
    pairs = open_pairs([path])
    assert len(pairs) == 3
    with pytest.raises(ItemError, match="cannot be read: No such file"):
        pairs[1]
    assert [pair.id for pair in read_pairs([path])] == ["a.jpg", "c.jpg"]
    assert "b.jpg cannot be read: No such file or directory; skipped" in caplog.text


def test_hidden_files_of_a_tar_part_no_sample(tmp_path):
    names = [("./._a.jpg", b"mac"), ("./a.jpg", b"a"), ("./._a.txt", b"mac"), ("./a.txt", b"a dog")]
    pairs = open_pairs([make_tar(tmp_path / "t.tar", names)])
    assert [(pair.image, pair.texts) for pair in pairs] == [(b"a", ("a dog",))]
    assert not pairs.skipped


def test_a_table_with_pictures_in_it_says_that_it_wants_paths(tmp_path):
    (tmp_path / "t.csv").write_text(f"image,caption\n{'iVBORw0KGgo' * 100},a dog\n")
    with pytest.raises(
        InputError, match=r"t\.csv names pictures such as 'iVBORw0KGgo.*' …, and none of the first 1 is"
    ):
        open_pairs([tmp_path / "t.csv"])


def test_bad_samples_among_others_are_skipped_and_counted(pictures):
    lines = pictures / "p.jsonl"
    lines.write_text(
        '{"image": "a.jpg", "text": "a dog"}\n{"image": "b.j\n{"x": 1}\n{"image": "c.jpg", "text": "sea"}\n'
    )
    tar = make_tar(pictures / "t.tar", [("1.jpg", b"1"), ("1.json", b"{oops"), ("2.jpg", b"2"), ("2.txt", b"two")])
    pairs = open_pairs([lines, tar])
    assert [pair.texts for pair in pairs] == [("a dog",), ("sea",), ("two",)]
    assert pairs.skipped == {"no object with a picture's path": 2, "no valid JSON": 1}
    assert [pair.texts for pair in read_pairs([lines, tar])] == [pair.texts for pair in pairs]
