from __future__ import annotations

import codecs
import itertools

import numpy as np
import pytest

from mmrag.errors import InputError, ItemError, TooLargeError
from mmrag.sources.text import MAX_DOCUMENT_BYTES, read_document
from tests.sources.text.documents import HTML, MARKDOWN, RST


def read(text, suffix):
    return read_document(text.encode(), suffix)


def said(document):
    return [(block.text, block.headings, block.first_line, block.last_line) for block in document.blocks]


def test_plain_text_is_divided_at_blank_lines():
    assert said(read("One\ntwo.\n \n\nThree.", ".txt")) == [("One\ntwo.", (), 1, 2), ("Three.", (), 5, 5)]


def test_markdown():
    document = read(MARKDOWN, ".md")
    assert document.title == "The harbour guide"
    assert document.facts == {"date": "2023-06-01", "tags": ["boats", "sea"]}
    boats, mooring, weather = ("Boats",), ("Boats", "Mooring"), ("Boats", "Weather")
    text = "We have three boats and two_of **them** are small.\nThey sail & row."
    assert said(document) == [
        ("Boats", boats, 7, 7),
        (text, boats, 9, 10),
        ("Mooring", mooring, 12, 12),
        ("Take the rope.", mooring, 14, 14),
        ("Tie it\ntwice.", mooring, 15, 16),
        ("Never tie it once,\nsaid the old man.", mooring, 18, 19),
        ("boat | length\nAnna | 7 m\nBerta | 12 m", mooring, 21, 24),
        ("def moor(boat):\n    return boat.rope  # not *emphasis*", mooring, 27, 28),
        ("Weather", weather, 31, 32),
        ("Look up first. a grey sky", weather, 34, 34),
        ("Wind", (*weather, "Wind"), 36, 36),
        ("Tides", ("Boats", "Tides"), 38, 38),
    ]


def test_without_front_matter_the_first_heading_is_the_title():
    assert read("intro\n\n# Real *title*\n\ntext", ".markdown").title == "Real title"


@pytest.mark.parametrize(
    "front",
    ["- a\n- b", "a: [", "date: 2023-99-99", "just words", "a: !!timestamp x", "a: !!bool x", 'a: !!int ""'],
)
def test_what_is_no_front_matter_stays_text(front):
    document = read(f"---\n{front}\n---\n\nText.", ".md")
    assert not document.facts
    assert front.splitlines()[-1].lstrip("- ") in " ".join(block.text for block in document.blocks)


def test_front_matter_gives_only_what_can_be_stored():
    number = "0x" + "f" * 4000  # Python refuses to write it out
    document = read(f'---\ntitle: "\\ud800"\n"\\udfff": ["\\ud800"]\nn: {number}\nx: .nan\ny: 7\n---\nText.', ".md")
    assert (document.title, document.facts) == ("?", {"?": ["?"], "y": 7})


def test_front_matter_that_grows_without_end_is_not_followed():
    names = "abcdefghijklmnopqrstuvwxyz"
    grown = "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise(names))
    document = read(f"---\na: &a [1]\n{grown}---\nText.", ".md")
    assert document.facts["a"] == [1]
    assert document.facts["z"] == []


def test_html_within_markdown():
    document = read('# A\n\n<div align="center">\n<b>Logo</b>\n</div>\n\n<!-- no -->\n\nEnd <br> of it', ".md")
    assert said(document)[1:] == [("Logo", ("A",), 4, 4), ("End  of it", ("A",), 9, 9)]


def test_what_is_nested_too_deeply_for_the_parser_is_not_lost():
    document = read("> " * 100 + "deep > inside\n\nafter", ".md")
    assert [block.text for block in document.blocks] == ["deep > inside", "after"]


def test_restructured_text():
    engine, starting = ("Engine",), ("Engine", "Starting")
    assert said(read(RST, ".rst")) == [
        ("Engine", engine, 2, 4),
        ("A small engine, see the manual  and its page (https://example.org).", engine, 6, 6),
        ("Starting", starting, 8, 9),
        ("Turn the key::", starting, 11, 11),
        ("    key.turn()", starting, 13, 13),
        (".. note:: It is loud.", starting, 15, 15),
        ("Stopping", (*starting, "Stopping"), 17, 18),
        ("Turn it back.", (*starting, "Stopping"), 19, 19),
        ("Mending", ("Engine", "Mending"), 21, 22),
        ("Ask someone.", ("Engine", "Mending"), 24, 24),
    ]


def test_html_gives_its_main_text():
    document = read(HTML, ".html")
    assert document.title == "Lighthouse — Coast"
    top, keepers = ("The lighthouse",), ("The lighthouse", "Keepers")
    assert said(document) == [
        ("The lighthouse", top, 8, 8),
        ("It was built in 1887,\nand it is 30 m high & white.", top, 9, 10),
        ("Keepers", keepers, 13, 13),
        ("Ada", keepers, 14, 14),
        ("Ben the younger", keepers, 14, 14),
        ("Year | Keeper\n1887 | Ada", keepers, 15, 16),
        ("  light.on()", keepers, 18, 18),
        ("Seen from the sea", keepers, 21, 21),
    ]


def test_html_without_main_leaves_out_what_is_around_the_text():
    page = (
        "<header>Head</header><p>Story <a href=x>told</a> here</p><div><a>One</a> <a>Two</a></div><footer>Foot</footer>"
    )
    assert [block.text for block in read(page, ".htm").blocks] == ["Story told here"]


def test_html_of_links_only_is_better_than_nothing():
    assert [block.text for block in read("<ul><li><a>One</a><li><a>Two</a></ul>", ".html").blocks] == ["One", "Two"]


