from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest

from mmrag.errors import InputError
from mmrag.sources.text import Block, chunk, read_document
from mmrag.sources.text.sentences import sentences
from tests.sources.text.documents import HTML, MARKDOWN, RST

ENGLISH = (
    'The harbour is old. Dr. Smith, e.g. the one in No. 5, says so! Is it? "Yes." It was built... of wood. '
    "Nobody knows when."
)
GERMAN = "Der Hafen ist alt. Er liegt z. B. an der Nordsee! Wer hat ihn gebaut? „Niemand.“ Österreich war es nicht."
CHINESE = "港口很古老。它在海边！谁建造了它？“没有人。”我们不知道……也许是渔民；也许不是。"
THAI = "ท่าเรือเก่าแก่มาก ไม่มีใครรู้ว่าสร้างเมื่อใด ชาวประมงอาศัยอยู่ที่นี่มาหลายร้อยปีแล้ว"
HINDI = "बंदरगाह पुराना है। किसने बनाया? कोई नहीं जानता।"


class Words:
    """Counts words and Han characters, and two special tokens; remembers how often it was asked, and how much."""

    def __init__(self, *, together=0):
        self.calls, self.characters, self.longest, self._together = 0, 0, 0, together

    def __call__(self, texts):
        self.calls += 1
        self.characters += sum(map(len, texts))
        self.longest = max(self.longest, *map(len, texts))
        pieces = [re.findall(r"[\u3000-\u9fff]|[^\s\u3000-\u9fff]{1,6}", text) for text in texts]
        return [2 + len(some) + self._together * text.count("\n") for some, text in zip(pieces, texts, strict=True)]


def paragraphs(*texts, headings=()):
    return [Block(text, headings, 2 * number + 1, 2 * number + 1) for number, text in enumerate(texts)]


def chunks(blocks, limit=40, **options):
    return chunk(blocks, limit=limit, count_tokens=Words(), **options)


def signs(text):
    return "".join(text.split())


def is_within(blocks, made):
    """Whether all signs of each block are found in the order of the chunks, which may repeat some."""
    place, at = 0, 0
    texts = [signs(one.text) for one in made]
    for part in (signs(unit) for block in blocks for unit in re.findall(r"\S", block.text)):
        while place < len(texts) and (found := texts[place].find(part, at)) < 0:
            place, at = place + 1, 0
        if place == len(texts):
            return False
        at = found + len(part)
    return True


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ENGLISH, ["The harbour is old.", "Dr.", "Smith, e.g. the one in No. 5, says so!", "Is it?", '"Yes."']),
        (GERMAN, ["Der Hafen ist alt.", "Er liegt z.", "B. an der Nordsee!", "Wer hat ihn gebaut?", "„Niemand.“"]),
        (CHINESE, ["港口很古老。", "它在海边！", "谁建造了它？", "“没有人。”", "我们不知道……也许是渔民；也许不是。"]),
        (HINDI, ["बंदरगाह पुराना है।", "किसने बनाया?", "कोई नहीं जानता।"]),
    ],
)
def test_sentences(text, expected):
    made = [text[start:end] for start, end in sentences(text)]
    assert made[: len(expected)] == expected
    assert signs("".join(made)) == signs(text)


def test_neighbours_of_a_section_are_joined_and_headings_divide():
    blocks = [
        Block("Guide", ("Guide",), 1, 1, "heading"),
        Block("One.", ("Guide",), 3, 3),
        Block("Two.", ("Guide",), 5, 6),
        Block("Install", ("Guide", "Install"), 8, 8, "heading"),
        Block("Three.", ("Guide", "Install"), 10, 10),
    ]
    made = [(one.text, one.headings, one.lines) for one in chunks(blocks)]
    assert made == [
        ("Guide\nOne.\nTwo.", ("Guide",), (1, 6)),
        ("Guide › Install\nThree.", ("Guide", "Install"), (8, 10)),
    ]


def test_a_heading_alone_stands_in_the_chunks_below_it_or_in_its_own():
    blocks = [Block(name, path, 1, 1, "heading") for name, path in (("A", ("A",)), ("B", ("A", "B")), ("C", ("C",)))]
    assert [one.text for one in chunks(blocks)] == ["A › B", "C"]


def test_headings_that_are_too_long_stand_in_their_own_section():
    long = "very " * 30 + "long"
    blocks = [
        Block(long, (long,), 1, 1, "heading"),
        Block("Short", (long, "Short"), 2, 2, "heading"),
        Block("Text.", (long, "Short"), 3, 3),
    ]
    made = chunks(blocks, limit=20)
    assert made[-1].text == "Short\nText."
    assert is_within(blocks[:1], made[:-1])


def test_a_heading_that_was_cut_stands_whole_in_its_own_section():
    blocks = [Block("a b c d", ("a b …",), 1, 1, "heading"), Block("Text.", ("a b …",), 2, 2)]
    assert [one.text for one in chunks(blocks)] == ["a b …\na b c d\nText."]


