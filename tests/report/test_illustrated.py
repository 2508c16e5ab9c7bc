from __future__ import annotations

from html.parser import HTMLParser

import pytest

import mmrag
from mmrag.compose.illustrate import illustrate
from mmrag.report import write_illustrated_page
from mmrag.types import Item
from tests.toy import ToyJudge


class Tags(HTMLParser):
    """Collects the tags of a page with their attributes."""

    def __init__(self):
        super().__init__()
        self.tags = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


@pytest.fixture
def index(colours):
    made = mmrag.create(".", model="toy:1")
    made.add(colours)
    return made


def page_of(index, text, tmp_path):
    done = illustrate(index, text, matcher=ToyJudge())
    size = write_illustrated_page(tmp_path / "page.html", done, home=index.home)
    html = (tmp_path / "page.html").read_text("utf-8")
    assert size == len(html.encode())
    read = Tags()
    read.feed(html)
    return html, read.tags


def test_text_and_pictures_in_their_places(index, tmp_path):
    text = "---\nsecret: 1\n---\n# A title\n\nA red one is [here][x].\n\nThe end.\n\n[x]: https://example.org\n"
    html, tags = page_of(index, text, tmp_path)
    assert "<title>A title – mmrag</title>" in html
    assert "secret" not in html
    assert html.index("A red one is") < html.index("<figure") < html.index("The end.")
    assert '<a href="https://example.org">here</a>' in html
    assert [attrs["src"][:22] for tag, attrs in tags if tag == "img"] == ["data:image/jpeg;base64"]
    assert [attrs["id"] for tag, attrs in tags if tag == "figure"] == [index.search("red")[0].item.id]
    assert "1 of 2 sentences with a picture" in html


def test_nothing_foreign_is_acted_upon(index, tmp_path):
    index.add(Item("images/red.png", text="<script>alert(1)</script>\"'"))
    text = (
        "A red one.\n\n<script>alert(2)</script>\n\n<b onclick=x>b</b> ![pic](https://evil.example/a.png) "
        "[j](javascript:alert(3))\n"
    )
    _, tags = page_of(index, text, tmp_path)
    assert "script" not in {tag for tag, _ in tags}
    assert not [attrs for _, attrs in tags if any(name.startswith("on") for name in attrs)]
    assert all(attrs["src"].startswith("data:") for tag, attrs in tags if tag == "img")
    assert not [attrs for _, attrs in tags if attrs.get("href", "").startswith("javascript")]
