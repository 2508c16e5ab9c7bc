"""One file, many items: documents, tables, tars and datasets, through the whole of an index."""

from __future__ import annotations

import io
import json
import os
import tarfile
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mmrag
from mmrag.errors import InputError, Interrupted
from mmrag.search.pipeline import load_pipeline
from mmrag.sources import parts
from mmrag.sources.parts import read_part
from mmrag.types import Failure, Item
from tests.made import counts, png, sample, top, touch, write_tar
from tests.toy import COLOURS, ToyEncoder


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def index(home):
    return mmrag.create(model="toy:1")


def test_a_document_is_its_chunks(index, home):
    (home / "notes.md").write_text("# Colours\n\n## Warm\n\nred\n\n## Cold\n\nblue\n")
    (home / "page.html").write_text("<html><body><p>green</p></body></html>")
    assert index.add(home).added == 4  # the headings that nothing stands under are one of them
    item = index.search("blue", k=1)[0].item
    assert (item.uri, item.part, item.modality) == ("notes.md", "2", "text")
    assert item.metadata["headings"] == ["Colours", "Cold"]
    assert item.metadata["lines"] == [7, 9]  # with its heading
    assert index.get(item.id) == item
    assert counts(index.update()) == (0, 0, 0, 0, 4, 0)


def test_only_what_is_new_in_a_document_is_embedded(index, home, monkeypatch):
    notes = home / "notes.md"
    notes.write_text("# a\n\nred\n\n# b\n\nblue\n\n# c\n\ngreen\n")
    assert index.add(home).added == 3
    read = []
    embed = ToyEncoder._embed_text
    monkeypatch.setattr(ToyEncoder, "_embed_text", lambda self, texts: read.extend(texts) or embed(self, texts))
    notes.write_text("# a\n\nred\n\n# c\n\nblack\n")
    touch(notes)
    assert counts(index.update()) == (0, 1, 0, 1, 1, 0)
    assert len(read) == 1
    assert "black" in read[0]
    assert len(index) == 2
    notes.rename(home / "moved.md")
    assert counts(index.update()) == (0, 0, 2, 0, 0, 0)
    assert len(read) == 1
    assert {hit.item.uri for hit in index.search("red", k=5)} == {"moved.md"}
    (home / "moved.md").unlink()
    assert counts(index.update()) == (0, 0, 0, 2, 0, 0)


def test_a_document_that_cannot_be_read_any_more_is_one_failure_until_it_can(index, home):
    notes = home / "notes.md"
    notes.write_text("# a\n\nred\n\n# b\n\nblue\n")
    index.add(home)
    notes.write_bytes(b"red\0blue")
    changes = index.update()
    assert counts(changes) == (0, 0, 0, 2, 0, 1)
    assert (changes.failed[0].uri, changes.failed[0].part) == ("notes.md", None)
    assert (len(index), index.update().still_failing) == (0, 1)
    notes.write_text("green")
    touch(notes)
    assert counts(index.update()) == (1, 0, 0, 0, 0, 0)
    assert index.failures() == []


def test_the_words_of_a_picture_are_no_document(index, home):
    (home / "red.png").write_bytes(png("red"))
    (home / "red.txt").write_text("a caption")
    (home / "blue.txt").write_text("blue")
    assert index.add(home).added == 2
    assert {hit.item.uri for hit in index.search("blue", k=5)} == {"red.png", "blue.txt"}
    (home / "blue.png").write_bytes(png("blue"))
    assert counts(index.update()) == (1, 0, 0, 1, 1, 0)


def test_a_tar_is_its_samples(index, home):
    bad = ("x3", b"junk", {"caption": "broken"})
    write_tar(
        home / "t.tar", [sample("x1", "red", price=3), sample("x2", "blue"), bad, ("x4", None, {"text": "green"})]
    )
    assert index.add(home).left == 1
    changes = index.add(home / "t.tar")
    assert counts(changes) == (3, 0, 0, 0, 0, 1)
    assert changes.failed == (Failure("t.tar", "not a picture in a format that can be read", "x3"),)
    assert index.failures() == list(changes.failed)
    hits = index.search("red", k=3)
    assert (hits[0].item.part, hits[0].item.text, dict(hits[0].item.metadata)) == (
        "x1",
        "red one\nred two",
        {"width": 8, "height": 8, "format": "PNG", "price": 3},
    )
    assert {hit.item.modality for hit in hits} == {"image", "text"}
    again = index.update()
    assert (again.unchanged, again.still_failing, again.left) == (3, 1, 0)


