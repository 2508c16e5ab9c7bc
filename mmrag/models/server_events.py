"""What an OpenAI-compatible server streams: bytes → events → pieces."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Iterator
from threading import Event
from typing import Any

from mmrag.errors import GenerationError
from mmrag.models.chatting import only_thoughts
from mmrag.roles import Piece

LONGEST_LINE = 1 << 20
"""Bytes: no event of a few tokens is that long."""

MOST_EVENTS_PER_TOKEN = 8
"""A server that sends more than this for each token that it may write knows no end; it is left."""

_LOOK = "look whether this is an OpenAI-compatible server, and whether its address is whole: it often ends in /v1"

_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")

_NO_ANSWER = {
    "content_filter": "holds the rest of the answer back (content_filter); ask in other words, or another model",
    "tool_calls": "asks for a tool, and was offered none; take a model that answers in words",
    "function_call": "asks for a tool, and was offered none; take a model that answers in words",
}
"""Why there is no answer in words, by how the server says that it ended."""


async def read_events(parts: AsyncIterator[bytes], host: str) -> AsyncIterator[Any]:
    """Read server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html.

    The openai client reads them too, but a line without an end fills its memory.

    Parameters
    ----------
    parts : async iterator of bytes
        As they come; a line may be in several.
    host : str
        Who sends them; named in errors.

    Yields
    ------
    JSON data of each event, up to "[DONE]".

    Raises
    ------
    GenerationError
        If this is something else, breaks off, or a line has no end.
    """
    rest = b""
    async for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        if len(rest) > LONGEST_LINE:
            raise GenerationError(f"{host} sends a line without an end; {_LOOK}")
        for line in lines:
            data = _data(line.strip(), host)
            if data == b"[DONE]":
                return
            if data:
                yield _parsed(data, host)
    if rest:  # such as a page that is no stream of events
        _data(rest.strip(), host)
    raise GenerationError(f"{host} broke off in the middle of its answer; look whether it still runs, and ask again")


def _data(line: bytes, host: str) -> bytes:
    """Give the data of a line; empty where it has none."""
    if line and not line.startswith(_FIELDS):
        raise GenerationError(f"{host} does not answer with a stream of events, but with {in_brief(line)}; {_LOOK}")
    return line[5:].strip() if line.startswith(b"data:") else b""


def _parsed(data: bytes, host: str) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise GenerationError(f"{host} sends an event that is not JSON, but {in_brief(data)}; {_LOOK}") from error


def in_brief(words: bytes | str) -> str:
    """Give the beginning of what somebody else wrote, as one line that is safe in a terminal."""
    text = words.decode("utf-8", errors="replace") if isinstance(words, bytes) else words
    if text.lstrip()[:9].lower().startswith(("<!doctype", "<html")):
        return "a web page"
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text[:2000]).split())
    return repr(line if len(line) <= 200 else line[:200] + "…")


def told(error: Any) -> str:
    """Give the words of an error as such servers tell it: an object with a message, or anything else."""
    words = error.get("message") if isinstance(error, dict) else error
    return words if isinstance(words, str) else json.dumps(error)


def read_pieces(events: Iterable[Any], host: str, max_tokens: int, cancel: Event | None) -> Iterator[Piece]:
    """Make pieces of the events of one answer.

    What a model thinks, which servers tell as ``reasoning_content`` or ``reasoning``, is dropped; calls of tools are
    never followed.

    Raises
    ------
    GenerationError
        If they are not what such servers send, tell an error, or end without an answer in words.
    """
    thinks, wrote, end = False, False, "stop"
    for count, event in enumerate(events):
        if count >= MOST_EVENTS_PER_TOKEN * max_tokens + 64:
            end = "length"
            break
        try:
            text, thought, logprob, reason = _read(event, host)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise GenerationError(f"{host} sends {in_brief(json.dumps(event))}, which is no answer; {_LOOK}") from error
        thinks, wrote, end = thinks or thought, wrote or bool(text), reason or end
        if text:
            yield Piece(text, logprob)
    if cancel and cancel.is_set():
        yield Piece("", end="cancelled")
        return
    if end in _NO_ANSWER:
        raise GenerationError(f"{host} {_NO_ANSWER[end]}")
    if thinks and not wrote and end == "length":
        raise only_thoughts()
    yield Piece("", end="length" if end == "length" else "stop")


def _read(event: Any, host: str) -> tuple[str, bool, float | None, str | None]:
    """Tell the text of an event, whether it is of a thought, its log-probability, and why it is the last one."""
    if event.get("error"):
        raise GenerationError(f"{host} gave up in the middle of its answer: {in_brief(told(event['error']))}")
    if not event["choices"]:  # how many tokens there were, in all
        return "", False, None, None
    choice = event["choices"][0]
    delta, logprobs = choice.get("delta") or {}, (choice.get("logprobs") or {}).get("content")
    text = delta.get("content") or ""
    thought = bool(delta.get("reasoning_content") or delta.get("reasoning"))
    end: str | None = choice.get("finish_reason")
    if not isinstance(text, str):
        raise TypeError(text)
    return text, thought, sum(float(one["logprob"]) for one in logprobs) if logprobs else None, end
