from __future__ import annotations

import pytest

from mmrag.compose.prose import read_prose

ARTICLE = """---
title: A day out
---
# We went to the sea

A dog *ran* on the beach. It was [very happy](https://example.org/a. b) that
day.

- A child swims.
- Two men
  play ball.

> A bird flies.
> It is grey.

1. Bread. Butter!

```
A cat sleeps in the code.
```

| A table | of cats |
|---|---|
| A cat. | A dog. |

<div>A horse.</div>

![a boat](boat.jpg) A boat sails. The wind blows.

    A cow in an indented block.

[link]: https://example.org
"""


def words(text):
    return [one.text for one in read_prose(text).sentences]


def test_prose_alone_has_sentences():
    assert words(ARTICLE) == [
        "A dog ran on the beach.",
        "It was [very happy](https://example.org/a. b) that day.",
        "A child swims.",
        "Two men play ball.",
        "A bird flies.",
        "It is grey.",
        "Bread.",
        "Butter!",
        "The wind blows.",
    ]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_spans_are_where_the_sentences_stand(newline):
    text = ARTICLE.replace("\n", newline)
    found = read_prose(text)
    assert text[slice(*found.sentences[0].span)] == "A dog *ran* on the beach."
    assert text[slice(*found.sentences[3].span)] == f"Two men{newline}  play ball."
    assert [one.text for one in found.sentences] == words(ARTICLE)


def test_a_picture_stands_behind_the_whole_block():
    found = read_prose(ARTICLE)
    behind = {one.text: ARTICLE[: found.end_of(one.span)].rsplit("\n", 1)[-1] for one in found.sentences}
    assert behind["A dog ran on the beach."] == "day."
    assert behind["A child swims."] == "  play ball."
    assert behind["A bird flies."] == "> It is grey."
    assert behind["The wind blows."].endswith("The wind blows.")


def test_chinese_stops_end_sentences():
    text = "一只狗在海滩上跑。两个孩子在玩!\n\n你好吗？"
    assert words(text) == ["一只狗在海滩上跑。", "两个孩子在玩!", "你好吗？"]


@pytest.mark.parametrize(
    "text", ["", "\n\n", "# Only a heading", "---\na: 1\n---\n", "```\ncode", "1234. 5678!", "\x0c"]
)
def test_what_says_nothing_has_no_sentences(text):
    assert words(text) == []


def test_signs_that_end_lines_for_others_do_not_shift_places():
    text = "A\u2028dog\x0bruns.\n\nA cat\x85sleeps."
    assert [text[slice(*one.span)] for one in read_prose(text).sentences] == ["A\u2028dog\x0bruns.", "A cat\x85sleeps."]


def test_lists_in_lists_without_end_are_read():
    assert words("".join(f"{'  ' * depth}- a\n" for depth in range(200)))
