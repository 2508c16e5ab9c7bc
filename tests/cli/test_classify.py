from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from PIL import Image
from typer.testing import CliRunner

import mmrag
from mmrag.cli.main import app
from tests.cli.test_cli import run

LABELS = "a cat,a cup of coffee,a rocket,a motorcycle"


@pytest.fixture
def pictures(tmp_path, monkeypatch, photographs):
    """Two photographs in folders named as labels, one elsewhere, and one that is none."""
    monkeypatch.chdir(tmp_path)
    for name, folder in (("chelsea.png", "a_cat"), ("rocket.jpg", "a_rocket"), ("coffee.png", "x,\ty")):
        (tmp_path / "images" / folder).mkdir(parents=True)
        shutil.copy(photographs / name, tmp_path / "images" / folder / name)
    (tmp_path / "images" / 'bad "one".jpg').write_bytes(b"?")
    return tmp_path / "images"


def test_lines_and_accuracy(pictures):
    done = run("classify", "images", "--labels", LABELS)
    *lines, everything, cat, rocket = done.stdout.splitlines()
    assert [line.rsplit(" ", 1)[0] for line in lines] == [
        "images/a_cat/chelsea.png  a cat",
        "images/a_rocket/rocket.jpg  a rocket",
        r"images/x,\ty/coffee.png  a cup of coffee",
    ]
    assert all(0.3 < float(line.rsplit(" ", 1)[1]) <= 1 for line in lines)
    assert everything == "top-1 100.0 %  top-5 100.0 %  all 2"
    assert (cat, rocket) == (
        "top-1 100.0 %  top-5 100.0 %  a cat  of 1",
        "top-1 100.0 %  top-5 100.0 %  a rocket  of 1",
    )
    failed, count = done.stderr.splitlines()
    assert failed == 'failed  images/bad "one".jpg: not a picture in a format that can be read'
    assert count == "1 could not be read"


def test_a_table_reads_back(pictures):
    assert run("classify", "images", "--labels", LABELS, "-k", "2", "--csv", "out.csv").stdout.startswith("top-1 100.0")
    with open("out.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    (bad,) = [row for row in rows if row["failure"]]
    assert list(bad.values()) == [
        *('images/bad "one".jpg', "", "", "", ""),
        "not a picture in a format that can be read",
    ]
    coffee = [row for row in rows if row["path"] == "images/x,\ty/coffee.png"]
    assert [row["rank"] for row in coffee] == ["1", "2"]
    assert coffee[0]["label"] == "a cup of coffee"
    assert coffee[0]["truth"] == ""
    assert {row["truth"] for row in rows} == {"", "a cat", "a rocket"}
    done = run("classify", "images", "--labels", LABELS, "--csv", "-")
    assert len(list(csv.DictReader(io.StringIO(done.stdout)))) == 4
    assert "top-1 100.0 %" in done.stderr


def test_json_and_labels_from_a_file(pictures):
    (pictures.parent / "labels.txt").write_text(LABELS.replace(",", "\n"))
    done = run("classify", "images", "--labels", "labels.txt", "--json", "-k", "9", "--templates", "plain")
    *lines, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["labels"][:1] for line in lines if line["failure"] is None] == [
        ["a cat"],
        ["a rocket"],
        ["a cup of coffee"],
    ]
    assert all(sum(line["probabilities"]) == pytest.approx(1) for line in lines if line["labels"])
    assert last["accuracy"]["pictures"] == 2


def test_an_index_is_classified_from_anywhere_without_its_pictures_being_read(pictures, tmp_path):
    run("index", "images")
    expected = run("classify", "--labels", LABELS).stdout.splitlines()
    assert len(expected) == 6
    for path in pictures.rglob("*.png"):
        path.write_bytes(b"no picture any more")
    assert run("classify", "--labels", LABELS).stdout.splitlines() == expected
    (tmp_path / "elsewhere").mkdir()
    seen = run("classify", "--labels", LABELS, "--index", str(tmp_path), cwd=tmp_path / "elsewhere").stdout
    assert seen.startswith(f"{pictures}/a_cat/chelsea.png  a cat")


def test_classifying_an_index_imports_nothing_heavy(pictures):
    run("index", "images")
    code = (
        f"import sys; sys.argv = ['mmrag', 'classify', '--labels', {LABELS!r}, '--templates', 'plain'];"
        "from mmrag.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'lancedb', 'rich', 'PIL', 'onnx'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "chelsea.png  a cat" in done.stdout


def test_labels_by_quotes_and_colours(colours):
    mmrag.create(".", model="builtin").add("images")
    done = run("classify", "--labels", '"red, the colour", blue', "-k", "2", "--json")
    assert {label for line in done.stdout.splitlines() for label in json.loads(line)["labels"]} == {
        "red, the colour",
        "blue",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labels", "a,b"], "there is no index in"),
        (["images", "--labels", "a"], "at least two labels"),
        (["images"], "there is only 'images'"),
        (["images", "--labels", "nowhere.txt"], "there is no file of labels 'nowhere.txt'"),
        (["images", "--labels", "a,b", "--templates", "x"], "there are no templates 'x'"),
        (["nowhere", "--labels", "a,b"], "there is no file or folder 'nowhere'"),
        (["--labels", "a,b", "--exclude", "*.png"], "--exclude needs the folder"),
        (["images", "--labels", "a,b", "--csv", "nowhere/out.csv"], "No such file or directory"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, arguments, message):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "a.png")
    done = run("classify", *arguments, code=1, cwd=tmp_path)
    assert done.stdout == ""
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_nothing_to_classify(tmp_path):
    done = run("classify", ".", "--labels", "a,b", cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("", "mmrag: there is no picture to classify\n")


def test_ctrl_c_ends_it_at_once(colours):
    for n in range(3000):
        os.link(colours / "red.png", colours / f"red{n}.png")
    command = [sys.executable, "-m", "mmrag", "classify", "images", "--labels", "red,blue", "--templates", "plain"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert len(rest.splitlines()) < 3000
    assert re.fullmatch(r"mmrag: stopped; [\d,]+ pictures are classified, and what was told of them holds\n", told)


def test_ctrl_c_tells_how_far_it_came(colours, monkeypatch):
    import mmrag.zeroshot.files
    from mmrag.cli import classify
    from mmrag.errors import Interrupted

    def interrupted(*arguments, **options):
        yield mmrag.Classification("a.png", ("red",), (1.0,))
        raise KeyboardInterrupt

    monkeypatch.setattr(mmrag.zeroshot.files, "classify", interrupted)
    with pytest.raises(Interrupted, match=r"^stopped; 1 pictures are classified"):
        classify.classify([colours], labels="red,blue", csv_file=colours / "out.csv")
    assert (colours / "out.csv").read_text().splitlines()[1] == "a.png,1,red,1.000000,,"


def test_a_table_that_cannot_be_written_is_told_before_a_model_is_loaded(pictures, monkeypatch):
    monkeypatch.setattr("mmrag.zeroshot.files.load_encoder", None)
    done = CliRunner().invoke(app, ["classify", "images", "--labels", LABELS, "--csv", "no/folder.csv"])
    assert str(done.exception) == "cannot write 'no/folder.csv': No such file or directory"
