"""An OpenAI-compatible server on this machine, with every mishap that such servers have."""

from __future__ import annotations

import contextlib
import json
import select
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Iterable[bytes]


def event(**choice: Any) -> bytes:
    """One event of a stream, with one choice."""
    return b"data: " + json.dumps({"object": "chat.completion.chunk", "choices": [choice]}).encode() + b"\n\n"


def says(*words: str, end: str = "stop", **delta: Any) -> Iterator[bytes]:
    """A whole answer, an event for each of some words."""
    yield event(index=0, delta={"role": "assistant", "content": None, **delta})
    for word in words:
        yield event(index=0, delta={"content": word}, finish_reason=None)
    yield event(index=0, delta={}, finish_reason=end)
    yield b'data: {"choices": [], "usage": {"completion_tokens": 3}}\n\n'
    yield b"data: [DONE]\n\n"


@dataclass
class ChatServer:
    """Gives `answer` with `status`, with a `pause` before each part; `refuses` are settings, and what it says to them.

    `asked` is what was asked for, and `heard` the headers; `left` is set once a client goes before the end.
    """

    answer: Any = ()
    status: int = 200
    kind: str = "text/event-stream"
    headers: dict[str, str] = field(default_factory=dict)
    refuses: dict[str, str] = field(default_factory=dict)
    pause: float = 0
    asked: list[dict[str, Any]] = field(default_factory=list)
    heard: list[dict[str, str]] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> ChatServer:
        class Handler(_Handler):
            chat = self

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.host}/v1"


class _Handler(BaseHTTPRequestHandler):
    chat: ChatServer

    def log_message(self, *_):
        pass

    def do_POST(self):
        chat = self.chat
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        chat.asked.append({"path": self.path, **asked})
        chat.heard.append({name.lower(): value for name, value in self.headers.items()})
        refused = next((words for name, words in chat.refuses.items() if name in asked), None)
        status, kind, answer = chat.status, chat.kind, chat.answer
        if refused is not None:
            status, kind = 400, "application/json"
            answer = [json.dumps({"error": {"message": refused, "type": "invalid_request_error"}}).encode()]
        self.send_response(status)
        for name, value in {"Content-Type": kind, **chat.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            for part in answer:
                if select.select([self.connection], [], [], chat.pause)[0]:  # nothing more is ever sent: an end
                    raise BrokenPipeError
                self.wfile.write(part)
        except OSError:
            chat.left.set()


@contextlib.contextmanager
def serve(*words: str, **settings: Any) -> Iterator[ChatServer]:
    """Serve one answer, of these words unless `answer` says another."""
    settings.setdefault("answer", list(says(*words)))
    with ChatServer(**settings) as server:
        yield server
