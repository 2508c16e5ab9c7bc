from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

import mmrag
from mmrag.version import __version__

COMMANDS = [
    *(
        "index",
        "search",
        "classify",
        "remove",
        "info",
        "reindex",
        "restore",
        "check",
        "compact",
        "eval",
        "train",
        "models",
        "demo",
    ),
]


def run(*arguments, code=0, **options):
    """Run the real command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "mmrag", *arguments], capture_output=True, text=True, timeout=120, **options
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, photographs):
    """An index of real photographs, made with the built-in model by the command."""
    home = tmp_path_factory.mktemp("corpus")
    done = run("index", str(photographs), cwd=home)
    assert done.stdout == "6 added · 0 updated · 0 moved · 0 removed · 0 unchanged · 0 failed\n"
    return home


def test_search_in_words(corpus):
    lines = run("search", "a cup of coffee", "-k", "2", cwd=corpus).stdout.splitlines()
    assert len(lines) == 2
    rank, kind, score, *_, path = lines[0].split()
    assert (rank, kind) == ("1", "cosine")
    assert path.endswith("coffee.png")
    assert 0.1 < float(score) < 1


def test_search_by_picture_in_json(corpus, photographs):
    done = run("search", "--image", str(photographs / "rocket.jpg"), "--k", "3", "--json", cwd=corpus)
    first, *others = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(others) == 2
    assert first["path"] == str(photographs / "rocket.jpg")
    assert first["score"] == pytest.approx(1, abs=1e-4)
    assert first["kind"] == "cosine"
    assert set(first) == {
        *("rank", "score", "kind", "uri", "id", "part", "modality", "text", "words", "origins", "metadata", "parts"),
        *("duplicates", "near_duplicates", "matched", "path"),
    }


def test_search_gives_paths_for_pipes(corpus, photographs):
    done = run("search", "a cat", "--paths", "-k", "1", cwd=corpus)
    assert done.stdout == f"{photographs / 'chelsea.png'}\n"


def test_index_option_and_environment(corpus, tmp_path):
    assert run("search", "a cat", "--index", str(corpus), cwd=tmp_path).stdout
    environment = {**os.environ, "MMRAG_INDEX": str(corpus)}
    assert run("search", "a cat", cwd=tmp_path, env=environment).stdout


@pytest.mark.parametrize(
    ("arguments", "spared"),
    [([], ["pyarrow.compute"]), (["--where", "uri like '%chelsea%'", "--only", "images"], ["PIL"])],
    ids=["plain", "filtered"],
)
def test_cold_search_is_light(corpus, arguments, spared):
    code = (
        f"import sys; sys.argv = ['mmrag', 'search', 'a cat', *{arguments}];"
        "from mmrag.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"absent = {{'torch', 'transformers', 'lancedb', 'pandas', 'rich', 'PIL', 'onnx', *{spared}}}\n"
        "heavy = absent & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=corpus, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "chelsea.png" in done.stdout


def test_help_is_light():
    code = (
        "import sys, mmrag.cli.main; assert not {'numpy', 'onnxruntime', 'rich', 'lancedb', 'PIL'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    help_text = run(command, "--help").stdout
    assert f"Example:  mmrag {command}" in help_text


def test_help_of_search_is_in_sections():
    help_text = run("search", "--help").stdout
    sections = [line[:-1] for line in help_text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert sections == ["What to look for", "Filters (all must pass)", "How to search", "What to print", "Options"]
    assert help_text.index("Filters") < help_text.index("--where") < help_text.index("How to search")


def test_version():
    assert run("--version").stdout == f"mmrag {__version__}\n"


def test_index_info_and_remove(colours):
    (colours / "bad.jpg").write_bytes(b"hello")
    done = run("index", "images", "--exclude", "black*", "--json")
    report = json.loads(done.stdout)
    assert (report["added"], [failure["uri"] for failure in report["failed"]]) == (5, ["images/bad.jpg"])
    assert run("index").stdout.endswith("5 unchanged · 1 failed\n")
    facts = json.loads(run("info", "--json").stdout)
    assert (facts["items"], facts["failed"], facts["model"]) == (5, 1, "builtin")
    assert facts["bytes"] > 10_000
    assert "5 pictures, 0 texts, 1 failed" in run("info").stdout
    assert run("info", "--failed").stdout == "failed  images/bad.jpg: not a picture in a format that can be read\n"
    assert run("remove", "images/red.png", "images/blue.png").stdout == "2 removed\n"
    assert len(mmrag.open(".")) == 3


def test_versions_and_restore(colours):
    run("index", "images")
    run("remove", "images/red.png")
    newest, first = [json.loads(line) for line in run("info", "--versions", "--json").stdout.splitlines()]
    assert (newest["items"], newest["newest"], first["items"], first["newest"]) == (5, True, 6, False)
    assert set(first) == {"number", "created", "items", "failed", "newest"}
    lines = run("info", "--versions").stdout.splitlines()
    assert lines[0].split()[0] == str(newest["number"])
    assert lines[0].endswith("  5 items  (newest)")
    assert lines[1].endswith("  6 items")
    assert "the last 10 are kept" in run("info").stdout
    refused = run("restore", "77", code=1).stderr
    assert refused == f"mmrag: there is no version 77 to go back to; there are: {first['number']}, {newest['number']}\n"
    done = run("restore", str(first["number"]))
    assert done.stdout == f"version {first['number']} is back: 6 items\n"
    assert "The next `mmrag index` brings the index up to date with the folders again." in done.stderr
    assert json.loads(run("restore", str(newest["number"]), "--json").stdout)["items"] == 5


def test_check(colours):
    run("index", "images")
    assert run("check").stdout == "6 items and 0 failures: all is well\n"
    index = mmrag.open(".")
    (index.folder / "views" / "exact" / "view.json").write_text("hello")
    (line,) = run("search", "red", code=1).stderr.splitlines()
    assert line.endswith("mmrag check mends it")
    mended, well = run("check").stdout.splitlines()
    assert mended.startswith("mended  made the view again from the table")
    assert well == "6 items and 0 failures: all is well"
    for data in (index.folder / "table" / "items.lance" / "data").iterdir():
        data.write_bytes(b"hello")
    done = run("check", code=1)
    assert (done.stdout, done.stderr.startswith("wrong   the table in ")) == ("", True)
    assert json.loads(run("check", "--json", code=1).stdout)["wrong"]


def test_failed_files_are_one_line_each_on_stderr(colours):
    for n in range(12):
        (colours / f"bad{n:02}.jpg").write_bytes(b"hello")
    done = run("index", "images")
    lines = done.stderr.splitlines()
    assert lines[0] == "failed  images/bad00.jpg: not a picture in a format that can be read"
    assert len(lines) == 11
    assert "2 more; mmrag info --failed" in lines[-1]
    assert done.stdout.endswith("12 failed\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "a dog"], "there is no index in"),
        (["search", ""], "the query is empty"),
        (["search"], "say what to look for"),
        (["info"], "there is no index in"),
        (["index"], "there is no index in"),
        (["index", "nowhere"], "there is no file or folder 'nowhere'; nothing was changed"),
        (["index", ".", "--model", "clip"], "there is no model 'clip'"),
        (["index", ".", "--model", "./nowhere"], "there is no model folder"),
        (["index", ".", "--recipe", "fast"], "there is no recipe 'fast'"),
        (["eval", "nowhere.tar"], "there is no file 'nowhere.tar'"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, arguments, message):
    done = run(*arguments, code=1, cwd=tmp_path)
    assert done.stdout == ""
    assert done.stderr.startswith("mmrag: ")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_wrong_usage_exits_with_2(tmp_path):
    assert "No such option" in run("search", "--colour", "red", code=2, cwd=tmp_path).stderr


def test_nothing_found_says_why(colours, tmp_path):
    (tmp_path / "empty").mkdir()
    run("index", str(tmp_path / "empty"))
    done = run("search", "a dog")
    assert (done.stdout, done.stderr) == ("", "mmrag: the index is empty; add pictures: mmrag index FOLDER\n")
    run("index", "images")
    assert "lower --min-score" in run("search", "a dog", "--min-score", "0.99").stderr
    assert len(run("search", "a dog", "--all", "-k", "1000").stdout.splitlines()) == 6


def test_names_cannot_command_the_terminal(colours):
    Image.new("RGB", (8, 8), "orange").save(colours / "a\x1b[31m\nb.png")
    run("index", "images")
    shown = run("search", "orange", "--all", "-k", "20").stdout
    assert "\x1b" not in shown
    assert r"a\x1b[31m\nb.png" in shown


def test_eval(tmp_path, photographs):
    words = {"chelsea.png": "a cat", "coffee.png": "a cup of coffee", "rocket.jpg": "a rocket launch"}
    path = tmp_path / "p.jsonl"
    path.write_text(
        "".join(json.dumps({"image": str(photographs / name), "text": text}) + "\n" for name, text in words.items())
    )
    report = json.loads(run("eval", str(path), "--model", "builtin", "--json").stdout)
    assert report["text_to_image"]["R@1"] == 100
    assert (report["n_images"], report["n_texts"], report["model"]) == (3, 3, "builtin")
    assert "R@1 100.0 %" in run("eval", str(path)).stdout


def test_demo(tmp_path):
    done = run("demo", "--out", str(tmp_path / "demo"))
    assert done.stdout.count("$ mmrag search") == 6
    assert "“Our cat Chelsea sleeps on the blue sofa all day.” [1]\n\n[1] " in done.stdout
    assert "notes/day.md:1-7  A day in town — A red motorcycle" in done.stdout
    assert "Nothing in this corpus is likely to answer this." in done.stdout
    assert done.stdout.count("](pictures/motorcycle_") == done.stdout.count("](pictures/") == 1
    assert "All found" in done.stdout


def test_demo_fails_when_the_right_picture_is_not_first(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    import mmrag.demo
    from mmrag.cli.main import app
    from mmrag.errors import MmragError

    monkeypatch.setitem(mmrag.demo.EXPECTED, "a cat", ("coffee.png",))
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "demo")])
    assert isinstance(result.exception, MmragError)
    assert str(result.exception) == 'the right picture was not first for: "a cat"'


def test_demo_fails_when_an_answer_is_wrong(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    import mmrag.demo
    from mmrag.cli.main import app
    from mmrag.errors import MmragError

    monkeypatch.setitem(mmrag.demo.QUESTIONS, "Who won the election?", "nobody")
    monkeypatch.setattr(mmrag.demo, "BELONGING", ("coffee.png",))
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "demo")])
    assert isinstance(result.exception, MmragError)
    told = "not answered as the note says: Who won the election?, the picture that belongs into it"
    assert str(result.exception) == told


def test_the_index_option_does_not_climb(corpus, tmp_path):
    inside = corpus / "inside"
    inside.mkdir()
    assert run("search", "a cat", cwd=inside).stdout
    for command in (["search", "a cat"], ["remove", "x"], ["info"]):
        assert "no index in" in run(*command, "--index", str(inside), code=1, cwd=corpus).stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["index", "x" * 300],
        ["index", ".", "--index", "x" * 300],
        ["search", "dog", "--index", "x" * 300],
        ["search", "\udcff"],
        ["search", "--image", "/dev/zero"],
        ["index", "--exclude", "a"],
    ],
)
def test_odd_arguments_are_told_in_one_line(tmp_path, colours, arguments):
    mmrag.create(".", model="builtin")
    assert len(run(*arguments, code=1).stderr.splitlines()) == 1


def test_a_full_disk_behind_stdout(corpus):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "mmrag", "info"], cwd=corpus, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
