"""`mmrag models`, as a process of its own."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from mmrag.models.catalogue import entries
from tests.cli.test_cli import run
from tests.models.hub_server import COMMIT, Hub

REPOSITORY = "openai/clip-vit-base-patch32"
FILES = {"config.json": b"{}", "model.safetensors": b"w" * 300_000}


@pytest.fixture
def environment(tmp_path):
    """Variables of a user with an empty cache."""
    names = ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HF_ENDPOINT")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return {**kept, "HF_HOME": str(tmp_path / "hf"), "XDG_CACHE_HOME": str(tmp_path / "cache"), "NO_PROXY": "127.0.0.1"}


@pytest.fixture
def server(environment):
    with Hub({REPOSITORY: dict(FILES)}) as server:
        environment["HF_ENDPOINT"] = server.address
        yield server


def test_the_list_has_a_line_for_each(environment):
    done = run("models", env=environment)
    header, *lines = done.stdout.splitlines()
    assert header.split() == ["name", "roles", "dim", "languages", "MB", "licence", "here"]
    assert [line.split()[0] for line in lines] == list(entries())
    here = {line.split()[0] for line in lines if "✓" in line}
    assert here - {"smollm2"} == {"builtin"}  # which the package that carries it may have brought
    assert "mmrag models pull NAME fetches" in done.stderr
    described = [json.loads(line) for line in run("models", "--json", env=environment).stdout.splitlines()]
    blip2 = next(one for one in described if one["name"] == "blip2-itm")
    assert (blip2["roles"], blip2["vectors"], blip2["dimension"]) == (["encoder", "matcher"], 32, 256)
    assert (blip2["licence"], blip2["here"]) == ("MIT", False)


def test_the_list_is_light(environment):
    code = (
        "import sys; sys.argv = ['mmrag', 'models']\n"
        "from mmrag.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'huggingface_hub', 'numpy', 'onnxruntime', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "clip-b32" in done.stdout


def test_all_has_open_clips(environment):
    open_clip = pytest.importorskip("open_clip", reason="needs the torch extra")
    lines = run("models", "--all", env=environment).stdout.splitlines()
    known = {entry.model for entry in entries().values()}
    listed = {f"openclip:{architecture}/{tag}" for architecture, tag in open_clip.list_pretrained()} - known
    assert set(lines[-len(listed) :]) == listed


def test_pull_show_and_list(server, environment):
    assert "no; mmrag models pull clip-b32" in run("models", "show", "clip-b32", env=environment).stdout
    done = run("models", "pull", "clip-b32", env=environment)
    assert done.stdout.startswith(f"hf:{REPOSITORY} is here and whole, 0 MB, 0 of them fetched now: ")
    assert done.stdout.endswith(f"{COMMIT}\n")
    assert done.stderr == ""
    again = json.loads(run("models", "pull", "clip-b32", "--json", env=environment).stdout)
    assert (again["size"], again["received"], again["commit"]) == (300_002, 0, COMMIT)
    (line,) = [one for one in run("models", env=environment).stdout.splitlines() if one.startswith("clip-b32 ")]
    assert line.endswith("✓")
    facts = json.loads(run("models", "show", "clip-b32", "--json", env=environment).stdout)
    assert facts["here"]


def test_show_tells_the_real_card(environment):
    lines = run("models", "show", "builtin", env=environment).stdout.splitlines()
    facts = dict(line.split(maxsplit=1) for line in lines)
    assert facts["dimension"] == "384"
    assert facts["here"] == "yes"
    assert facts["revision"] == "754f1523"
    assert run("models", "show", "nonsense", code=1, env=environment).stderr.startswith("mmrag: there is no model")


@pytest.mark.parametrize("arguments", [["--offline", "models", "pull"], ["models", "pull", "--offline"]])
def test_offline_asks_nobody(server, environment, arguments):
    message = run(*arguments, "clip-b32", code=1, env=environment).stderr
    assert message == (
        f"mmrag: {REPOSITORY} is not here, or only in part, and the network is switched off "
        "(--offline, HF_HUB_OFFLINE): pull it once without\n"
    )
    assert server.log == []
    run("models", "pull", "clip-b32", env=environment)
    asked = len(server.log)
    assert "is here and whole" in run(*arguments, "clip-b32", env=environment).stdout
    assert len(server.log) == asked


def test_what_needs_no_pull(environment, tmp_path):
    assert run("models", "pull", "builtin", env=environment).stdout.startswith("builtin ships with mmrag")
    message = run("models", "pull", str(tmp_path), code=1, env=environment).stderr
    assert "it is a folder, which is used as it is" in message


def test_pull_shows_bytes_on_a_terminal(server, environment):
    server.pause = 0.02
    _, told = in_terminal("models", "pull", "clip-b32", env=environment)
    assert "300.0" in told
    assert "kB" in told


def test_ctrl_c_keeps_what_came(server, environment):
    server.pause = 0.1
    process = subprocess.Popen(
        [sys.executable, "-m", "mmrag", "models", "pull", "clip-b32"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while server.served < 50_000:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert told == "mmrag: stopped; mmrag models pull clip-b32 fetches what is missing\n"
    server.pause = 0
    assert json.loads(run("models", "pull", "clip-b32", "--json", env=environment).stdout)["received"] < 300_000


def in_terminal(*arguments, **options):
    """Run a command whose stderr is a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "mmrag", *arguments], stdout=subprocess.PIPE, stderr=theirs, text=True, **options
    )
    os.close(theirs)
    told = b""
    try:
        while part := os.read(ours, 4096):
            told += part
    except OSError:  # how a terminal ends
        pass
    os.close(ours)
    with process:
        output = process.stdout.read()
    assert process.returncode == 0, told
    return output, told.decode()


def test_a_search_offers_a_better_model_once(colours, environment):
    run("index", "images", "--model", "builtin", env=environment)
    offer = "mmrag models pull clip-b32 && mmrag index FOLDER --model clip-b32"
    for quiet in (["--json"], ["--paths"]):
        assert in_terminal("search", "red", "--all", *quiet, env=environment)[1] == ""
    assert run("search", "red", "--all", env=environment).stderr == ""
    assert offer in in_terminal("search", "red", "--all", env=environment)[1]
    assert in_terminal("search", "red", "--all", env=environment)[1] == ""
    run("index", "images", "--index", "other", env=environment)
    assert offer in in_terminal("search", "red", "--all", "--index", "other", env=environment)[1]


def test_an_offer_that_cannot_be_remembered_is_not_made(colours, environment, tmp_path):
    run("index", "images", env=environment)
    (tmp_path / "file").touch()
    blocked = {**environment, "XDG_CACHE_HOME": str(tmp_path / "file")}
    assert in_terminal("search", "red", "--all", env=blocked)[1] == ""