def test_a_tar_that_has_changed(index, home):
    path = home / "t.tar"
    write_tar(path, [sample("x1", "red"), sample("x2", "blue"), sample("x3", "green")])
    index.add(path)
    embedded = index.encoder.embedded
    write_tar(path, [sample("x1", "red"), sample("x2", "black"), sample("x9", "yellow")])
    touch(path)
    assert counts(index.update()) == (1, 1, 0, 1, 1, 0)
    assert index.encoder.embedded == embedded + 2
    assert [top(index, words)[1] for words in ("red", "black", "yellow")] == ["x1", "x2", "x9"]
    assert index.check().wrong == ()
    assert index.remove(path) == 3
    with pytest.raises(InputError, match="no folder was ever added"):
        index.update()


def test_a_tar_that_ends_too_early_keeps_what_was_read(index, home):
    path = home / "t.tar"
    write_tar(path, [sample(f"x{n}", colour) for n, colour in enumerate(COLOURS)])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2 - 300])
    changes = index.add(path)
    assert 1 <= changes.added < len(COLOURS)
    assert [one.part for one in changes.failed] == [None]
    assert "is not a readable tar" in changes.failed[0].reason
    path.write_bytes(whole)
    assert index.update().added == len(COLOURS) - changes.added
    assert (len(index), index.failures()) == (len(COLOURS), [])


@pytest.mark.parametrize("stopped_after", [1, 3, 5])
def test_a_run_that_stops_inside_a_file_goes_on(home, monkeypatch, stopped_after):
    recipe = home / "small.toml"
    recipe.write_text("[store]\ncommit_every = 2\n")
    index = mmrag.create(model="toy:1")
    path = home / "t.tar"
    write_tar(path, [sample(f"x{n}", "red", n=n) for n in range(6)])
    index.add(path, recipe=str(recipe))
    write_tar(path, [sample(f"x{n}", "blue", n=n) for n in range(1, 7)])
    touch(path)

    def stop(done, total):
        if done == stopped_after:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="are kept and can be searched"):
        index.update(recipe=str(recipe), progress=stop)
    assert len(index) >= 6  # nothing of before has gone
    index.update(recipe=str(recipe))
    assert len(index) == 6
    assert {index.get(one.item.id).text for one in index.search("blue", k=1)} == {"blue one\nblue two"}
    assert counts(index.update()) == (0, 0, 0, 0, 6, 0)


def test_a_file_that_goes_back_while_it_was_half_read(home):
    """Its time is that of before, and yet it has to be read again."""
    recipe = home / "small.toml"
    recipe.write_text("[store]\ncommit_every = 2\n")
    index = mmrag.create(model="toy:1")
    path = home / "t.csv"
    old = "text,n\n" + "".join(f"red {n},{n}\n" for n in range(6))
    path.write_text(old)
    before = path.stat()
    index.add(path, recipe=str(recipe))
    path.write_text(old.replace("red", "blue"))

    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        index.update(recipe=str(recipe), progress=stop)
    path.write_text(old)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    index.update()
    assert not any("blue" in hit.item.text for hit in index.search("blue", k=9))


TABLE = [{"caption": "yellow", "price": 3, "name": "007"}, {"caption": "black", "price": 4.5, "name": "x"}]


def write_jsonl(path):
    path.write_text("".join(json.dumps(row) + "\n" for row in TABLE))


def write_csv(path):
    path.write_text("caption,price,name\nyellow,3,007\nblack,4.5,x\n")


def write_tsv(path):
    path.write_text("caption\tprice\tname\nyellow\t3\t007\nblack\t4.5\tx\n")


def write_parquet(path):
    pq.write_table(pa.Table.from_pylist(TABLE), path)


def write_lance(path):
    import lancedb

    lancedb.connect(path.parent).create_table(path.stem, pa.Table.from_pylist(TABLE))


def write_saved(path):
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_list(TABLE).save_to_disk(path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("t.jsonl", write_jsonl),
        ("t.csv", write_csv),
        ("t.tsv", write_tsv),
        ("t.parquet", write_parquet),
        ("t.lance", write_lance),
        ("saved", write_saved),
    ],
)
def test_rows_of_text(index, home, name, write):
    write(home / name)
    assert index.add(home).left == 1
    assert index.add(home / name).added == 2
    item = index.search("black", k=1)[0].item
    assert (item.uri, item.part, item.text, item.modality) == (name, "1", "black", "text")
    assert dict(item.metadata) == {"price": 4.5, "name": "x"}
    assert index.get(index.search("yellow", k=1)[0].item.id).metadata["name"] == "007"
    assert counts(index.update()) == (0, 0, 0, 0, 2, 0)


def test_a_table_without_texts_says_what_it_has(index, home):
    (home / "t.csv").write_text("title,price\nx,1\n")
    (failure,) = index.add(home / "t.csv").failed
    assert "has no column of texts or pictures (texts, text, captions" in failure.reason
    assert "it has: title, price" in failure.reason


