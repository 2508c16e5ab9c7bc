"""Answers as plain data that JSON can hold: what `--json` prints, and what programs read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmrag.compose.answer import Answer, Evidence, Placement, Source, Span, Step, Support
from mmrag.types import Item


def record(answer: Answer) -> dict[str, Any]:
    """Make plain data of an answer: dicts, lists, str, int, finite float, bool and None, and nothing else.

    A score that is no finite number is None. Spans are ``[start, end]`` in characters, the end not included.

    Returns
    -------
    dict
        question : str
            As it was asked.
        text : str
            The answer, with its citations.
        refused, supported : bool
            As of `Answer`.
        generator, end : str
            As of `Answer`.
        sentences : list of dict
            ``text`` (without citations), ``span`` (in the answer's text, with them), ``citations`` (numbers),
            ``supported`` (None of what claims nothing), and ``supports``, the best first: ``number`` of the source,
            ``kind`` ("match" or "words"), ``probability``, ``span`` in the source's text and the ``quote`` that stands
            there (None of a picture), and ``parts``, the scores by name.
        sources : list of dict
            ``number``, ``id``, ``uri``, ``part``, ``modality``, ``text`` (what the generator was told), ``seen``
            (whether it was shown the picture), ``cited``; and how it was found: ``score``, ``kind`` and
            ``probability``, each None if it is not known.
        images : list of dict
            ``id``, ``uri`` and ``part`` of the pictures that belong to the answer.
        placements : list of dict
            As `record_placement` makes them.
        steps : list of dict
            ``kind``, ``detail`` and ``found``.

    Examples
    --------
    >>> record(Answer("what?", "Nothing.", refused=True))["refused"]
    True
    """
    cited = {source.number for source in answer.citations}
    return {
        "question": answer.question,
        "text": answer.text,
        "refused": answer.refused,
        "supported": answer.supported,
        "generator": answer.generator,
        "end": answer.end,
        "sentences": [_sentence(one, answer.sources) for one in answer.evidence],
        "sources": [{**_source(source), "cited": source.number in cited} for source in answer.sources],
        "images": [_named(item) for item in answer.images],
        "placements": [record_placement(one) for one in answer.placements],
        "steps": [_step(step) for step in answer.steps],
    }


def record_placement(placement: Placement) -> dict[str, Any]:
    """Make plain data of a picture that was set into a text.

    Returns
    -------
    dict
        ``id``, ``uri`` and ``part`` of the picture; ``sentence`` (from 0) and its ``span`` in the text; ``score``,
        ``probability``, ``caption`` and ``parts``.
    """
    return {
        **_named(placement.item),
        "sentence": placement.sentence,
        "span": _span(placement.span),
        "score": _number(placement.score),
        "probability": _number(placement.probability),
        "caption": placement.caption,
        "parts": _parts(dict(placement.parts)),
    }


def _sentence(evidence: Evidence, sources: Sequence[Source]) -> dict[str, Any]:
    texts = {source.number: source.text for source in sources}
    return {
        "text": evidence.sentence,
        "span": _span(evidence.span),
        "citations": list(evidence.citations),
        "supported": evidence.supported,
        "supports": [_support(one, texts.get(one.number, "")) for one in evidence.supports],
    }


def _support(support: Support, text: str) -> dict[str, Any]:
    return {
        "number": support.number,
        "kind": support.kind,
        "probability": _number(support.probability),
        "span": None if support.span is None else _span(support.span),
        "quote": None if support.span is None else text[slice(*support.span)],
        "parts": _parts(dict(support.parts)),
    }


def _source(source: Source) -> dict[str, Any]:
    hit = source.hit
    return {
        "number": source.number,
        **_named(source.item),
        "modality": source.item.modality,
        "text": source.text,
        "seen": source.seen,
        "score": hit and _number(hit.score),
        "kind": hit and hit.kind,
        "probability": hit and _number(hit.parts.get("probability", math.nan)),
    }


def _named(item: Item) -> dict[str, Any]:
    return {"id": item.id, "uri": item.uri, "part": item.part}


def _step(step: Step) -> dict[str, Any]:
    return {"kind": step.kind, "detail": step.detail, "found": step.found}


def _span(span: Span) -> list[int]:
    return [int(place) for place in span]


def _parts(parts: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _number(value) for name, value in parts.items()}


def _number(value: float) -> float | None:
    """Make a plain number of any, such as NumPy's; JSON knows neither infinity nor what is no number."""
    return float(value) if math.isfinite(value) else None
