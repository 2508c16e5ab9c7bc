from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest

import mmrag

TEXT = "The red door opens.\n\nI like it.\n\nThe blue sea shines.\n"


@pytest.fixture
def article(colours):
    """An article in the home folder, of an index by the toy model, which judges, too."""
    mmrag.create(".", model="toy:1").add(colours)
    path = colours.parent / "article.md"
    path.write_text(TEXT)
    return path


def test_markdown_into_a_file_elsewhere(article, command):
    (article.parent / "out").mkdir()
    code, out, err = command("illustrate", "article.md", "--out", "out/new.md", "--matcher", "judge:1", "--budget", "2")
    assert (code, out) == (0, "")
    assert err == "2 pictures placed · 1 of 3 sentences left without one → out/new.md\n"
    written = (article.parent / "out" / "new.md").read_text()
    assert (
        '\n\n![The red door opens.](../images/red.png "images/red.png")\n\n*The red door opens.*\n\nI like it.'
        in written
    )
    assert article.read_text() == TEXT


def test_json_of_stdin(article, command, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    _, out, _ = command("illustrate", "-", "--json", "--matcher", "judge:1")
    (line,) = out.splitlines()
    assert [one["uri"] for one in json.loads(line)["placements"]] == ["images/red.png"]  # one for three sentences


def test_a_page_by_the_name_of_the_file(article, command):
    assert command("illustrate", "article.md", "--out", "page.html", "--matcher", "judge:1")[0] == 0
    assert "<figure" in (article.parent / "page.html").read_text()


def test_distance_probability_where_and_copy(article, command):
    def placed(*options):
        _, out, _ = command("illustrate", "article.md", "--json", "--matcher", "judge:1", "--budget", "9", *options)
        return [one["sentence"] for one in json.loads(out)["placements"]]

    assert placed() == [0, 2]
    assert len(placed("--distance", "3")) == 1
    assert placed("--min-probability", "0.99") == []
    assert placed("--where", "uri like '%blue%'") == [2]
    assert placed("--in-order") == []  # nobody knows when they were taken
    assert command("illustrate", "article.md", "--matcher", "judge:1", "--copy", "pics")[0] == 0
    assert len(list((article.parent / "pics").iterdir())) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the text is empty"),
        (b"a\0b", "is no text"),
        (b"caf\xe9", "is not in UTF-8 (at byte 3)"),
        (b"a " * (2 << 20) + b"b", "has more than 4 MB"),
    ],
)
def test_what_is_no_article(article, command, content, message):
    article.write_bytes(content)
    code, out, err = command("illustrate", "article.md", "--matcher", "judge:1")
    assert (code, out) == (1, "")
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.md"], "cannot read 'nowhere.md'"),
        (["article.md", "--out", "./article.md"], "is the article itself"),
        (["article.md", "--out", "gone/x.md", "--matcher", "judge:1"], "cannot write 'gone/x.md'"),
        (["article.md", "--matcher", "reader:1"], "toy-reader reads texts only"),
        (["article.md", "--min-probability", "1"], "min_probability is from 0 to below 1"),
        (["article.md", "--budget", "0"], "budget is a whole number of at least 1"),
        (["article.md", "--copy", "x", "--json"], "--copy is for md"),
        (["article.md", "--matcher", "judge:1", "--where", "nothing ="], "the filter is wrong"),
        (["article.md", "--near", "here"], "a place is LATITUDE,LONGITUDE,RADIUS"),
        (["article.md", "--index", "images"], "no index"),
    ],
)
def test_what_cannot_be_done(article, command, arguments, message):
    code, _, err = command("illustrate", *arguments)
    assert code == 1
    assert message in err
    assert article.read_text() == TEXT


def test_a_cold_run_with_the_built_in_model_imports_no_torch(tmp_path, photographs, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mmrag.create(".").add(photographs)
    (tmp_path / "a.md").write_text("The motorcycle stood in the garage. He was born in 1960.\n")
    code = (
        "import sys; from mmrag.cli.main import app; app(['illustrate', 'a.md', '--min-probability', '0.1', "
        "'--out', 'b.md'], standalone_mode=False); print(sorted({'torch', 'lancedb'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout == "[]\n"
    assert "motorcycle_left.png" in (tmp_path / "b.md").read_text()
