"""Words and facts that belong to pictures, from wherever they come, through a whole index."""

import json
import logging
import os

import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

import mmrag
from mmrag.errors import InputError, Interrupted, MissingExtraError
from mmrag.ingest import enrich as enriching
from mmrag.ingest.recipe import EnrichOptions, IndexRecipe
from mmrag.models.ocr import Reader

PLAIN = {"width": 32, "height": 24, "format": "PNG"}


@pytest.fixture
def index(colours):
    index = mmrag.create(".", model="toy:1")
    index.add("images")
    index.encoder.embedded = 0
    return index


def item(index, name):
    return next(hit.item for hit in index.search("red", k=100) if hit.item.uri == f"images/{name}.png")


def write(path, words):
    path.write_text(words if isinstance(words, str) else json.dumps(words), encoding="utf-8")


def save_titled(path, title, rgb="red"):
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", title)
    Image.new("RGB", (32, 24), rgb).save(path, pnginfo=info)


def test_words_in_the_file_and_facts_are_kept(index, colours):
    save_titled(colours / "red.png", "The wall")
    assert index.update().updated == 1
    red = item(index, "red")
    assert (red.words, red.origins, red.metadata) == ({"tags": "The wall"}, {"tags": "PNG"}, PLAIN)
    assert index.info()["words"] == {"text": 0, "tags": 1, "generated": 0, "ocr": 0}


def test_a_sidecar_comes_changes_and_goes_without_a_second_embedding(index, colours):
    write(colours / "red.txt", "a wall\n\n  painted red \n")
    assert index.update().updated == 1
    assert (item(index, "red").text, item(index, "red").origins) == ("a wall\npainted red", {"text": "red.txt"})
    assert str(index.update()).startswith("0 added · 0 updated · 0 moved · 0 removed · 6 unchanged")
    write(colours / "red.txt", "another wall")
    assert index.update().updated == 1
    assert item(index, "red").text == "another wall"
    (colours / "red.txt").unlink()
    assert index.update().updated == 1
    assert (item(index, "red").text, item(index, "red").origins) == (None, {})
    assert index.encoder.embedded == 0


def test_a_sidecar_that_was_only_touched_updates_nothing(index, colours):
    write(colours / "red.txt", "a wall")
    index.update()
    os.utime(colours / "red.txt", ns=(1, 1))
    assert (index.update().updated, index.update().unchanged) == (0, 6)


def test_a_json_sidecar_has_texts_and_facts_and_goes_before_txt(index, colours):
    write(colours / "red.txt", "from the text")
    facts = {"rating": 4, "sold": True, "place": "Lyon", "keys": ["a", "b"], "format": "painting"}
    write(colours / "red.json", {"captions": ["one", "two"], **facts, "boxes": [[1, 2]], "none": None})
    index.update()
    red = item(index, "red")
    assert (red.text, red.origins, red.metadata) == ("one\ntwo", {"text": "red.json"}, PLAIN | facts)
    write(colours / "red.json", {"rating": 5})
    index.update()
    assert (item(index, "red").text, item(index, "red").metadata) == (None, PLAIN | {"rating": 5})


@pytest.mark.parametrize("damaged", ["{", "[1]", '"x"', ""])
def test_a_damaged_sidecar_says_nothing(index, colours, damaged):
    write(colours / "red.json", damaged)
    assert index.update().failed == ()
    assert item(index, "red").text is None


def test_half_characters_in_a_sidecar_cost_nothing_else(index, colours):
    (colours / "red.json").write_text(r'{"caption": "a \ud800 b", "\udfffcity": "\ud800x", "n": [1, "\ud800"]}')
    index.update()
    found = item(index, "red")
    assert (found.text, found.metadata["?city"], found.metadata["n"]) == ("a ? b", "?x", [1, "?"])


def test_a_moved_picture_has_the_words_of_its_new_place(index, colours):
    write(colours / "red.txt", "a wall")
    index.update()
    (colours / "red.png").rename(colours / "wall.png")
    assert index.update().moved == 1
    assert item(index, "wall").text is None
    assert index.encoder.embedded == 0


