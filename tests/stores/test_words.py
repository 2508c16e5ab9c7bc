from __future__ import annotations

import shutil
import unicodedata

import numpy as np
import pytest

from mmrag.errors import IndexFormatError
from mmrag.stores.exact import ExactView
from mmrag.stores.rows import Row
from mmrag.stores.table import Table
from mmrag.stores.words import WordsView, names_of


def row(name, **columns):
    return Row(
        id=name, uri=columns.pop("uri", f"{name}.jpg"), modality="image", vector=np.ones(1, np.float32), **columns
    )


class Corpus:
    """A table, its view, and the view of its words, all kept up to date."""

    def __init__(self, folder):
        self.folder = folder / "words"
        self.table = Table(folder / "table", 1, create=True)
        self.view = ExactView.open(folder / "view", 1)
        self.words = WordsView.open(self.folder)

    def write(self, *rows):
        self.table.upsert(rows)
        self.sync()

    def sync(self):
        self.view = self.view.sync(self.table)
        self.words = self.words.sync(self.view)

    def stamps(self):
        return {record["id"]: record["stamp"] for record in self.view.records(list(self.refs()))}

    def refs(self):
        return (ref for ref, _ in self.view.scan(("id",)))

    def find(self, words, k=10):
        names = {stamp: name for name, stamp in self.stamps().items()}
        scores, stamps = self.words.search(words, k)
        assert list(scores) == sorted(scores, reverse=True)
        return [names[stamp] for stamp in stamps.tolist()]


@pytest.fixture
def corpus(tmp_path):
    return Corpus(tmp_path)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("2019_paris-trip/IMG_0042.jpg", "2019 paris trip"),
        ("DSC01234.JPG", ""),
        ("photos/20190823_123456.jpg", "photos"),
        ("flickr/3385593926_d3e9c21170.jpg", "flickr"),
        ("https://host/a dog.png", "host a dog"),
        ("巴黎/照片.jpg", "巴黎 照片"),
        ("Fujifilm X100V.webp", "Fujifilm X100V"),
        ("notes.v2/read.me.md", "notes v2 read me"),
    ],
)
def test_names_are_split_into_words_that_say_something(uri, words):
    assert names_of(uri) == words


def test_the_name_in_an_archive_counts_and_the_number_of_a_chunk_does_not():
    assert names_of("holiday.tar", "beach/IMG_1.jpg") == "holiday beach"
    assert names_of("notes.md", "17") == "notes"


@pytest.mark.parametrize("written", ["NFC", "NFD"])
@pytest.mark.parametrize("asked", ["NFC", "NFD"])
def test_accents_are_the_same_in_either_form(corpus, written, asked):
    corpus.write(
        row("a", uri=unicodedata.normalize(written, "España/한국.jpg")),
        row("b", text=unicodedata.normalize(written, "ein Müller")),
        *(row(f"f{n}", uri=f"hills/{n}.jpg", text="mountains") for n in range(9)),
    )
    for words, name in {"españa": "a", "한국": "a", "müller": "b"}.items():
        words = unicodedata.normalize(asked, words)
        assert corpus.find(words) == [name]
        assert corpus.words.kinds_with(words, list(corpus.stamps().values())) != {}


def test_every_kind_of_words_is_found_and_told(corpus):
    corpus.write(
        row("a", text="a harbour"),
        row("b", tags="harbour, boats"),
        row("c", generated="boats in a harbour"),
        row("d", ocr="HARBOUR AUTHORITY"),
        row("e", uri="harbour/e.jpg"),
        *(row(f"f{n}", uri=f"hills/{n}.jpg", text="mountains") for n in range(20)),
    )
    assert sorted(corpus.find("harbour")) == ["a", "b", "c", "d", "e"]
    assert corpus.find("harbour")[-1] == "e"  # names count less
    stamps = corpus.stamps()
    told = corpus.words.kinds_with("harbour", list(stamps.values()))
    expected = {"a": "text", "b": "tags", "c": "generated", "d": "ocr", "e": "names"}
    assert {name: told[stamp] for name, stamp in stamps.items() if stamp in told} == {
        name: (kind,) for name, kind in expected.items()
    }


def test_more_of_the_words_and_rarer_ones_score_higher(corpus):
    texts = ["dog beach", "dog city", "dog city", "dog city"]
    corpus.write(*(row(f"i{n}", text=text) for n, text in enumerate(texts)), row("both", uri="x.jpg", tags="beach"))
    assert corpus.find("dog beach")[:2] == ["i0", "both"]


def test_words_of_a_kind_that_few_have_are_as_rare_as_others(corpus):
    fillers = [row(f"f{n}", text="hills and mountains") for n in range(9)]
    corpus.write(*fillers, row("said", text="a harbour"), row("read", ocr="a harbour"))
    scores, _ = corpus.words.search("harbour", 5)
    assert scores[0] == pytest.approx(scores[1])


def test_bm25_is_what_the_formula_says(corpus):
    corpus.write(row("a", text="dog"), row("b", text="dog cat bird"), row("c", text="cat"))
    scores, _ = corpus.words.search("dog", 10)
    idf, mean = np.log((3 - 2 + 0.5) / (2 + 0.5) + 1), 5 / 3
    expected = [idf * 2.2 / (1 + 1.2 * (0.25 + 0.75 * length / mean)) for length in (1, 3)]
    assert scores == pytest.approx(expected, rel=1e-3)


