"""The indexer is stopped at any moment: the next run goes on, nothing is lost or there twice, searches never fail."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

import mmrag
from mmrag.cli.main import main
from mmrag.errors import IndexNotFoundError
from tests.fresh import assert_like_new

WRITER = """
import sys, time
import mmrag
from mmrag.errors import IndexNotFoundError
from mmrag.ingest.recipe import IndexRecipe, StoreOptions
from mmrag.models import registry
from tests.toy import open_toy
registry.register("toy", open_toy)
import lancedb
model, seconds = sys.argv[1], float(sys.argv[2])
print("ready", flush=True)
try:
    index = mmrag.open(".")
except IndexNotFoundError:
    index = mmrag.create(".", model=model)
recipe = IndexRecipe(store=StoreOptions(commit_every=3))
index.add("images", recipe=recipe, progress=lambda *_: time.sleep(seconds))
print("done", flush=True)
"""

READER = """
import os, time
import mmrag
from mmrag.errors import IndexNotFoundError
from mmrag.models import registry
from tests.toy import open_toy
registry.register("toy", open_toy)
searches = 0
while not os.path.exists("enough"):
    try:
        index = mmrag.open(".")
    except IndexNotFoundError:
        assert not searches
        continue
    hits = index.search("red", k=1000)
    found = sum(1 + len(hit.duplicates) for hit in hits)  # for a moment, a renamed picture is there twice
    assert found == len(index), (found, len(index))
    searches += 1
    time.sleep(0.02)
print(searches)
"""

SLOW_MAIN = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs do not hear it
from mmrag.__main__ import run
from mmrag.models import registry
from tests.toy import ToyEncoder
class Slow(ToyEncoder):
    batch = 4
    def _embed_pixels(self, pixels):
        open("encoding", "w").close()
        time.sleep(0.2)
        return super()._embed_pixels(pixels)
registry.register("toy", lambda reference: Slow(reference))
print("ready", flush=True)
run()
"""


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    folder = tmp_path / "images"
    folder.mkdir()
    for n in range(150):
        picture(folder / f"{n:03}.png", n)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def picture(path, n):
    Image.new("RGB", (6, 6), (n % 256, 255 - n % 256, n * 7 % 256)).resize((6 + n // 256, 6)).save(path)


def started(script, *arguments, **options):
    return subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, **options)


def disturb(folder, chance, n):
    """Edit one picture, rename one, delete one, and add one."""
    edited, renamed, deleted = chance.sample(sorted(folder.glob("*.png")), 3)
    picture(edited, 256 + 4 * n)
    renamed.rename(folder / f"renamed{n}.png")
    deleted.unlink()
    picture(folder / f"added{n}.png", 258 + 4 * n)


def kill_and_go_on(corpus, kills, seed, *, model="toy:1", seconds=0.004, disturbed=True):
    """Kill at any moment, from the making of the index on; then let it end. A reader never notices."""
    chance = random.Random(seed)  # noqa: S311
    with started(READER, stderr=subprocess.PIPE) as reader:
        try:
            _kill_and_go_on(corpus, kills, chance, model, seconds, disturbed)
        finally:
            (corpus / "enough").touch()
            output, errors = reader.communicate(timeout=60)
    assert reader.returncode == 0, errors.decode()
    assert int(output) > 0
    assert_like_new(corpus, "images", model=model)


def _kill_and_go_on(corpus, kills, chance, model, seconds, disturbed):
    done = False
    while not done:
        with started(WRITER, model, str(seconds), stderr=subprocess.PIPE) as process:
            last = not kills
            if not last:
                process.stdout.readline()  # the imports are over
                time.sleep(chance.uniform(0, 1.5))
                process.kill()
                kills -= 1
            output, errors = process.communicate()
            locked = b"IndexLockedError" in errors  # the reader is mending the view
            assert locked or b"Traceback" not in errors, errors.decode()
        if disturbed and not last:
            disturb(corpus / "images", chance, kills)
        done = last and b"done" in output


def test_killed_and_continued(corpus):
    kill_and_go_on(corpus, kills=5, seed=0)


@pytest.mark.soak
def test_killed_with_the_built_in_model(tmp_path, photographs, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(photographs, tmp_path / "images")
    kill_and_go_on(tmp_path, kills=1, seed=0, model="builtin", seconds=0.2, disturbed=False)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1, 6))
def test_killed_often(corpus, seed):
    kill_and_go_on(corpus, kills=20, seed=seed)


def items(corpus):
    try:
        index = mmrag.open(corpus)
    except IndexNotFoundError:
        return 0
    found = len(index.search("red", k=1000))
    assert found == len(index)
    return found


def stop(how, when):
    """Stop `mmrag index` when it is time, after its imports."""
    with started(SLOW_MAIN, "index", "images", "--model", "toy:1", stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        when()
        process.send_signal(how)
        _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    return process.returncode, errors.splitlines()


def test_ctrl_c_in_the_middle(corpus):
    def when_it_encodes():
        while not (corpus / "encoding").exists():
            time.sleep(0.02)
        time.sleep(1)

    code, (told,) = stop(signal.SIGINT, when_it_encodes)
    kept = items(corpus)
    assert 0 < kept < 150
    assert (code, told) == (
        130,
        f"mmrag: stopped; {kept} of 150 are kept and can be searched. Run the same command to go on",
    )
    assert mmrag.open(corpus).add("images").added == 150 - kept
    assert_like_new(corpus, "images")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_stopped_at_any_moment(corpus, how):
    chance, before, stopped = random.Random(how), 0, {signal.SIGINT: 130, signal.SIGTERM: -signal.SIGTERM}[how]  # noqa: S311
    codes = []
    for _ in range(4):
        code, told = stop(how, lambda: time.sleep(chance.uniform(0, 3)))
        codes.append(code)
        assert code in (stopped, 0)  # it may have ended before
        assert not told or (how == signal.SIGINT and len(told) == 1 and told[0].startswith("mmrag: stopped"))
        assert items(corpus) >= before
        before = items(corpus)
    assert stopped in codes
    with started(SLOW_MAIN, "index", "images", "--model", "toy:1") as process:
        assert b"0 failed" in process.communicate(timeout=60)[0]
    assert items(corpus) == 150
    assert_like_new(corpus, "images")


def test_ctrl_c_before_a_command_runs(monkeypatch, capsys):
    def stopped():
        raise KeyboardInterrupt

    monkeypatch.setattr("mmrag.cli.main.app", stopped)
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, capsys.readouterr().err) == (130, "mmrag: stopped\n")
