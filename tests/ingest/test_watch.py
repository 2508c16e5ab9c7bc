"""A real process keeps up with a folder that changes, and its index is the one that a run from nothing makes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from queue import Empty, Queue

import pytest
from PIL import Image
from watchfiles import Change

import mmrag
from mmrag.errors import InputError
from mmrag.ingest import watch
from mmrag.ingest.roots import Root
from mmrag.sources.uri import item_id
from mmrag.stores.lock import write_lock
from tests.fresh import assert_like_new

MAIN = """
from mmrag.cli.main import main
from mmrag.models import registry
from tests.toy import open_toy
registry.register("toy", open_toy)
main()
"""


class Watching:
    """`mmrag index --watch`, and the lines that it prints."""

    def __init__(self, *arguments, env=None):
        command = [sys.executable, "-c", MAIN, "index", "--watch", "--model", "toy:1", *arguments]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}
        )
        self.lines, self.errors = Queue(), Queue()
        streams = ((self.process.stdout, self.lines), (self.process.stderr, self.errors))
        self.readers = [threading.Thread(target=self._read, args=one) for one in streams]
        for reader in self.readers:
            reader.start()

    @staticmethod
    def _read(stream, lines):
        with stream:
            for line in stream:
                lines.put(line.rstrip("\n"))

    def next(self):
        return self.lines.get(timeout=30)

    def quiet(self, seconds=1.5):
        time.sleep(seconds)
        with contextlib.suppress(Empty):
            raise AssertionError(self.lines.get_nowait())

    def told(self):
        told = []
        with contextlib.suppress(Empty):
            while True:
                told.append(self.errors.get(timeout=0.3))
        return told

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(timeout=30)
        return code, self.told()


@pytest.fixture
def start():
    started = []
    yield lambda *arguments, **options: started.append(Watching(*arguments, **options)) or started[-1]
    for one in started:
        one.process.kill()
        one.process.wait()
        for reader in one.readers:
            reader.join()


def line(*, added=0, updated=0, moved=0, removed=0, unchanged=0, failed=0):
    return (
        f"{added} added · {updated} updated · {moved} moved · {removed} removed · "
        f"{unchanged} unchanged · {failed} failed"
    )


def picture(path, rgb):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 12), rgb).save(path)


def test_everything_that_can_happen_to_a_folder(colours, tmp_path, start):
    watching = start("images", "--exclude", "raw")
    assert watching.next() == line(added=6)
    picture(colours / "2020" / "new.png", (1, 2, 3))
    assert watching.next() == line(added=1)
    picture(colours / "red.png", (200, 0, 0))
    assert watching.next() == line(updated=1)
    (colours / "green.png").rename(colours / "2020" / "grass.png")
    assert watching.next() == line(moved=1)
    (colours / "2020").rename(colours / "2021")
    assert watching.next() == line(moved=2)
    (colours / "blue.png").unlink()
    assert watching.next() == line(removed=1)
    for n in range(3):
        picture(tmp_path / "holiday" / "raw" / f"{n}.png", (n, n, n))
        picture(tmp_path / "holiday" / "day" / f"{n}.png", (9, n, n))
    shutil.move(tmp_path / "holiday", colours / "holiday")
    assert watching.next() == line(added=3)
    picture(colours / "holiday" / "day" / "late.png", (7, 7, 7))
    assert watching.next() == line(added=1)
    shutil.move(colours / "2021", tmp_path / "elsewhere")
    assert watching.next() == line(removed=2)
    (colours / "white.png").rename(colours / ".white.png")
    assert watching.next() == line(removed=1)
    shutil.rmtree(colours / "holiday")
    assert watching.next() == line(removed=4)
    code, told = watching.stop()
    assert (code, told) == (
        0,
        ["watching; Ctrl-C ends it", "stopped watching; in all 11 added · 1 updated · 3 moved · 8 removed"],
    )
    assert_like_new(colours.parent, "images", exclude=["raw"])


def test_what_is_none_of_its_business_is_not_told(colours, start):
    watching = start("images", "--exclude", "raw*", "--index", "images")  # its own files lie in what it watches
    assert watching.next() == line(added=6)
    picture(colours / ".hidden" / "a.png", (1, 1, 1))
    picture(colours / "raw1" / "a.png", (1, 1, 1))
    (colours / "notes.dat").write_text("hello")
    os.utime(colours / "red.png")
    watching.quiet()
    picture(colours / "new.png", (1, 1, 1))
    assert watching.next() == line(added=1)


def test_what_lies_beside_a_picture_is_a_change_of_it(colours, start):
    watching = start("images")
    assert watching.next() == line(added=6)
    (colours / "red.txt").write_text("a wall")
    assert watching.next() == line(updated=1)
    assert mmrag.open(".").get(item_id("images/red.png")).text == "a wall"
    (colours / "red.txt").unlink()
    assert watching.next() == line(updated=1)
    assert mmrag.open(".").get(item_id("images/red.png")).text is None


def test_a_failure_is_told_once(colours, start):
    watching = start("images", "--json")
    assert json.loads(watching.next())["added"] == 6
    whole = (colours / "red.png").read_bytes()
    (colours / "slow.png").write_bytes(whole[:40])
    (failure,) = json.loads(watching.next())["failed"]
    assert failure["uri"] == "images/slow.png"
    (colours / "slow.png").chmod(0o600)
    os.utime(colours / "slow.png")
    os.utime(colours / "slow.png", (1, 1))
    watching.quiet()
    (colours / "slow.png").write_bytes(whole)
    changes = json.loads(watching.next())
    assert (changes["added"], changes["failed"]) == (1, [])


def test_a_picture_that_is_written_slowly_is_read_when_it_is_whole(colours, start):
    watching = start("images")
    assert watching.next() == line(added=6)
    data = (colours / "red.png").read_bytes()
    with open(colours / "slow.png", "wb") as file:
        for at in range(0, len(data), 20):
            file.write(data[at : at + 20])
            file.flush()
            time.sleep(0.2)
    assert watching.next() == line(added=1)
    assert "failed" not in "".join(watching.told())


def test_a_writer_is_waited_for(colours, start):
    watching = start("images")
    assert watching.next() == line(added=6)
    with write_lock(colours.parent / ".mmrag"):
        picture(colours / "one.png", (1, 1, 1))
        watching.quiet()
        picture(colours / "two.png", (2, 2, 2))
        watching.quiet()
    batches = [watching.next()]
    if batches != [line(added=2)]:
        batches.append(watching.next())
        assert batches == [line(added=1)] * 2
    waiting = [told for told in watching.told() if "is writing to" in told]
    assert len(waiting) == 1
    assert str(os.getpid()) in waiting[0]


def test_remembered_folders_that_go_and_come_back(colours, tmp_path, start):
    other = tmp_path / "disk"
    picture(other / "a.png", (1, 2, 3))
    mmrag.create(".", model="toy:1").add([colours, other])
    watching = start("--json")
    assert json.loads(watching.next())["unchanged"] == 7
    other.rename(tmp_path / "unplugged")
    (failure,) = json.loads(watching.next())["failed"]
    assert failure["reason"].startswith("the folder is gone; its pictures are kept")
    picture(colours / "new.png", (9, 9, 9))
    changes = json.loads(watching.next())
    assert (changes["added"], changes["failed"]) == (1, [])
    assert len(mmrag.open(".")) == 8
    picture(tmp_path / "unplugged" / "b.png", (3, 2, 1))
    (tmp_path / "unplugged").rename(other)
    assert json.loads(watching.next())["added"] == 1
    picture(other / "c.png", (5, 5, 5))
    assert json.loads(watching.next())["added"] == 1


def test_files_by_the_hundred_and_names_that_no_text_can_hold(colours, start):
    watching = start("images")
    assert watching.next() == line(added=6)
    with open(os.fsencode(colours) + b"/\xff.png", "wb") as file:
        file.write(b"x")
    assert watching.next().endswith("6 unchanged · 1 failed")
    source = (colours / "red.png").read_bytes()
    for n in range(1200):
        (colours / f"{n}.png").write_bytes(source + str(n).encode())
    deadline = time.monotonic() + 60
    while len(mmrag.open(".")) < 1206 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert len(mmrag.open(".")) == 1206


def test_a_link_to_a_folder(colours, tmp_path, start):
    picture(tmp_path / "far" / "a.png", (1, 2, 3))
    watching = start("images")
    assert watching.next() == line(added=6)
    (colours / "link").symlink_to(tmp_path / "far")
    assert watching.next() == line(added=1, unchanged=6)
    picture(tmp_path / "far" / "b.png", (4, 5, 6))
    assert watching.next() == line(added=1, unchanged=7)
    (colours / "link").unlink()
    assert watching.next() == line(removed=2)
    watching.stop()
    assert_like_new(colours.parent, "images")


def test_polling(colours, start):
    watching = start("images", env={"WATCHFILES_FORCE_POLLING": "1"})
    assert watching.next() == line(added=6)
    picture(colours / "new.png", (1, 2, 3))
    assert watching.next() == line(added=1, unchanged=6)
    (colours / "new.png").rename(colours / "newer.png")
    assert watching.next() in (line(moved=1, unchanged=6), line(moved=1))  # the folder's own time is of whole seconds


def watched(index, **options):
    """Watch in a thread: what it gives, and how to stop it."""
    stop, batches = threading.Event(), Queue()
    thread = threading.Thread(target=lambda: [batches.put(one) for one in index.watch(stop=stop, **options)])
    thread.start()

    def end():
        stop.set()
        thread.join(timeout=30)
        assert not thread.is_alive()

    return batches, end


def test_the_rest_is_not_looked_at(colours, monkeypatch):
    for n in range(50):
        picture(colours / "old" / str(n) / "a.png", (n, n, n))
    index = mmrag.create(".", model="toy:1")
    index.add(colours)
    batches, end = watched(index)
    assert batches.get(timeout=30).unchanged == 56
    listed, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scandir(path))
    described, describe = [], mmrag.sources.walk.describe
    monkeypatch.setattr("mmrag.sources.walk.describe", lambda path, *a: described.append(path) or describe(path, *a))
    picture(colours / "red.png", (99, 0, 0))
    assert batches.get(timeout=30).updated == 1
    picture(colours / "new" / "b.png", (98, 0, 0))
    assert batches.get(timeout=30).added == 1
    end()
    assert described == [str(colours / "red.png"), str(colours / "new" / "b.png")]
    beside = {str(colours), str(colours / "new")}  # where there may be sidecars of what has changed
    assert {path for path in listed if path.startswith(str(colours))} == beside


def test_a_home_inside_what_is_watched_and_nested_folders(colours, tmp_path, monkeypatch):
    picture(tmp_path / "beside" / "a.png", (1, 1, 1))
    index = mmrag.create(colours, model="toy:1")
    index.add(tmp_path, exclude=["red.png"])
    index.add(tmp_path / "beside", exclude=["b*.png"])
    batches, end = watched(index)
    assert batches.get(timeout=30).unchanged == 6
    picture(tmp_path / "beside" / "b.png", (2, 2, 2))
    picture(tmp_path / "beside" / "red.png", (2, 2, 3))
    assert batches.get(timeout=30).added == 1
    (tmp_path / "beside").rename(tmp_path / "besides")
    moved = batches.get(timeout=30)
    assert (moved.moved, moved.added, moved.removed) == (1, 1, 0)  # red.png is not wanted outside
    end()


def test_mistakes_are_told_at_once(colours):
    index = mmrag.create(".", model="toy:1")
    with pytest.raises(InputError, match="no folder was ever added"):
        next(index.watch())
    with pytest.raises(InputError, match="there is no file or folder"):
        next(index.watch("nowhere"))


def test_a_limit_of_the_system_is_told(colours):
    command = f"echo 2 > /proc/sys/user/max_inotify_watches && {sys.executable} -c '{MAIN}' index --watch images"
    for name in ("a", "b", "c"):
        (colours / name).mkdir()
    try:
        done = subprocess.run(["unshare", "-Ur", "sh", "-c", command], capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("needs unshare")
    if "unshare" in done.stderr or "max_inotify_watches" in done.stderr.split("mmrag:")[0]:
        pytest.skip(f"may not make a namespace of its own: {done.stderr.strip()}")
    assert done.returncode == 1
    (told,) = done.stderr.splitlines()
    assert told.startswith(f"mmrag: cannot watch {colours}: OS file watch limit reached")
    assert "WATCHFILES_FORCE_POLLING=1" in told


def test_paths_in_others_are_left_out():
    assert watch._outermost(["/a/b", "/a", "/a b", "/a/b/c", "/ab"]) == ["/a", "/a b", "/ab"]


def test_events_that_may_be_lost_mean_everything(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "_QUIET_SECONDS", 0)
    roots = [Root(str(tmp_path))]

    def told(count):
        events = [{(Change.deleted, str(tmp_path / f"{n}.png")) for n in range(count)}]
        return [len(paths) for paths in watch._until_unsure(events, lambda: roots, {})]

    assert told(watch._MANY) == [watch._MANY]
    assert told(watch._MANY + 1) == []


@pytest.mark.parametrize("polling", ["", "1"])
def test_a_folder_that_may_not_be_listed_is_told(polling):
    code = (
        "import os, platform, sys, threading, watchfiles; from mmrag.ingest import watch; "
        "os.geteuid() or os.setuid(65534); root = watch.Root(sys.argv[1])\n"
        "try: next(watch.changed_paths(lambda: [root], threading.Event()))\n"
        "except watch.WatchError as error: print(error)"
    )
    with tempfile.TemporaryDirectory() as folder:  # an ordinary user cannot come to the folders that pytest makes
        locked = Path(folder, "locked")
        locked.mkdir()
        locked.chmod(0)
        Path(folder).chmod(0o755)
        environment = {**os.environ, "WATCHFILES_FORCE_POLLING": polling}
        command = [sys.executable, "-c", code, folder]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
        locked.chmod(0o700)
    assert f'about ["{locked}"]; folders are watched where this user may list' in done.stdout, done.stderr
