"""Conversations in files: JSON with questions, answers and the ids of their sources, and nothing that code could be."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmrag import recipe
from mmrag.compose.answer import Answer, Evidence, Source, Step
from mmrag.compose.followup import asked
from mmrag.errors import InputError, RecipeError
from mmrag.report.replace import replacing
from mmrag.types import Item

if TYPE_CHECKING:
    from mmrag.index import Index
    from mmrag.stores.manifest import Manifest

FORMAT = 1
MOST_BYTES = 32 << 20
"""Of a file that is read."""


@dataclass(frozen=True)
class _Source:
    number: int
    id: str
    text: str


@dataclass(frozen=True)
class _Sentence:
    text: str
    span: tuple[int, ...]
    citations: tuple[int, ...]
    supported: bool | None

    def __post_init__(self) -> None:
        """Refuse a place that is none."""
        if len(self.span) != 2:
            raise RecipeError(f"a span is a beginning and an end, not {self.span}")


@dataclass(frozen=True)
class _Turn:
    """A question as it was asked and as it was searched for, and its answer."""

    question: str
    asked: str
    text: str
    generator: str
    refused: bool
    end: Literal["stop", "length", "cancelled"]
    sources: tuple[_Source, ...]
    sentences: tuple[_Sentence, ...]


@dataclass(frozen=True)
class _Conversation:
    """What is in a file.

    Attributes
    ----------
    format : int
        Of the file.
    created : str
        When the index was made that it is about; with the name of its model the index is known by that.
    model : str
        Name and revision of the index's encoder.
    turns : tuple of _Turn
        The oldest first.
    """

    format: int
    created: str
    model: str
    turns: tuple[_Turn, ...]


def write(path: Path, answers: tuple[Answer, ...], manifest: Manifest) -> None:
    """Write a conversation.

    Raises
    ------
    InputError
        If it cannot be written there.
    """
    conversation = {
        "format": FORMAT,
        "created": manifest.created,
        "model": _model(manifest),
        "turns": [_turn(answer) for answer in answers],
    }
    with replacing(path) as file:
        json.dump(conversation, file, indent=1)
        file.write("\n")


def read(path: Path, index: Index) -> tuple[tuple[Answer, ...], tuple[str, ...]]:
    """Read a conversation about an index.

    Returns
    -------
    answers : tuple of Answer
        With those of their sources that are in the index.
    missing : tuple of str
        Ids of the others.

    Raises
    ------
    InputError
        If it cannot be read, is damaged, of another format, or about another index.
    """
    conversation = recipe.build(_Conversation, _checked(path, _parse(path)), where=str(path))
    mine = (index.manifest.created, _model(index.manifest))
    theirs = (conversation.created, conversation.model)
    if mine != theirs:
        raise InputError(
            f"{path} is a conversation about an index made {theirs[0]} with {theirs[1]}, and this one was "
            f"made {mine[0]} with {mine[1]}; name the other with --index, or begin a new conversation"
        )
    ids = dict.fromkeys(source.id for turn in conversation.turns for source in turn.sources)
    items = {id_: item for id_ in ids if (item := _find(index, id_)) is not None}
    answers = tuple(_answer(turn, items) for turn in conversation.turns)
    return answers, tuple(id_ for id_ in ids if id_ not in items)


def _turn(answer: Answer) -> dict[str, Any]:
    return {
        "question": answer.question,
        "asked": asked(answer),
        "text": answer.text,
        "generator": answer.generator if "://" in answer.generator else Path(answer.generator).name,
        "refused": answer.refused,
        "end": answer.end,
        "sources": [{"number": one.number, "id": one.item.id, "text": one.text} for one in answer.sources],
        "sentences": [
            {"text": one.sentence, "span": one.span, "citations": one.citations, "supported": one.supported}
            for one in answer.evidence
        ],
    }


def _answer(turn: _Turn, items: dict[str, Item]) -> Answer:
    sources = tuple(Source(one.number, items[one.id], one.text) for one in turn.sources if one.id in items)
    known = {source.number for source in sources}
    return Answer(
        turn.question,
        turn.text,
        sources=sources,
        evidence=tuple(_evidence(one, known) for one in turn.sentences),
        steps=() if turn.asked == turn.question else (Step("rewrite", turn.asked),),
        generator=turn.generator,
        refused=turn.refused,
        end=turn.end,
    )


def _evidence(one: _Sentence, known: set[int]) -> Evidence:
    start, end = one.span
    return Evidence(one.text, (start, end), tuple(n for n in one.citations if n in known), supported=one.supported)


def _parse(path: Path) -> Any:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"{path} has more than {MOST_BYTES >> 20} MiB; a conversation that was saved is smaller")
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no conversation that was saved: it is not JSON ({error})") from error


def _checked(path: Path, data: Any) -> Any:
    """Refuse what is no conversation, and one of another format, before its keys are looked at."""
    if not isinstance(data, dict) or "format" not in data or "turns" not in data:
        raise InputError(f"{path} is no conversation that was saved; give the FILE of --save")
    if data["format"] != FORMAT:
        raise InputError(
            f"{path} is a conversation of format {data['format']!r}, and this mmrag reads {FORMAT}; "
            "take the mmrag that saved it, or begin a new conversation"
        )
    return data


def _find(index: Index, item_id: str) -> Item | None:
    try:
        return index.get(item_id)
    except InputError:
        return None


def _model(manifest: Manifest) -> str:
    return f"{manifest.identity.name} {manifest.identity.revision}"