def csv(path):
    path.write_text("filename,caption,year,code,price,where\n" + ROWS, encoding="utf-8")


ROWS = "red.png,a wall,1999,007,2.5,Lyon\nred.png,a red one,1999,007,2.5,\nblue.png,the sky,2001,010,3,\n"


def jsonl(path):
    lines = [
        {
            "image": "red.png",
            "texts": ["a wall", "a red one"],
            "year": 1999,
            "code": "007",
            "price": 2.5,
            "where": "Lyon",
        },
        {"image": "blue.png", "text": "the sky", "year": 2001, "code": "010", "price": 3.0, "where": ""},
    ]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")


def parquet(path):
    columns = {"year": [1999, 2001], "code": ["007", "010"], "price": [2.5, 3.0], "where": ["Lyon", None]}
    texts = pa.array([["a wall", "a red one"], ["the sky"]])
    pa.parquet.write_table(pa.table({"path": ["red.png", "blue.png"], "captions": texts, **columns}), path)


def coco(path):
    about = {"year": 1999, "code": "007", "price": 2.5, "where": "Lyon"}
    images = [
        {"id": 1, "file_name": "red.png", **about},
        {"id": 2, "file_name": "blue.png", "year": 2001, "code": "010", "price": 3.0},
    ]
    pairs = [(1, "a wall"), (1, "a red one"), (2, "the sky")]
    path.write_text(
        json.dumps({"images": images, "annotations": [{"image_id": n, "caption": text} for n, text in pairs]}),
        encoding="utf-8",
    )


@pytest.mark.parametrize(
    ("name", "writes"), [("c.csv", csv), ("c.jsonl", jsonl), ("c.parquet", parquet), ("coco.json", coco)]
)
def test_captions_files_of_every_kind_tell_the_same(index, colours, name, writes):
    writes(colours.parent / name)
    assert index.update(captions=name).updated == 2
    red, blue = item(index, "red"), item(index, "blue")
    assert (red.text, red.origins) == ("a wall\na red one", {"text": name})
    assert red.metadata == PLAIN | {"year": 1999, "code": "007", "price": 2.5, "where": "Lyon"}
    assert blue.metadata == PLAIN | {"year": 2001, "code": "010", "price": 3.0}
    assert index.encoder.embedded == 0


def test_a_captions_file_is_remembered_and_forgotten(index, colours):
    write(colours / "c.jsonl", '{"image": "red.png", "text": "a wall"}')
    index.add("images", captions=colours / "c.jsonl")
    assert index.info()["captions"] == ["images/c.jsonl"]
    assert index.update().unchanged == 6
    write(colours / "c.jsonl", '{"image": "red.png", "text": "a house"}\n{"image": "blue.png", "text": "the sky"}')
    changes = mmrag.open(".").update()
    assert (changes.updated, changes.unchanged) == (2, 4)
    index.refresh()
    assert item(index, "red").text == "a house"
    (colours / "c.jsonl").unlink()
    with pytest.raises(InputError, match="--no-captions"):
        index.update()
    assert index.update(captions=()).updated == 2
    assert item(index, "red").text is None
    assert index.encoder.embedded == 0


def test_a_captions_file_goes_before_a_sidecar_fact_by_fact(index, colours):
    write(colours / "red.json", {"text": "beside", "rating": 4, "year": 1})
    write(colours / "c.jsonl", '{"image": "red.png", "year": 2}')
    index.update(captions="images/c.jsonl")
    red = item(index, "red")
    assert (red.text, red.origins, red.metadata) == ("beside", {"text": "red.json"}, PLAIN | {"rating": 4, "year": 2})