def test_a_text_that_is_too_long_for_the_model(index, home):
    words = " ".join(["red"] * 10 + ["blue"] * 10)
    (home / "t.jsonl").write_text(json.dumps({"text": words, "n": 1}) + "\n" + json.dumps({"text": "green"}))
    index.add(home / "t.jsonl")
    parts = {hit.item.part for hit in index.search("red", k=99)}
    assert {"0.0", "0.1", "1"} <= parts
    assert top(index, "green") == ("t.jsonl", "1")
    assert all(hit.item.metadata == {"n": 1} for hit in index.search("red", k=99) if hit.item.part != "1")


def test_pictures_beside_a_table(index, home):
    (home / "red.png").write_bytes(png("red"))
    (home / "t.csv").write_text("image,caption,price\nred.png,first,3\nred.png,second,3\ngone.png,third,1\n")
    changes = index.add(home / "t.csv")
    assert (changes.added, [one.part for one in changes.failed]) == (1, ["2"])
    item = index.search("red")[0].item
    assert (item.part, item.text, item.metadata["price"]) == ("0", "first\nsecond", 3)


def write_pictures(path, colours):
    column = [{"bytes": png(colour), "path": None} for colour in colours]
    table = pa.table({"image": column, "caption": list(colours), "n": list(range(len(colours)))})
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=2)
    else:
        import lancedb

        lancedb.connect(path.parent).create_table(path.stem, table)


@pytest.mark.parametrize("name", ["t.parquet", "t.lance", "t.tar", "t.tar.gz"])
def test_pictures_inside_are_read_again(home, name):
    path = home / name
    if ".tar" in name:
        write_tar(
            path, [sample(str(n), colour) for n, colour in enumerate(COLOURS)], "w:gz" if name[-1] == "z" else "w"
        )
    else:
        write_pictures(path, list(COLOURS))
    index = mmrag.create(model="toy:1")
    assert index.add(path).added == len(COLOURS)
    for n, colour in enumerate(COLOURS):
        assert top(index, colour) == (name, str(n))
        assert read_part(str(path), str(n)) == png(colour)
    with pytest.raises(mmrag.errors.ItemError, match="no part '99' in it any more"):
        read_part(str(path), "99")
    assert index.enrich(caption="teller:1").enriched == len(COLOURS)
    assert index.search("blue", k=1)[0].item.words == {"generated": "blue"}
    judged = index.search("red", rerank="judge:1", k=1)[0]
    assert (judged.kind, judged.item.part) == ("match", "0")
    changes = index.reindex("toy:2")
    assert (changes.unchanged, changes.updated, changes.failed) == (len(COLOURS), 0, ())
    assert counts(index.update())[4] == len(COLOURS)
    assert top(index, "blue") == (name, "2")


def test_what_the_command_prints(home, command):
    write_tar(home / "t.tar", [sample("x1", "red", price=3), ("x2", b"junk", {"caption": "x"})])
    (home / "notes.md").write_text("# Guide\n\n## Install\n\nblue\nsea\n")
    code, out, err = command("index", home, "--model", "toy:1")
    assert (code, out.split(" · ")[0]) == (0, "2 added")
    assert "1 file of rows was left unread; name one to index what is in it: mmrag index FILE" in err
    code, out, err = command("index", "t.tar")
    assert "failed  t.tar › x2: not a picture" in err
    assert "failed  t.tar › x2: not a picture" in command("info", "--failed")[1]
    assert command("search", "red", "-k", 1)[1].splitlines()[0].endswith("  t.tar › x1")
    assert command("search", "blue", "-k", 1)[1].splitlines()[0].endswith("  notes.md:3-6  Guide › Install")
    hit = json.loads(command("search", "red", "-k", 1, "--json")[1])
    assert (hit["uri"], hit["part"], hit["metadata"]["price"]) == ("t.tar", "x1", 3)
    command("search", "red", "--html", "page.html")
    page = (home / "page.html").read_text()
    assert "t.tar › x1" in page
    assert "data:image/jpeg" in page
    assert command("remove", "t.tar")[0] == 0


def test_a_stream_of_items_holds_few_of_them(home):
    index = mmrag.create(model="toy:1")
    picture = png("red") + bytes(200_000)

    def stream(count, start=0):
        for n in range(start, start + count):
            yield Item(uri=f"memory/{n}", image=picture + n.to_bytes(4, "big"), metadata={"n": n})

    index.add(stream(10))
    tracemalloc.start()
    assert index.add(stream(1500, 10)).added == 1500
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000_000  # of 300 MB that went by
    assert len(index) == 1510


def test_a_stream_refuses_what_comes_twice(index):
    stream = (Item(uri=f"i{n % 3}", modality="text", text=f"red {n}") for n in range(4))
    with pytest.raises(InputError, match="or the uri 'i0'; what was committed before is kept"):
        index.add(stream)
    with pytest.raises(InputError, match="a stream gives items or paths, and this one gives both"):
        index.add(iter([Item(uri="i", modality="text", text="red"), "images"]))
    assert index.add(iter([])) == mmrag.types.Changes()