def test_a_paragraph_is_begun_anew_where_half_of_the_chunk_is_used():
    made = chunks(paragraphs("a b c d. E f g h i.", "K l. M n. O p."), limit=14, overlap=0)
    assert [one.text for one in made] == ["a b c d. E f g h i.", "K l. M n. O p."]


def test_the_last_sentences_are_repeated_up_to_the_share():
    text = " ".join(f"Word{number} is here." for number in range(30))
    for share, repeated in ((0, 0), (0.15, 2), (0.3, 4)):
        made = [one.text.split(". ") for one in chunks(paragraphs(text), limit=42, overlap=share)]
        assert len(made) > 2
        for before, after in pairwise(made):
            assert [one.rstrip(".") for one in before[len(before) - repeated :]] == after[:repeated]
            assert after[repeated] not in before


def test_lines_are_those_of_the_file():
    text = "".join(f"Line {number} is\nlong enough. " for number in range(40)).strip()
    for one in chunks([Block(text, (), 11, 51)], limit=30):
        numbers = [int(number) for number in re.findall(r"Line (\d+)", one.text)]
        assert one.lines[0] <= numbers[0] + 11
        assert one.lines[1] == numbers[-1] + 12


def test_code_is_divided_at_its_lines():
    code = "\n".join(f"    call(number_{number})" for number in range(20))
    made = chunks([Block(code, (), 1, 20, "lines")], limit=20, overlap=0)
    assert "\n".join(one.text for one in made) == code
    assert [one.lines[0] for one in made][1:] == [one.lines[1] + 1 for one in made][:-1]


@pytest.mark.parametrize(
    "text", ["没有标点" * 200, "x" * 5000, THAI.replace(" ", "") * 40, "e\u0301" * 900, "👩\u200d🚀" * 400]
)
def test_what_has_no_borders_is_divided_between_signs(text):
    made = chunks(paragraphs(text), overlap=0)
    assert "".join(one.text for one in made) == text
    assert len(made) > 1
    assert all(Words()([one.text])[0] <= 40 for one in made)
    assert not any(one.text[0] in "\u0301\u200d🚀" for one in made)


def test_a_sign_that_is_too_much_by_itself_is_a_chunk():
    made = chunk(paragraphs("狗猫"), limit=3, count_tokens=lambda texts: [2 + 4 * len(text) for text in texts])
    assert [one.text for one in made] == ["狗", "猫"]


def random_blocks(random):
    pieces = [*ENGLISH.split(), *GERMAN.split(), *THAI.split(), CHINESE, "一" * 70, "x" * 300, "a.b", "。", "…", "\n"]
    blocks, path = [], ()
    for number in range(int(random.integers(1, 30))):
        text = " ".join(random.choice(pieces, int(random.integers(1, 60)))).strip()
        kind = random.choice(["heading", "paragraph", "paragraph", "lines"])
        if not text:
            continue
        if kind == "heading":
            text = " ".join(text.split())
            path = (*path[: int(random.integers(0, 3))], text)
        blocks.append(Block(text, path, number + 1, number + 1, str(kind)))
    return blocks


@pytest.mark.parametrize("seed", range(40))
def test_nothing_is_lost_and_no_limit_is_passed(seed):
    random = np.random.default_rng(seed)
    blocks, limit = random_blocks(random), int(random.integers(8, 120))
    count = Words(together=int(random.integers(0, 3)))
    made = chunk(blocks, limit=limit, count_tokens=count, overlap=float(random.choice([0, 0.15, 0.5])))
    assert max(count([one.text for one in made])) <= limit
    for block in blocks:
        own = [one for one in made if one.headings == block.headings]
        below = [one for one in made if one.headings[: len(block.headings)] == block.headings]
        assert is_within([block], below if block.kind == "heading" else own)
    assert count.longest <= 2 * 8 * limit


@pytest.mark.parametrize("document", [(MARKDOWN, ".md"), (RST, ".rst"), (HTML, ".html")])
@pytest.mark.parametrize("limit", [6, 12, 60])
def test_nothing_of_a_document_is_lost(document, limit):
    text, suffix = document
    blocks = read_document(text.encode(), suffix).blocks
    made = chunks(blocks, limit=limit)
    for block in blocks:
        assert is_within([block], [one for one in made if one.headings[: len(block.headings)] == block.headings])


@pytest.mark.parametrize("text", [ENGLISH + " ", CHINESE, "x", "wörter "])
def test_tokens_are_counted_in_a_few_calls_and_linear_in_the_length(text):
    asked = []
    for size in (20_000, 80_000):
        count = Words(together=1)
        chunk(paragraphs(*[text * (size // 10 // len(text))] * 10), limit=64, count_tokens=count)
        assert count.calls < 20
        asked.append(count.characters)
    assert asked[1] < 5 * asked[0]


@pytest.mark.parametrize("options", [{"limit": 0}, {"limit": 9, "overlap": 1}, {"limit": 9, "overlap": -0.1}])
def test_impossible_limits_are_refused(options):
    with pytest.raises(InputError, match="overlap from 0 to below 1"):
        chunk([], count_tokens=Words(), **options)