def test_pictures_that_are_not_there_are_counted(index, colours, caplog):
    lines = [{"image": f"{name}.png", "text": "x"} for name in ("red", "gone", "lost")]
    write(colours / "c.jsonl", "\n".join(map(json.dumps, lines)))
    with caplog.at_level(logging.WARNING):
        index.update(captions="images/c.jsonl")
    assert caplog.messages == ["images/c.jsonl names 2 pictures that are not in the index, such as images/gone.png"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("c.csv", "a,b\n1,2\n", "no column of pictures"),
        ("c.jsonl", "{", "line 1 is not valid JSON"),
        ("c.jsonl", '{"text": "x"}', "names no picture"),
        ("c.parquet", "no", "is not a readable Parquet file"),
        ("c.json", "{}", "COCO's"),
        ("c.xls", "", "a captions file is .jsonl"),
    ],
)
def test_captions_that_cannot_be_read_change_nothing(index, colours, name, content, told):
    write(colours.parent / name, content)
    with pytest.raises(InputError, match=told):
        index.update(captions=name)
    assert index.info()["captions"] == []
    assert index.update().unchanged == 6


def test_what_the_caller_says_goes_before_what_a_file_says(index, colours):
    save_titled(colours / "red.png", "The wall")
    write(colours / "red.json", {"text": "beside", "rating": 4, "year": 1})
    mine = mmrag.Item(
        uri="images/red.png", metadata={"year": 2}, words={"generated": "mine"}, origins={"generated": "me"}
    )
    index.add(mine)
    red = item(index, "red")
    assert (red.text, red.words) == ("beside", {"tags": "The wall", "generated": "mine"})
    assert red.metadata == PLAIN | {"rating": 4, "year": 2}
    assert red.origins == {"text": "red.json", "tags": "PNG", "generated": "me"}
    save_titled(colours / "red.png", "The door")
    write(colours / "red.json", {"text": "besides", "year": 1})
    index.update()
    red = item(index, "red")
    assert (red.text, red.words) == ("besides", {"tags": "The door", "generated": "mine"})
    assert red.metadata == PLAIN | {"year": 2}


def test_a_picture_in_memory_says_what_is_embedded_in_it_too(index, colours):
    save_titled(colours / "x.tmp.png", "The wall")
    data = (colours / "x.tmp.png").read_bytes()
    index.add(mmrag.Item(uri="shop/1", id="one", image=data, metadata={"width": 7}))
    assert index.get("one").words == {"tags": "The wall"}
    assert index.get("one").metadata == {**PLAIN, "width": 7}


def test_captions_are_generated_where_there_are_none(index, colours):
    assert index.enrich(caption="teller:1").enriched == 6
    assert item(index, "red").words == {"generated": "red"}
    assert item(index, "red").origins == {"generated": "teller 1"}
    assert index.enrich(caption="teller:1").enriched == 0
    assert index.encoder.embedded == 0
    assert index.info()["words"]["generated"] == 6
    Image.new("RGB", (32, 24), (0, 0, 200)).save(colours / "red.png")
    index.update()
    assert item(index, "red").words == {}
    write(colours / "red.txt", "a wall")
    assert (index.enrich(caption="teller:1").enriched, item(index, "red").words) == (1, {"generated": "blue"})
    index.update()
    assert (item(index, "red").text, item(index, "red").words) == ("a wall", {"generated": "blue"})


def test_what_the_caller_says_is_not_generated_again(index):
    index.add(mmrag.Item(uri="images/red.png", words={"generated": "mine"}))
    assert index.enrich(caption="teller:1").enriched == 5
    assert item(index, "red").words == {"generated": "mine"}


def test_a_recipe_has_new_pictures_enriched(colours):
    index = mmrag.create(".", model="toy:1")
    recipe = IndexRecipe(enrich=EnrichOptions(caption="teller:1"))
    changes = index.add("images", recipe=recipe)
    assert (changes.added, changes.enriched) == (6, 6)
    assert str(changes).endswith("0 failed · 6 enriched")
    assert index.update().enriched == 0


def test_pictures_that_cannot_be_read_again_are_left_out(index, colours, caplog):
    Image.new("RGB", (9, 9), "red").save(colours / "red.png")
    (colours / "blue.png").unlink()
    with caplog.at_level(logging.WARNING):
        assert index.enrich(caption="teller:1").enriched == 4
    assert "images/red.png gets no words: it has changed" in caplog.text
    assert "images/blue.png gets no words: cannot be read" in caplog.text