def test_a_compressed_tar_is_gone_through_once(index, home, monkeypatch):
    write_tar(home / "t.tgz", [sample(str(n), colour) for n, colour in enumerate(COLOURS)], "w:gz")
    index.add("t.tgz")
    index.add(Item("t.tgz", part="0", words={"generated": "mine"}))
    opened = []
    listing = parts.list_rows
    monkeypatch.setattr(parts, "list_rows", lambda path: opened.append(path) or listing(path))
    monkeypatch.setattr(parts, "picture_of", None)
    assert index.enrich(caption="teller:1").enriched == len(COLOURS) - 1
    assert index.reindex("toy:2").unchanged == len(COLOURS)
    assert len(opened) == 2
    words = {hit.item.part: hit.item.words["generated"] for hit in index.search("red", k=9)}
    assert words == {"0": "mine"} | {str(n): colour for n, colour in enumerate(COLOURS) if n}


def test_a_part_that_is_gone_is_told_when_it_is_read_again(index, home, caplog):
    write_tar(home / "t.tar", [sample("a", "red"), sample("b", "blue")])
    index.add("t.tar")
    write_tar(home / "t.tar", [sample("a", "red"), sample("c", "green")])
    assert index.enrich(caption="teller:1").enriched == 1
    assert "t.tar › b gets no words: it has changed" in caplog.text
    assert [one.part for one in index.reindex("toy:2").failed] == ["b"]
    assert index.failures()[0].reason == "there is no part 'b' in it any more"
    (home / "t.tar").write_bytes(b"x")
    assert "is not a readable tar" in index.reindex("toy:1").failed[0].reason
    assert len(index) == 0


def test_what_a_caller_says_of_a_file_outlives_its_changes(index, home):
    notes = home / "notes.md"
    notes.write_text("# a\n\nred\n\n# b\n\nyellow\n")
    index.add(home)
    index.add(Item("notes.md", part="summary", modality="text", text="blue"))
    notes.write_text("# a\n\ngreen\n")
    touch(notes)
    assert index.update().removed == 1
    assert top(index, "blue") == ("notes.md", "summary")
    assert len(index) == 2


def write_plain_tar(path, files):
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_samples_whose_words_stand_apart_are_not_lost(index, home):
    pictures, words = [("a.png", png("red")), ("b.png", png("blue"))], [("a.txt", b"yellow"), ("b.txt", b"green")]
    write_plain_tar(home / "t.tar", [*pictures, *words, *words])
    assert counts(index.add("t.tar")) == (6, 0, 0, 0, 0, 0)
    each = load_pipeline("default").changed(dups=True, k=9)
    found = {(hit.item.part, hit.item.modality) for colour in COLOURS for hit in index.search(colour, pipeline=each)}
    names = {("a", "image"), ("b", "image")} | {(f"{n} ({times})", "text") for n in "ab" for times in (2, 3)}
    assert found == names
    assert read_part(str(home / "t.tar"), "b") == png("blue")


def test_names_that_are_no_utf_8(index, home):
    write_plain_tar(home / "t.tar", [("a\udcff.png", png("red")), ("b.png", png("blue"))])
    assert index.add("t.tar").added == 2
    assert top(index, "red") == ("t.tar", "a\\udcff")
    assert read_part(str(home / "t.tar"), "a\\udcff") == png("red")


def test_a_row_that_is_no_text_does_not_end_its_file(index, home):
    texts = ["red", "\0" + "blue " * 40, "green"]
    (home / "t.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    changes = index.add("t.jsonl")
    assert (changes.added, [one.part for one in changes.failed]) == (2, ["1"])
    assert "NUL" in changes.failed[0].reason
    assert top(index, "green") == ("t.jsonl", "2")


def test_a_caller_can_bring_a_part(index, home):
    write_tar(home / "t.tar", [sample("x1", "red"), sample("x2", "blue")])
    index.add(Item(uri="t.tar", part="x2", id="own", metadata={"mine": 1}))
    assert index.get("own").part == "x2"
    assert top(index, "blue") == ("t.tar", "x2")
    index.add(home)  # a look at the folder leaves it
    assert len(index) == 1


def test_flickr8k_as_it_is(flickr8k, home):
    index = mmrag.create(model="builtin")
    with tarfile.open(flickr8k / "val-00.tar") as whole, tarfile.open(home / "some.tar", "w") as some:
        for member in list(whole)[:80]:
            some.addfile(member, whole.extractfile(member))
    assert index.add(home / "some.tar").added == 40
    words = {hit.item.part: hit.item.text for hit in index.search("a dog", k=40)}
    found = [top(index, text.splitlines()[0])[1] == part for part, text in words.items()]
    assert sum(found) >= 25  # of 40; by chance one
