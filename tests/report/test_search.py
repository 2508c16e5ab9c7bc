from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

import mmrag
from mmrag.errors import InputError, Interrupted
from mmrag.report import write_search_page
from mmrag.report.replace import replacing
from mmrag.report.thumbnails import MOST_BYTES, SIDE, thumbnails
from mmrag.types import Hit, Item, Query
from tests.cli.test_cli import run

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")

NASTY = """<script>alert(1)</script> "quoted" 'so' & &lt;b&gt; <img src=x onerror=alert(2)> --> ]]> \x1b[31m\u202e"""
VOID = {"meta", "img"}


class Page(HTMLParser):
    """Reads a page, and fails where a tag is not closed in its turn."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.words = [], [], {}
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in set(self.open):
            self.words[tag] = self.words.get(tag, "") + data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def written(query, hits, home) -> tuple[str, Page]:
    size = write_search_page(home / "out.html", query, hits, home=home)
    html = (home / "out.html").read_text(encoding="utf-8")
    assert size == len(html.encode())
    return html, Page(html)


@pytest.fixture
def hits(tmp_path):
    Image.new("RGB", (1200, 600), "red").save(tmp_path / "red.png")
    Image.new("RGB", (30, 60), "blue").save(tmp_path / "blue.png")
    (tmp_path / "bad.png").write_bytes(b"hello")
    return [
        Hit(1, 3.25, "match", Item(uri="red.png"), {"logit": 3.0, "cosine": 0.25}, ("copies/red.png",)),
        Hit(2, 0.5, "match", Item(uri="blue.png", text="a caption")),
        Hit(3, 0.25, "match", Item(uri="gone.png")),
        Hit(4, 0.1, "match", Item(uri="bad.png")),
        Hit(5, -0.5, "match", Item(uri="notes#1", modality="text", text="words " * 300)),
    ]


def test_everything_of_a_hit_is_in_the_page(hits, tmp_path):
    html, page = written(Query(text="a red thing"), hits, tmp_path)
    assert html.startswith("<!DOCTYPE html>\n<html lang=")
    assert page.words["h1"] == "a red thing"
    assert page.words["title"] == "a red thing – mmrag"
    assert "5 hits by match" in page.words["header"]
    shown = page.words["ol"]
    for words in (
        "match 3.250",
        "logit3.000",
        "cosine0.250",
        "copies/red.png",
        "a caption",
        "gone.png",
        "match -0.500",
    ):
        assert words in shown
    assert "not on this disk" in shown
    assert "not a picture in a format that can be read" in shown
    assert len(page.words["blockquote"]) < 700
    links = [unquote(link["href"]) for link in page.all("a")]
    assert links == [f"file://{tmp_path}/{name}" for name in ("red.png", "blue.png", "bad.png")]
    assert [float(bar["width"]) for bar in page.all("rect")] == [100.0, 26.7, 20.0, 16.0, 0.0]


def test_thumbnails_are_the_pictures_and_small(hits, tmp_path):
    _, page = written(Query(image=tmp_path / "blue.png"), hits, tmp_path)
    query, red, blue = page.all("img")
    for picture, size, colour in ((query, (30, 60), 2), (red, (SIDE, SIDE // 2), 0), (blue, (30, 60), 2)):
        kind, _, data = picture["src"].partition(",")
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert image.size == size == (int(picture["width"]), int(picture["height"]))
            assert np.asarray(image).reshape(-1, 3).mean(axis=0).argmax() == colour
            assert not image.getexif()
    assert page.words["h1"] == "blue.png"
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (900, 900, 3), dtype=np.uint8))
    (small,) = thumbnails([noise])
    assert len(base64.b64decode(small.uri.partition(",")[2])) <= MOST_BYTES


def test_nothing_foreign_runs_and_nobody_is_asked(tmp_path):
    item = Item(uri=f"{NASTY}/x.png", text=NASTY)
    hits = [
        Hit(1, 0.5, NASTY, item, {NASTY: 0.1}, (NASTY,)),
        Hit(2, 0.4, "cosine", Item(uri="t", modality="text", text=NASTY)),
    ]
    html, page = written(Query(text=NASTY), hits, tmp_path)
    assert not re.search(r"https?:|//[a-z]|url\(|@import|javascript:", re.sub(r"file://", "", html))
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "img", "iframe", "link", "object", "embed", "form", "base"}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on") or name == "style"]
    assert page.words["h1"] == NASTY.replace("\x1b", r"\x1b").replace("\u202e", r"\u202e")
    (policy,) = [one["content"] for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(page.words["style"].encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def test_nothing_found(tmp_path):
    _, page = written(Query(text="x"), [], tmp_path)
    assert "nothing found" in page.words["header"]


def test_many_hits_do_not_make_an_endless_page(tmp_path, monkeypatch):
    monkeypatch.setattr("mmrag.report.parts.MOST_PICTURES", 2)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    hits = [Hit(n, 0.5, "cosine", Item(uri="a.png")) for n in range(1, 5)]
    _, page = written(Query(text="x"), hits, tmp_path)
    assert len(page.all("img")) == 2
    assert page.words["ol"].count("only the first 2 pictures are in this page") == 2


def test_a_page_is_replaced_whole_or_not_at_all(hits, tmp_path, monkeypatch):
    page = tmp_path / "out.html"
    page.write_text("before")
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(InputError, match=r"cannot write '.*out\.html': No space left"):
            write_search_page(page, Query(text="x"), hits, home=tmp_path)
    assert page.read_text() == "before"
    assert not list(tmp_path.glob(".*.tmp"))
    for wrong in (tmp_path, tmp_path / "none" / "out.html"):
        with pytest.raises(InputError, match="cannot write"):
            write_search_page(wrong, Query(text="x"), hits, home=tmp_path)


def test_the_command(colours, tmp_path):
    mmrag.create(".", model="builtin").add("images")
    done = run("search", "red", "--all", "-k", "3", "--html", "out.html")
    assert len(done.stdout.splitlines()) == 3
    assert re.fullmatch(r"3 hits → out\.html, 0\.0 MB\n", done.stderr)
    assert len(Page(Path("out.html").read_text(encoding="utf-8")).all("img")) == 3
    assert "cannot write 'nowhere/x.html'" in run("search", "red", "--html", "nowhere/x.html", code=1).stderr


@pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome in the path")
@pytest.mark.parametrize(("scheme", "bright"), [("1", True), ("0", False)], ids=["light", "dark"])
def test_a_browser_shows_it(hits, tmp_path, scheme, bright):
    hits.append(Hit(6, 0.0, "match", Item(uri=NASTY, text=NASTY)))
    write_search_page(tmp_path / "out.html", Query(text=NASTY), hits, home=tmp_path)
    shot = tmp_path / "shot.png"
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
    options += [f"--user-data-dir={tmp_path}/profile", f"--blink-settings=preferredColorScheme={scheme}"]
    done = subprocess.run(
        [BROWSER, *options, "--window-size=900,900", f"--screenshot={shot}", (tmp_path / "out.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert shot.exists(), done.stderr
    assert "Content Security Policy" not in done.stderr
    assert "CONSOLE" not in done.stderr
    with Image.open(shot) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert (pixels[2, 2] > 200).all() == bright  # the ground
    for colour in ((254, 0, 0), (0, 0, 254)):
        assert (np.abs(pixels - colour).max(axis=-1) < 8).sum() > 5000


def test_kinds_of_scores_are_counted_and_bars_compare_one_kind(tmp_path):
    items = [mmrag.Item(uri=f"{n}", modality="text", text="x") for n in range(4)]
    scores = [(8.0, "match"), (2.0, "match"), (0.9, "cosine"), (0.5, "cosine")]
    hits = [Hit(n + 1, score, kind, items[n]) for n, (score, kind) in enumerate(scores)]
    write_search_page(tmp_path / "out.html", Query(text="x"), hits, home=tmp_path)
    page = (tmp_path / "out.html").read_text()
    assert "4 hits: 2 by match, 2 by cosine, in" in page
    assert re.findall(r'<rect width="([^"]+)"', page) == ["100.0", "25.0"]


def test_what_is_no_regular_file_is_written_in_place(tmp_path):
    pipe, link, target = tmp_path / "pipe", tmp_path / "link", tmp_path / "target"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with replacing(pipe) as file:
        file.write("page")
    assert os.read(reader, 9) == b"page"
    os.close(reader)
    link.symlink_to(target)
    with replacing(link) as file:
        file.write("page")
    assert link.is_symlink()
    assert target.read_text() == "page"
    assert sorted(tmp_path.iterdir()) == [link, pipe, target]


@pytest.mark.parametrize(("error", "left"), [(ValueError, "old"), (KeyboardInterrupt, "old"), (Interrupted, "new")])
def test_a_file_is_replaced_whole_or_by_what_was_done_at_ctrl_c(tmp_path, error, left):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def stopped():
        with replacing(path) as file:
            file.write("new")
            assert path.read_text() == "old"
            raise error

    with pytest.raises(error):
        stopped()
    assert path.read_text() == left
    assert list(tmp_path.iterdir()) == [path]