def test_ctrl_c_keeps_the_words_that_were_made(index, monkeypatch):
    writer = enriching.load_writers(EnrichOptions(caption="teller:1"))[0]
    calls = []

    def tell(images):
        calls.append(images)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return ["a colour"] * len(images)

    impatient = enriching.Writer("generated", writer.origin, tell, 8, 2)
    monkeypatch.setattr(enriching, "load_writers", lambda options: [impatient])
    with pytest.raises(Interrupted, match="4 of 6 pictures"):
        index.enrich(caption="teller:1")
    assert index.info()["words"]["generated"] == 4
    monkeypatch.undo()
    assert index.enrich(caption="teller:1").enriched == 2


def test_reindexing_keeps_words_and_facts(index, colours):
    write(colours / "red.json", {"text": "a wall", "rating": 4})
    index.update()
    index.enrich(caption="teller:1")
    before = item(index, "red")
    index.reindex("toy:2")
    assert item(index, "red") == before


def test_an_index_of_an_older_mmrag_gets_its_facts_and_keeps_what_callers_said(index, monkeypatch):
    index.add(mmrag.Item(uri="images/red.png", text="mine", metadata={"a": 1}))
    table = index._serving.open_table()
    table._table.update(values={"given": None, "beside": None, "metadata": None})
    table._table.update(where="uri = 'images/red.png'", values={"metadata": '{"a": 1}'})
    index.refresh()
    index.encoder.embedded = 0
    index.update()
    assert (item(index, "red").text, item(index, "red").metadata) == ("mine", PLAIN | {"a": 1})
    assert item(index, "blue").metadata == PLAIN
    assert index.encoder.embedded == 0
    assert index.update().unchanged == 6


def test_text_in_pictures_is_read(index, colours):
    pytest.importorskip("rapidocr_onnxruntime")
    sign = Image.new("RGB", (400, 160), "white")
    font = ImageFont.load_default(size=40)
    ImageDraw.Draw(sign).text((30, 20), "FERRY TICKETS", fill="black", font=font)
    ImageDraw.Draw(sign).text((30, 90), "open 9 to 17", fill="black", font=font)
    sign.save(colours / "sign.png")
    index.update()
    assert index.enrich(ocr=True).enriched == 7
    lines = item(index, "sign").words["ocr"].lower().replace(" ", "").splitlines()
    assert lines == ["ferrytickets", "open9to17"]
    assert item(index, "sign").origins["ocr"].startswith("rapidocr 1.")
    assert item(index, "red").words == {}
    assert index.enrich(ocr=True).enriched == 0
    assert index.info()["words"]["ocr"] == 1


def test_without_the_extra_what_to_install_is_said(index, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rapidocr_onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"mmrag\[ocr\]"):
        Reader()
    with pytest.raises(MissingExtraError):
        index.enrich(ocr=True)


def test_the_command_line_takes_and_shows_words(command, colours):
    write(colours / "c.csv", "image,caption,year\nred.png,a wall,1999\n")
    code, out, err = command(
        "index", "images", "--model", "toy:1", "--captions", "images/c.csv", "--caption", "teller:1"
    )
    assert (code, err) == (0, "")
    assert out.strip().endswith("0 failed · 6 enriched")
    hit = json.loads(command("search", "red", "-k", "1", "--json")[1])
    assert (hit["text"], hit["words"], hit["metadata"]["year"]) == ("a wall", {"generated": "red"}, 1999)
    assert hit["origins"] == {"text": "images/c.csv", "generated": "teller 1"}
    assert "words    pictures with captions 1, generated captions 6" in command("info")[1]
    assert command("index", "--no-captions")[0] == 0
    assert json.loads(command("search", "red", "-k", "1", "--json")[1])["text"] is None
    assert command("index", "--no-captions", "--captions", "images/c.csv")[0] == 1
