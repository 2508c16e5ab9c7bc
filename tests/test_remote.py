"""Sources behind urls: memory, a web server, and an S3 server, all of this machine."""

from __future__ import annotations

import functools
import http.server
import json
import sys
import threading

import pytest

import mmrag
from mmrag.errors import InputError, MissingExtraError, MmragError
from mmrag.ingest.recipe import EnrichOptions, IndexRecipe
from mmrag.ingest.session import Run
from mmrag.sources.walk import Walk
from mmrag.types import Item, Query
from tests.made import counts, png, sample, top, write_tar

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def index(home):
    return mmrag.create(model="toy:1")


@pytest.fixture
def memory():
    """A folder of memory:// with two pictures, a document and a table."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    for name, data in {
        "red.png": png("red"),
        "sub/blue.png": png("blue"),
        "a.md": b"green",
        "t.csv": b"text\nx",
    }.items():
        files.pipe(f"/pics/{name}", data)
    yield files
    files.store.clear()


def test_a_url_needs_leave(index, memory):
    with pytest.raises(
        InputError, match=r"memory://pics is remote, and no connection is opened unless .*--allow-remote"
    ):
        index.add("memory://pics")
    assert index.info()["folders"] == []


def test_a_remote_folder(index, memory):
    changes = index.add("memory://pics/", allow_remote=True, exclude=["*.gif"])
    assert (changes.added, changes.left) == (3, 1)
    assert top(index, "blue") == ("memory://pics/sub/blue.png", None)
    assert counts(index.update(allow_remote=True)) == (0, 0, 0, 0, 3, 0)
    memory.pipe("/pics/red.png", png("black"))
    memory.rm("/pics/a.md")
    assert counts(index.update(allow_remote=True)) == (0, 1, 0, 1, 1, 0)
    assert top(index, "black") == ("memory://pics/red.png", None)


def test_without_leave_an_update_keeps_what_is_remote(index, memory, home):
    (home / "here").mkdir()
    (home / "here" / "yellow.png").write_bytes(png("yellow"))
    index.add("memory://pics", allow_remote=True)
    changes = index.add("here")
    assert counts(changes) == (1, 0, 0, 0, 0, 0)
    changes = index.update()
    assert [one.uri for one in changes.failed] == ["memory://pics"]
    assert "What is indexed of it is kept" in changes.failed[0].reason
    assert (len(index), changes.removed) == (4, 0)
    assert counts(index.update(allow_remote=True)) == (0, 0, 0, 0, 4, 0)
    assert index.failures() == []
    memory.store.clear()
    changes = index.update(allow_remote=True)
    assert (
        "nothing is there" in changes.failed[0].reason or "No such file" in changes.failed[0].reason,
        len(index),
    ) == (True, 4)
    assert index.remove("memory://pics") == 4


def test_a_remote_tar_and_table(index, memory, home):
    write_tar(home / "t.tar", [sample("x1", "red"), sample("x2", "blue", n=2)])
    memory.pipe("/data/t.tar", (home / "t.tar").read_bytes())
    rows = [{"caption": "a", "image": "/etc/passwd.png"}, {"caption": "yellow", "image": str(home / "here.png")}]
    (home / "here.png").write_bytes(png("yellow"))
    memory.pipe("/data/t.jsonl", "\n".join(map(json.dumps, rows)).encode())
    assert index.add(["memory://data/t.tar", "memory://data/t.jsonl"], allow_remote=True).added == 4
    assert top(index, "blue") == ("memory://data/t.tar", "x2")
    assert {hit.item.modality for hit in index.search("yellow", k=1)} == {"text"}  # no file of this machine was read
    assert counts(index.update(allow_remote=True)) == (0, 0, 0, 0, 4, 0)
    with pytest.raises(InputError, match="mmrag reindex --allow-remote"):
        index.reindex("toy:2")
    assert index.reindex("toy:2", allow_remote=True).unchanged == 4
    assert top(index, "red") == ("memory://data/t.tar", "x1")


def test_a_root_that_is_a_file_is_kept_while_it_cannot_be_looked_at(index, memory, home):
    write_tar(home / "t.tar", [sample("x1", "red"), sample("x2", "blue", n=2)])
    memory.pipe("/data/t.tar", (home / "t.tar").read_bytes())
    memory.pipe("/data/p.png", png("green"))
    urls = ["memory://data/t.tar", "memory://data/p.png"]
    index.add(urls, allow_remote=True)
    changes = index.update()
    assert sorted(one.uri for one in changes.failed) == sorted(urls)
    assert (len(index), changes.removed, index.failures()) == (3, 0, [])
    kept = dict(memory.store)
    memory.store.clear()
    assert index.update(allow_remote=True).removed == 0
    assert {top(index, "blue"), top(index, "green")} == {(urls[0], "x2"), (urls[1], None)}
    memory.store.update(kept)
    assert counts(index.update(allow_remote=True)) == (0, 0, 0, 0, 3, 0)


def test_what_changes_here_has_nothing_listed_there(index, memory, home, monkeypatch):
    memory.pipe("/pics/red.png", png("red"))
    (home / "here").mkdir()
    index.add(["memory://pics", "here"], allow_remote=True)
    (home / "here" / "blue.png").write_bytes(png("blue"))
    listed = []
    monkeypatch.setattr("mmrag.sources.remote.walk_remote", lambda url, **_: listed.append(url) or Walk())
    session = index._session
    with session.ingest(Run(allow_remote=True)) as ingest:
        changes = session._look_at(ingest, session._roots(), only=[str(home / "here" / "blue.png")])
    assert (counts(changes), listed) == ((1, 0, 0, 0, 0, 0), [])


def test_words_of_remote_pictures_need_leave_too(index, memory, home, caplog):
    write_tar(home / "t.tar", [sample("x1", "red")])
    memory.pipe("/pics/t.tar", (home / "t.tar").read_bytes())
    index.add(["memory://pics", "memory://pics/t.tar"], allow_remote=True)
    with caplog.at_level("WARNING"):
        assert index.enrich(caption="teller:1").enriched == 0
    assert "3 pictures behind urls get no words: no connection is opened" in caplog.text
    recipe = IndexRecipe(enrich=EnrichOptions(caption="teller:1"))
    assert index.update(recipe=recipe, allow_remote=True).enriched == 3


def test_no_item_and_no_query_opens_a_connection(index, memory):
    memory.pipe("/data/red.png", png("red"))
    with pytest.raises(InputError, match=r"add memory://data/red\.png by its url: allow_remote=True"):
        index.add(Item("x", image="memory://data/red.png"))
    index.add("memory://data/red.png", allow_remote=True)
    with pytest.raises(MmragError, match="only indexing opens a connection"):
        index.search(Query(image="memory://data/red.png"))


def test_a_search_opens_no_connection(index, memory, caplog):
    index.add("memory://pics", allow_remote=True)
    hits = index.search("red", rerank="judge:1", k=2)
    assert {hit.kind for hit in hits} == {"cosine"}
    assert "only indexing opens a connection" in caplog.text


@pytest.mark.parametrize(
    "url", ["https://me:secret@example.com/a.png", "s3://key:secret@bucket/a", "https://x.org/a.png?X-Amz-Signature=1"]
)
def test_credentials_are_not_stored(index, home, url):
    with pytest.raises(InputError, match="holds a name, password or signature") as caught:
        index.add(url, allow_remote=True)
    assert "secret" not in str(caught.value)
    assert "secret" not in (home / ".mmrag" / "manifest.json").read_text()


def test_without_the_package(index, monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mmrag\[remote\]'"):
        index.add("s3://bucket/a.png", allow_remote=True)


@pytest.fixture
def web(home):
    """A web server of this machine that serves a folder; gives its address."""
    served = home / "served"
    served.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            first, _, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
            if "whole" in self.path or not first:
                super().do_GET()
                return
            data = (served / self.path[1:]).read_bytes()
            some = data[int(first) : int(last) + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(some) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(some)))
            self.end_headers()
            self.wfile.write(some)

        def end_headers(self):
            if "whole" not in self.path:
                self.send_header("Accept-Ranges", "bytes")
            super().end_headers()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=served))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_files_of_a_web_server(index, home, web, command):
    pytest.importorskip("aiohttp")
    (home / "served" / "red.png").write_bytes(png("red"))
    write_tar(home / "served" / "t.tar", [sample("x1", "blue")])
    write_tar(home / "served" / "whole.tar", [sample("x1", "green")])
    code, out, err = command(
        "index", f"{web}/red.png", f"{web}/t.tar", f"{web}/whole.tar", f"{web}/none.png", "--allow-remote"
    )
    assert (code, out.split(" · ")[0]) == (0, "2 added"), err
    assert f"failed  {web}/none.png: " in err
    assert f"failed  {web}/whole.tar" in err
    assert "its server gives files only whole; download it, and index the copy" in err
    assert command("search", "blue", "-k", 1)[1].rstrip().endswith(f"{web}/t.tar › x1")
    code, out, err = command("index", f"{web}/red.png")
    assert (code, "--allow-remote" in err) == (1, True)


def test_an_s3_server(index, home, monkeypatch):
    pytest.importorskip("s3fs")
    server_of = pytest.importorskip("moto.server").ThreadedMotoServer
    server = server_of(ip_address="127.0.0.1", port=0)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    for name, value in {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}.items():
        monkeypatch.setenv(name, value)
    try:
        files = fsspec.filesystem("s3", endpoint_url=address, skip_instance_cache=True)
        files.mkdir("bucket")
        files.pipe("bucket/pics/red.png", png("red"))
        files.pipe("bucket/pics/deep/blue.png", png("blue"))
        assert index.add("s3://bucket/pics", allow_remote=True).added == 2
        assert top(index, "blue") == ("s3://bucket/pics/deep/blue.png", None)
        assert counts(index.update(allow_remote=True)) == (0, 0, 0, 0, 2, 0)
        assert mmrag.open().update(allow_remote=True).unchanged == 2
    finally:
        fsspec.filesystem("s3").clear_instance_cache()
        server.stop()