def test_the_header_of_an_article_belongs_to_it():
    page = "<header>Site</header><article><header><h1>Story</h1></header><p>Text</p></article>"
    assert [block.text for block in read(page, ".xhtml").blocks] == ["Story", "Text"]


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [("utf-8", codecs.BOM_UTF8), ("utf-16-le", codecs.BOM_UTF16_LE), ("utf-32-be", codecs.BOM_UTF32_BE)],
)
def test_byte_order_marks(encoding, mark):
    document = read_document(mark + "Größe 狗".encode(encoding), ".txt")
    assert document.blocks[0].text == "Größe 狗"
    assert not document.guessed


@pytest.mark.parametrize("charset", ["gb2312", "shift_jis", "iso-2022-jp", "windows-1252"])
def test_html_in_the_charset_that_it_declares(charset):
    text = "Größe" if charset == "windows-1252" else "日本"
    page = f'<meta http-equiv=content-type content="text/html; charset={charset}"><p>{text}'
    document = read_document(page.encode(charset), ".html")
    assert document.blocks[0].text == text
    assert not document.guessed


@pytest.mark.parametrize("charset", ["rot13", "unicode_escape", "no-such", "utf-8"])
def test_a_charset_that_is_none_is_not_believed(charset):
    document = read_document(f"<meta charset={charset}><p>".encode() + "Größe".encode("cp1252"), ".html")
    assert document.blocks[0].text == "Größe"
    assert document.guessed == "cp1252"


def test_lines_may_end_in_any_way():
    assert said(read("a\r\n\r\nb\r\rc", ".txt")) == [("a", (), 1, 1), ("b", (), 3, 3), ("c", (), 5, 5)]


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n\x00\x00\x00", "Größe".encode("utf-16-le"), b"text\x00"])
def test_binary_content_is_refused(data):
    with pytest.raises(ItemError, match="not a text"):
        read_document(data, ".txt")


@pytest.mark.parametrize("suffix", [".txt", ".md", ".rst", ".html"])
def test_nothing_to_read_is_said(suffix):
    with pytest.raises(ItemError, match="no text in it"):
        read_document(b" \n\t\n", suffix)


def test_too_large_a_text_is_refused_before_it_is_read():
    with pytest.raises(TooLargeError, match="33,554,432 bytes"):
        read_document(b"<" * (MAX_DOCUMENT_BYTES + 1), ".html")


def test_an_unknown_suffix_names_those_that_are_known():
    with pytest.raises(InputError, match=r"\.markdown, \.md"):
        read_document(b"text", ".pdf")


def test_headings_around_the_main_text_are_not_above_it():
    page = "<header><h1>Site</h1></header><p>One</p><aside><h2>Ads</h2></aside><h2>Two</h2><p>Three</p>"
    assert said(read(page, ".html")) == [("One", (), 1, 1), ("Two", ("Two",), 1, 1), ("Three", ("Two",), 1, 1)]


def test_an_empty_script_ends_where_it_begins():
    assert [block.text for block in read("<script src='a.js'/><p>Text</p>", ".xhtml").blocks] == ["Text"]


@pytest.mark.parametrize("page", ["# {}\n\ntext", "<h1>{}</h1><p>text"])
def test_very_long_headings_are_cut_where_others_stand_below_them(page):
    long = "word " * 1000 + "end"
    heading, text = read(page.format(long), ".md" if page[0] == "#" else ".html").blocks
    assert heading.text == long
    assert heading.headings == text.headings == (("word " * 40).rstrip() + " …",)


HOSTILE = {
    ".html": [
        *("<", "<!--", "<a ", "<![", "</", "<?", '<a x="', "<a x='\">", "&", "&#x1", "<script>", "<div>", "</b>"),
        *("<li>a", "<a>", "<h1>a", "<table>", "<td>a\n", "<pre>a", "<p hidden>a", "<title>", "<a <b x='", "<div></p>"),
    ],
    ".md": [
        "> ",
        "- ",
        "* a\n",
        "[",
        "[a](",
        "![",
        "`",
        "``a`",
        "*a ",
        "**a",
        "_a",
        "<a",
        "<a ",
        "a|b\n-|-\n",
        "#",
        "\\",
    ],
    ".rst": ["=\n", "a\n=\n", "`", "`a <", ":a:`", "*a ", "``a", "==\na\n", "::\n"],
    ".txt": [" ", "\n", ". ", "a\n\n", "."],
}


@pytest.mark.parametrize(("suffix", "piece"), [(suffix, piece) for suffix, some in HOSTILE.items() for piece in some])
def test_hostile_documents_end(suffix, piece):
    for end in ("", ">"):
        text = "start\n\n" + piece * (30_000 // len(piece)) + end
        document = read(text, suffix)
        assert document.blocks[0].text.startswith("start")


@pytest.mark.parametrize("suffix", [".html", ".md", ".rst", ".txt"])
def test_random_markup_is_read_without_an_error(suffix):
    random = np.random.default_rng(7)
    pieces = [piece for some in HOSTILE.values() for piece in some] + [
        "word ",
        "狗",
        "\n\n",
        "</a>",
        "-->",
        '"',
        "---\n",
    ]
    for _ in range(200):
        text = "".join(random.choice(pieces, 60)) + "\n\nlast"
        blocks = read("<p>first</p>\n\n" + text, suffix).blocks
        assert all(block.text.strip() for block in blocks)
        numbers = [(block.first_line, block.last_line) for block in blocks]
        assert all(1 <= first <= last <= text.count("\n") + 3 for first, last in numbers)
        assert numbers == sorted(numbers)
