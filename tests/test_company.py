"""Several processes at one index: readers beside a writer, writers beside each other."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest
from PIL import Image

import mmrag
from mmrag.stores.lock import write_lock
from tests.ingest.test_killed import picture

TOY = """
import sys
from mmrag.models import registry
from tests.toy import open_toy
registry.register("toy", open_toy)
"""

MAIN = (
    TOY
    + """
from mmrag.cli.main import main
main()
"""
)

WRITER = (
    TOY
    + """
import mmrag
from mmrag import Item
from mmrag.ingest.recipe import IndexRecipe, StoreOptions
recipe = IndexRecipe(store=StoreOptions(commit_every=50))
index = mmrag.open(".")
for part in range(4):
    texts = [Item(f"t:{part}-{n}", modality="text", text=f"red {part} {n}") for n in range(750)]
    index.add(texts, recipe=recipe)
"""
)

READER = (
    TOY
    + """
import os, mmrag
searches = most = 0
kept = mmrag.open(".")
while not os.path.exists("enough") or not searches:
    for new in (True, False):
        if not new:
            kept.refresh()
        index = mmrag.open(".") if new else kept
        found = sum(1 + len(hit.duplicates) for hit in index.search("red", k=10_000))
        assert found == len(index) >= most, (found, len(index), most)
        most = found
    searches += 1
print(searches, most)
"""
)


@pytest.fixture
def started():
    """Start processes; none of them outlives the test."""
    processes = []

    def start(script, *arguments):
        command = [sys.executable, "-c", script, *arguments]
        processes.append(subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.stdout.close()
        process.stderr.close()
        process.wait()


def finished(process):
    output, errors = process.communicate(timeout=120)
    assert "Traceback" not in errors, errors
    return process.returncode, output, errors


@pytest.fixture
def index(colours):
    index = mmrag.create(".", model="toy:1")
    index.add("images")
    return index


def test_readers_beside_a_writer(index, started):
    readers = [started(READER) for _ in range(2)]
    code, _, _ = finished(started(WRITER))
    (index.home / "enough").touch()
    for reader in readers:
        reader_code, output, _ = finished(reader)
        searches, _ = map(int, output.split())
        assert (code, reader_code) == (0, 0)
        assert searches > 3
    index.refresh()
    assert len(index) == 3006


def test_a_second_writer_is_told_who_is_first(index, colours, started):
    picture(colours / "new.png", 7)
    with write_lock(index.folder):
        code, output, errors = finished(started(MAIN, "index"))
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    told = f"mmrag: {holder} is writing to {index.folder}; wait until it has finished, or stop it\n"
    assert (code, output, errors) == (1, "", told)
    code, output, _ = finished(started(MAIN, "index", "--json"))
    assert (code, json.loads(output)["added"]) == (0, 1)


def test_the_lock_of_a_killed_process_is_taken_over(index, colours, started):
    hold = "import sys, time; from pathlib import Path; from mmrag.stores.lock import write_lock\n"
    hold += "with write_lock(Path('.mmrag')): print('held', flush=True); time.sleep(60)"
    holder = started(hold)
    holder.stdout.readline()
    assert finished(started(MAIN, "index"))[0] == 1
    holder.kill()
    holder.wait()
    assert str(holder.pid) in (index.folder / "lock").read_text()
    picture(colours / "new.png", 7)
    code, output, _ = finished(started(MAIN, "index", "--json"))
    assert (code, json.loads(output)["added"]) == (0, 1)


def test_two_who_search_at_once_find_the_same(index, started):
    alone = finished(started(MAIN, "search", "a red thing", "--json"))
    assert (alone[0], alone[1].count("\n")) == (0, 6)
    together = [started(MAIN, "search", "a red thing", "--json") for _ in range(2)]
    assert [finished(process) for process in together] == [alone, alone]


def test_two_who_search_mend_a_view_together(index, colours, started):
    for path in (index.folder / "views" / "exact").iterdir():
        path.unlink()
    processes = [started(MAIN, "search", "red", "-k", "1", "--paths") for _ in range(3)]
    assert [finished(process) for process in processes] == [(0, "images/red.png\n", "")] * 3


@pytest.mark.parametrize("attempt", range(2))
def test_two_who_make_an_index_at_once(tmp_path, monkeypatch, attempt, started):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for n in range(20):
            Image.new("RGB", (6, 6), (n, ord(name), attempt)).save(tmp_path / name / f"{n}.png")
    processes = [started(MAIN, "index", name, "--model", "toy:1") for name in ("a", "b")]
    ends = [finished(process) for process in processes]
    assert 0 in [code for code, _, _ in ends]
    for code, output, errors in ends:
        assert code == 0 or (code == 1 and not output and errors.startswith("mmrag: ") and errors.count("\n") == 1)
    index = mmrag.open(tmp_path)
    assert len(index) == 20 * [code for code, _, _ in ends].count(0)
    assert not index.check().wrong
    index.add(["a", "b"])
    assert len(index) == 40
