from __future__ import annotations

import json
import math

import numpy as np

from mmrag.compose.answer import (
    Answer,
    Evidence,
    Placement,
    Source,
    Step,
    Support,
)
from mmrag.compose.record import record
from mmrag.types import Hit, Item

DOG = Item("images/dog.png", id="d", image=b"bytes")
NOTE = Item("trip.md", id="n", modality="text", text="We saw a dog. It ran.", part="0")
ANSWER = Answer(
    "what did we see?",
    "A dog [2][1]. Hello!",
    sources=(
        Source(1, DOG, "", Hit(1, np.float32(0.5), "cosine", DOG, {"probability": 0.75}), seen=True),
        Source(2, NOTE, NOTE.text, Hit(2, -math.inf, "match", NOTE)),
        Source(3, Item("x", id="x", modality="text", text="x"), "x"),
    ),
    evidence=(
        Evidence(
            "A dog.",
            (0, 13),
            (1, 2),
            (
                Support(2, "words", np.float64(0.9), (3, 12), (("cosine", math.nan), ("overlap", 1.0))),
                Support(1, "match", 0.8),
            ),
            supported=True,
        ),
        Evidence("Hello!", (14, 20)),
    ),
    placements=(Placement(DOG, 0, (0, 13), np.float32(2.0), 0.5, "a dog", (("cosine", 0.25),)),),
    steps=(Step("search", "what did we see?", 3),),
    generator="toy",
)


def test_all_of_an_answer_is_in_its_record():
    made = record(ANSWER)
    assert {name: made[name] for name in ("question", "text", "refused", "supported", "generator", "end")} == {
        "question": "what did we see?",
        "text": "A dog [2][1]. Hello!",
        "refused": False,
        "supported": True,
        "generator": "toy",
        "end": "stop",
    }
    first, second = made["sentences"]
    assert (first["text"], first["span"], first["citations"], first["supported"]) == ("A dog.", [0, 13], [1, 2], True)
    assert first["supports"][0] == {
        "number": 2,
        "kind": "words",
        "probability": 0.9,
        "span": [3, 12],
        "quote": "saw a dog",
        "parts": {"cosine": None, "overlap": 1.0},
    }
    assert (first["supports"][1]["span"], first["supports"][1]["quote"]) == (None, None)
    assert (second["supported"], second["supports"]) == (None, [])
    dog, note, other = made["sources"]
    assert (dog["id"], dog["uri"], dog["part"], dog["modality"]) == ("d", "images/dog.png", None, "image")
    assert (dog["score"], dog["kind"], dog["probability"], dog["seen"], dog["cited"]) == (
        0.5,
        "cosine",
        0.75,
        True,
        True,
    )
    assert (note["score"], note["kind"], note["probability"], note["text"]) == (None, "match", None, NOTE.text)
    assert (other["score"], other["kind"], other["probability"], other["cited"]) == (None, None, None, False)
    assert made["images"] == [{"id": "d", "uri": "images/dog.png", "part": None}]
    (placed,) = made["placements"]
    assert (placed["id"], placed["sentence"], placed["span"], placed["score"]) == ("d", 0, [0, 13], 2.0)
    assert (placed["caption"], placed["parts"]) == ("a dog", {"cosine": 0.25})
    assert made["steps"] == [{"kind": "search", "detail": "what did we see?", "found": 3}]


def test_records_come_back_from_json_as_they_were():
    made = record(ANSWER)
    assert json.loads(json.dumps(made, allow_nan=False)) == made
