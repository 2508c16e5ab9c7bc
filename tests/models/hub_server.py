"""A model hub on this machine: what `mmrag models pull` asks of one, with the mishaps of a network."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 100_000  # bytes, from which a file is in git-lfs
CHUNK = 16_384


@dataclass
class Hub:
    """Repositories by name, and how the hub behaves.

    `log` is what was asked and `served` how many bytes of files were sent.
    """

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, str] = field(default_factory=dict)  # repository → token
    gated: set[str] = field(default_factory=set)
    cuts: list[int] = field(default_factory=list)  # after how many bytes the next answers of weights break off
    spoilt: set[str] = field(default_factory=set)  # files that arrive changed
    short: int | None = None  # how many bytes of weights an answer holds at most, well-formed
    tells_length: bool = True
    ranges: bool = True
    status: int | None = None  # instead of any answer
    pause: float = 0  # seconds before each chunk
    elsewhere: str = ""  # address of another server, which large files are redirected to
    log: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    served: int = 0

    def __enter__(self) -> Hub:
        class Handler(_Handler):
            hub = self

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
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def asked(self, part: str) -> list[dict[str, str]]:
        """Headers of the requests whose path contains `part`."""
        return [headers for _, path, headers in self.log if part in path]


def digest(content: bytes) -> str:
    if len(content) >= LARGE:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.log.append((self.command, path, {key.lower(): value for key, value in self.headers.items()}))
        listing = re.fullmatch(r"/api/models/(.+)/revision/(.+)", path)
        file = re.fullmatch(r"/(.+)/resolve/(.+?)/(.+)", path)
        if hub.status:
            self.refuse(hub.status)
        elif not (listing or file):
            self.refuse(404)
        elif self.allowed((listing or file)[1], (listing or file)[2]):
            if listing:
                self.list_files(listing[1])
            else:
                self.send_file(*file.group(1, 3))

    def allowed(self, repository, revision):
        hub = self.hub
        token = hub.private.get(repository)
        if repository not in hub.repositories or (token and self.headers.get("Authorization") != f"Bearer {token}"):
            self.refuse(401 if "Authorization" not in self.headers else 404, "RepoNotFound")
        elif repository in hub.gated:
            self.refuse(403, "GatedRepo")
        elif revision not in ("main", COMMIT):
            self.refuse(404, "RevisionNotFound")
        else:
            return True
        return False

    def refuse(self, status, code=""):
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", f"that is {code}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def list_files(self, repository):
        siblings = []
        for name, content in self.hub.repositories[repository].items():
            about = {"rfilename": name, "size": len(content), "blobId": digest(content[: LARGE - 1])}
            if len(content) >= LARGE:
                about["lfs"] = {"sha256": digest(content), "size": len(content), "pointerSize": 134}
            siblings.append(about)
        answer = json.dumps({"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def send_file(self, repository, name):
        hub = self.hub
        content = hub.repositories[repository][name]
        if hub.elsewhere and len(content) >= LARGE:
            self.send_response(302)
            self.send_header("Location", hub.elsewhere + self.path)
            self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        etag = digest(content)
        if name in hub.spoilt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = 0
        if hub.ranges and (asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))):
            start = int(asked[1])
        body = content[start:][: hub.short if name == "model.safetensors" else None]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{len(content)}")
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if hub.tells_length:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        self.send_body(body, cut=hub.cuts.pop(0) if hub.cuts and name == "model.safetensors" else None)

    def send_body(self, content, *, cut):
        hub = self.hub
        if self.command == "HEAD":
            return
        for begin in range(0, len(content), CHUNK):
            if hub.pause:
                time.sleep(hub.pause)
            chunk = content[begin : begin + CHUNK]
            if cut is not None and begin + len(chunk) > cut:
                self.close_connection = True
                return
            try:
                self.wfile.write(chunk)
            except OSError:  # the other side is gone
                self.close_connection = True
                return
            hub.served += len(chunk)