def test_case_accents_and_english_endings_do_not_count(corpus):
    corpus.write(row("a", text="Two dogs are running past a CAFÉ"), row("b", text="a cat"))
    for asked in ("dog", "Dogs", "runs", "cafe", "Café"):
        assert corpus.find(asked) == ["a"]


def test_chinese_words_are_found_inside_sentences(corpus):
    corpus.write(row("a", text="一只狗在沙滩上奔跑"), row("b", text="两个孩子在公园里踢足球"), row("c", text="a dog"))
    assert corpus.find("沙滩") == ["a"]
    assert corpus.find("公园足球") == ["b"]


def test_it_follows_the_table(corpus):
    corpus.write(row("a", text="dog"), row("b", text="dog"))
    corpus.write(row("a", text="cat"), row("c", ocr="dog"))
    assert sorted(corpus.find("dog")) == ["b", "c"]
    corpus.table.delete([corpus.stamps()["b"]])
    corpus.sync()
    assert corpus.find("dog") == ["c"]
    assert corpus.find("cat") == ["a"]
    assert WordsView.open(corpus.folder).state == corpus.words.state


def test_rows_come_back_when_an_earlier_version_is_restored(corpus):
    corpus.write(row("a", text="dog"))
    corpus.table.keep(5)
    version = corpus.table.version
    corpus.write(row("a", text="cat"))
    corpus.table.restore(version)
    corpus.sync()
    assert (corpus.find("dog"), corpus.find("cat")) == (["a"], [])


def test_an_empty_corpus_and_one_without_words_find_nothing(corpus):
    corpus.sync()
    assert corpus.find("dog") == []
    corpus.write(row("a", uri="IMG_1.jpg"))
    assert corpus.find("dog") == []
    corpus.write(row("b", text="dog"))
    assert corpus.find("dog") == ["b"]


def test_rows_without_a_vector_are_not_found(corpus):
    corpus.write(row("a", text="dog"), Row(id="b", uri="dog.jpg", modality="image", failure="truncated"))
    assert corpus.find("dog") == ["a"]


def test_a_writer_killed_between_any_two_steps_is_made_good(corpus, monkeypatch):
    corpus.write(row("a", text="dog"))
    for step in ("mmrag.stores.words.write_json", "mmrag.stores.words.WordsView._index"):
        before = corpus.words
        with monkeypatch.context() as patch:
            patch.setattr(step, lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                corpus.write(row(f"b{step}", ocr="dog"))
        corpus.words = WordsView.open(corpus.folder)
        assert corpus.words.state == before.state
        corpus.sync()
        assert f"b{step}" in corpus.find("dog")
        assert corpus.words.difference(corpus.view) is None


@pytest.mark.parametrize("harm", ["no table", "no state", "half a state", "no index", "nothing"])
def test_what_is_damaged_is_made_anew(corpus, harm):
    corpus.write(row("a", text="dog"))
    if harm == "no table":
        shutil.rmtree(corpus.folder / "words.lance" / "data")
    elif harm == "no state":
        (corpus.folder / "words.json").unlink()
    elif harm == "half a state":
        (corpus.folder / "words.json").write_text('{"format": 1, "table_v')
    elif harm == "no index":
        for path in (corpus.folder / "words.lance" / "_indices").rglob("*"):
            if path.is_file():
                path.write_bytes(b"")
    else:
        shutil.rmtree(corpus.folder)
    damaged = WordsView.open(corpus.folder)
    if harm in ("no table", "no index"):
        assert "damaged" in damaged.difference(corpus.view)
        with pytest.raises(IndexFormatError, match="mmrag check mends it"):
            damaged.search("dog", 1)
        corpus.words = WordsView.make(corpus.folder, corpus.view)
    else:
        corpus.words = damaged
        corpus.sync()
    assert corpus.find("dog") == ["a"]
    assert corpus.words.difference(corpus.view) is None


def test_a_difference_is_told(corpus):
    corpus.write(row("a", text="dog"))
    words = corpus.words
    corpus.table.upsert([row("b", text="cat")])
    corpus.view = corpus.view.sync(corpus.table)
    assert words.difference(corpus.view) == "words in it differ from those of the table"


def test_indexes_are_written_anew_once_many_rows_are_not_in_them(corpus, monkeypatch):
    monkeypatch.setattr("mmrag.stores.words._FEW", 3)
    corpus.write(row("first", text="dog"))
    unindexed = []
    for n in range(6):
        corpus.write(row(f"i{n}", text="dog"))
        unindexed.append(corpus.words._table.index_stats("text_idx").num_unindexed_rows)
    assert unindexed == [1, 2, 3, 0, 1, 2]
    assert len(corpus.find("dog")) == 7


def test_a_reader_goes_on_while_another_writes(corpus):
    corpus.write(row("a", text="dog"))
    reader = WordsView.open(corpus.folder)
    assert len(reader.search("dog", 5)[0]) == 1
    for n in range(3):
        corpus.write(row(f"i{n}", text="dog"))
    assert len(reader.search("dog", 5)[0]) == 1
