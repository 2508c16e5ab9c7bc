from __future__ import annotations

import json

from mmrag.sources.pairs import read_pairs


def test_texts_of_several_keys_are_read_together(tmp_path):
    (tmp_path / "a.png").write_bytes(b"a picture")
    row = {"image": "a.png", "en": ["a dog", "a cat"], "zh": "狗", "x,y": "itself"}
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(row))
    (both,) = read_pairs([path], text_key="en,zh")
    assert both.texts == ("a dog", "a cat", "狗")
    (itself,) = read_pairs([path], text_key="x,y")
    assert itself.texts == ("itself",)
