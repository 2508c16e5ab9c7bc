"""Fetching models from a hub on this machine: whole, cut short, spoilt, refused, and not at all."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants
from PIL import Image

import mmrag.models
from mmrag.errors import ModelError
from mmrag.models import cache, hub, registry
from mmrag.models import pull as pulling
from mmrag.models.checkpoint import Checkpoint
from mmrag.models.pull import pull
from mmrag.models.registry import absolute_name, load_encoder
from tests.models.hub_server import COMMIT, LARGE, Hub
from tests.test_disk import disk, disk_with  # noqa: F401

BUILTIN = Path(mmrag.models.__file__).parent / "builtin"
REPOSITORY = "someone/model"
NAME = f"hf:{REPOSITORY}"
WEIGHTS = np.random.default_rng(0).bytes(3_000_000)
FILES = {
    ".gitattributes": b"*.bin filter=lfs",
    "README.md": b"---\nlicense: mit\n---\n",
    "config.json": b'{"model_type": "clip"}',
    "vocab.json": b'{"a": 1}' + b" " * 200_000,
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"p" * 2_000_000,
    "tf_model.h5": b"h" * 2_000_000,
    "modeling_clip.py": b"raise SystemExit",
    "onnx/model.onnx": b"o" * 2_000_000,
}
NEEDED = {"README.md", "config.json", "vocab.json", "model.safetensors"}
SIZE = sum(len(FILES[name]) for name in NEEDED)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A hub, and an empty cache folder."""
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(pulling, "_PAUSE", 0.01)
    with Hub({REPOSITORY: dict(FILES)}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        yield server
        huggingface_hub.close_session()


def fails(name=NAME, **options):
    """The one line that a pull fails with, within seconds."""
    start = time.perf_counter()
    with pytest.raises(ModelError) as caught:
        pull(name, **options)
    assert time.perf_counter() - start < 10
    assert "\n" not in str(caught.value)
    return str(caught.value)


def blobs():
    return sorted(cache.repository_folder(REPOSITORY).glob("blobs/*"))


def test_a_pull_fetches_what_is_needed_and_nothing_else(server):
    told = []
    done = pull(NAME, progress=lambda *state: told.append(state))
    assert {path.relative_to(done.folder).as_posix() for path in done.folder.rglob("*")} == NEEDED
    assert all((done.folder / name).read_bytes() == FILES[name] for name in NEEDED)
    assert (done.commit, done.size, done.received, server.served) == (COMMIT, SIZE, SIZE, SIZE)
    assert told[-1] == (SIZE, SIZE)
    assert told == sorted(told)
    assert Checkpoint.locate(REPOSITORY).path == done.folder.resolve()
    assert COMMIT in Checkpoint.locate(REPOSITORY).source.name
    assert Checkpoint.locate(f"{REPOSITORY}@{COMMIT}").path == done.folder.resolve()


def test_how_conversations_are_put_comes_with_a_model(server):
    template = b"{% for message in messages %}{{ message['content'] }}{% endfor %}"
    server.repositories[REPOSITORY] = {**FILES, "chat_template.jinja": template}
    assert (pull(NAME).folder / "chat_template.jinja").read_bytes() == template


def test_the_cache_is_as_huggingface_hub_makes_it(server, tmp_path):
    """Its own client, at the same server: the same listing, blobs, links and refs."""
    theirs = tmp_path / "theirs"
    for name in NEEDED:
        huggingface_hub.hf_hub_download(REPOSITORY, name, cache_dir=theirs, endpoint=server.address)
    info = huggingface_hub.HfApi(endpoint=server.address).model_info(REPOSITORY, revision="main", files_metadata=True)
    listing = hub.list_files(REPOSITORY, "main")
    assert (info.sha, {one.rfilename: one.size for one in info.siblings}) == (
        listing.commit,
        {file.path: file.size for file in listing.files.values()},
    )
    assert {one.rfilename: one.lfs.sha256 for one in info.siblings if one.lfs}.items() <= {
        file.path: file.digest for file in listing.files.values()
    }.items()
    pull(NAME)
    assert len(layout(theirs)) == 2 * len(NEEDED) + 1
    assert layout(cache.hub_cache()) == layout(theirs)


def layout(folder):
    """Names in a cache, where links point, and what small files hold."""
    kept = [path for path in folder.glob("models--*/**/*") if path.parts[len(folder.parts) + 1] != "trees"]
    return {
        path.relative_to(folder).as_posix(): path.readlink() if path.is_symlink() else path.read_bytes()
        for path in kept
        if path.is_file()
    }


def test_huggingface_hub_finds_what_was_pulled(server):
    folder = pull(NAME).folder
    found = huggingface_hub.snapshot_download(REPOSITORY, cache_dir=cache.hub_cache(), local_files_only=True)
    assert found == str(folder)
    assert huggingface_hub.try_to_load_from_cache(REPOSITORY, "config.json", cache_dir=cache.hub_cache())


def test_a_second_pull_fetches_nothing(server):
    whole = pull(NAME)
    served = server.served
    again = pull(NAME)
    assert (again.received, server.served) == (0, served)
    assert again.folder == whole.folder


def test_bin_only_where_there_is_no_safetensors(server):
    files = server.repositories[REPOSITORY]
    del files["model.safetensors"]
    folder = pull(NAME).folder
    assert {path.name for path in folder.iterdir()} == NEEDED - {"model.safetensors"} | {"pytorch_model.bin"}
    del files["pytorch_model.bin"]
    server.repositories["someone/flax"] = files
    assert "has none of the files that mmrag reads" in fails("hf:someone/flax")


def test_shards_layers_and_indexes(server):
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index = {"weight_map": {"a": shards[0], "b": shards[1]}}
    server.repositories[REPOSITORY] = {
        "config.json": b"{}",
        "modules.json": b"[]",
        "1_Pooling/config.json": b"{}",
        "2_Dense/pytorch_model.bin": b"dense",
        "checkpoint-5/config.json": b"{}",
        "qformer_tokenizer/vocab.txt": b"a",
        "model.safetensors.index.json": json.dumps(index).encode(),
        **{shard: shard.encode() for shard in shards},
        "pytorch_model.bin.index.json": b"{}",
        "pytorch_model-00001-of-00001.bin": b"x",
        "model.fp16.safetensors": b"x",
        "training_args.bin": b"x",
    }
    folder = pull(NAME).folder
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {
        *("config.json", "modules.json", "1_Pooling/config.json", "2_Dense/pytorch_model.bin"),
        "qformer_tokenizer/vocab.txt",
        *("model.safetensors.index.json", *shards),
    }
    (folder / shards[1]).resolve().unlink()
    with pytest.raises(ModelError, match=rf"only in part, without {shards[1]}; fetch the rest: mmrag models pull hf:"):
        Checkpoint.locate(REPOSITORY)
    assert pull(NAME).received == len(shards[1])
    assert Checkpoint.locate(REPOSITORY)


def test_a_file_system_without_links_gets_copies(server, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError("no such links here")

    server.repositories[REPOSITORY]["onnx/vision_model.onnx"] = b"vision"
    monkeypatch.setattr(pulling.os, "link", refuse)
    monkeypatch.setattr(pulling.Path, "symlink_to", refuse)
    for _ in range(2):
        folder = pull(f"onnx:{REPOSITORY}").folder
        assert (folder / "onnx" / "vision_model.onnx").read_bytes() == b"vision"
        assert not (folder / "config.json").is_symlink()
        assert {path.name for path in (folder / "onnx").iterdir()} == {"vision_model.onnx", "model.onnx"}


def test_onnx_repositories_are_fetched_for_onnx_only(server):
    server.repositories[REPOSITORY] |= {
        name: name.encode()
        for name in ("onnx/vision_model.onnx", "onnx/text_model.onnx", "onnx/vision_model_fp16.onnx", "tokenizer.json")
    }
    folder = pull(f"onnx:{REPOSITORY}").folder
    towers = {path.name for path in (folder / "onnx").iterdir()}
    assert towers == {"vision_model.onnx", "text_model.onnx", "model.onnx"}
    assert not (folder / "model.safetensors").exists()
    with pytest.raises(ModelError, match="only in part, without its weights; fetch the rest: mmrag models pull hf:"):
        Checkpoint.locate(REPOSITORY)


def test_cut_connections_are_resumed_at_once(server):
    server.cuts = [1_000_000, 500_000]
    done = pull(NAME)
    assert (done.folder / "model.safetensors").read_bytes() == WEIGHTS
    assert server.served == done.received < SIZE + 2 * 16_384
    first, *others = server.asked("model.safetensors")
    assert "range" not in first
    assert len(others) == 2
    assert all("range" in headers for headers in others)


def test_a_lost_connection_keeps_what_came_and_the_next_pull_goes_on(server):
    server.cuts = [1_000_000, 0, 0, 0, 0]
    message = fails()
    assert "the connection was lost with 1.0 of 3.0 MB of model.safetensors here; pull again" in message
    with pytest.raises(
        ModelError, match=r"only in part, its download has not ended; fetch the rest: mmrag models pull"
    ):
        Checkpoint.locate(REPOSITORY)
    kept = next(path.stat().st_size for path in blobs() if path.suffix == ".incomplete")
    server.cuts, server.served = [], 0
    pull(NAME)
    assert server.served == len(WEIGHTS) - kept
    assert not [path for path in blobs() if path.suffix == ".incomplete"]


def test_a_server_without_ranges_sends_all_again(server):
    server.cuts, server.ranges = [1_000_000], False
    done = pull(NAME)
    assert (done.folder / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("ranges", [True, False])
def test_answers_that_end_too_early_come_to_an_end(server, ranges):
    server.short, server.tells_length, server.ranges = 100_000, False, ranges
    server.cuts = [0] * (not ranges)
    if ranges:
        assert (pull(NAME).folder / "model.safetensors").read_bytes() == WEIGHTS
        return
    assert "0.1 of 3.0 MB of model.safetensors here; pull again" in fails()
    server.short = 0
    assert "The hub ends its answers too early" in fails()
    assert len(server.asked("model.safetensors")) < 12


@pytest.mark.parametrize("start", [0, 1_000_000])
def test_another_files_length_is_refused(server, start):
    if start:
        server.cuts = [start, 0, 0, 0]
        fails()
    server.short, server.ranges = 200_000, False
    message = fails()
    assert "lists model.safetensors with 3000000 bytes and answers with others (200000)" in message
    server.short = None
    assert (pull(NAME).folder / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("variable", "value"),
    [("ALL_PROXY", "socks5://127.0.0.1:1"), ("HTTPS_PROXY", "nonsense://x"), ("HTTP_PROXY", "http://a:b")],
)
def test_a_proxy_that_cannot_be_used(server, monkeypatch, variable, value):
    huggingface_hub.close_session()
    monkeypatch.setenv(variable, value)
    message = fails()
    assert message.startswith("no connection can be made with the proxies or certificates of the environment (")
    assert variable in message


def test_what_is_longer_than_the_file_is_not_kept(server):
    server.cuts = [1_000_000, 0, 0, 0]
    fails()
    aside = next(path for path in blobs() if path.suffix == ".incomplete")
    aside.write_bytes(WEIGHTS + b"and more")
    assert "came with another hash" in fails()
    assert (pull(NAME).folder / "model.safetensors").read_bytes() == WEIGHTS


def test_a_killed_pull_goes_on_where_it_was(server):
    server.pause = 0.005
    process = subprocess.Popen([sys.executable, "-m", "mmrag", "models", "pull", NAME], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while max((p.stat().st_size for p in blobs() if p.suffix == ".incomplete"), default=0) < 500_000:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = sum(path.stat().st_size for path in blobs())
    assert 500_000 < kept < SIZE
    server.pause = 0
    time.sleep(0.2)  # until the server has noticed
    server.served = 0
    done = subprocess.run(
        [sys.executable, "-m", "mmrag", "models", "pull", NAME], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert f"{NAME} is here and whole, 3 MB, " in done.stdout
    assert server.served == SIZE - kept
    assert (cache.snapshot(REPOSITORY) / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_spoilt_bytes_are_removed(server, name):
    server.spoilt = {name}
    message = fails()
    assert message.startswith(f"{name} of {REPOSITORY} came with another hash than {server.address} lists")
    assert not cache.is_here(REPOSITORY)
    server.spoilt = set()
    assert (pull(NAME).folder / name).read_bytes() == FILES[name]


def test_a_file_that_went_bad_on_disk_is_fetched_again(server, caplog):
    folder = pull(NAME).folder
    blob = (folder / "model.safetensors").resolve()
    blob.write_bytes(WEIGHTS[:-1] + b"x" if WEIGHTS[-1:] != b"x" else WEIGHTS[:-1] + b"y")
    assert pull(NAME).received == len(WEIGHTS)
    assert "model.safetensors was damaged" in caplog.text
    assert blob.read_bytes() == WEIGHTS


def test_names_that_the_hub_does_not_have(server):
    message = fails("hf:openai/clip-vit-base-patch23")
    assert message.startswith(f"{server.address} has no model 'openai/clip-vit-base-patch23', or a private one")
    assert "HF_TOKEN" in message
    assert "Did you mean clip-b32" in message
    assert "has no revision 'v9'; without @v9 its newest is fetched" in fails(f"{NAME}@v9")
    assert "is no name of a hub's repository" in fails("hf:../../etc/passwd")
    assert "Did you mean siglip2-base" in fails("siglip2-bas")
    assert "FAMILY" not in fails("nonsense:x/y")


def test_private_models_need_a_token(server, monkeypatch):
    server.private[REPOSITORY] = "secret"
    assert "set HF_TOKEN to a token that may read it" in fails()
    monkeypatch.setenv("HF_TOKEN", "wrong")
    assert "set HF_TOKEN to a token that may read it" in fails()
    monkeypatch.setenv("HF_TOKEN", "ключ")
    assert "HF_TOKEN, or the token that `hf auth login` stored, is none" in fails()
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert pull(NAME).received == SIZE


def test_gated_models_name_their_page(server):
    server.gated.add(REPOSITORY)
    assert f"is gated: accept its licence on {server.address}/{REPOSITORY}, set HF_TOKEN" in fails()


def test_a_token_stays_with_the_hub(server, monkeypatch):
    server.private[REPOSITORY] = "secret"
    monkeypatch.setenv("HF_TOKEN", "secret")
    with Hub({REPOSITORY: dict(FILES)}) as elsewhere:
        server.elsewhere = elsewhere.address.replace("127.0.0.1", "localhost")
        pull(NAME)
        assert [path for _, path, _ in elsewhere.log] == [
            f"/{REPOSITORY}/resolve/{COMMIT}/{name}" for name in ("vocab.json", "model.safetensors")
        ]
        assert all("authorization" not in headers for _, _, headers in elsewhere.log)
    assert all(headers["authorization"] == "Bearer secret" for _, _, headers in server.log)


def test_no_hub(server, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    assert fails().startswith(f"{address} cannot be reached (")
    for wrong in ("hub.example", "http://", "http://a b", "http://a:b", "http://a:99999", "ftp://a"):
        monkeypatch.setenv("HF_ENDPOINT", wrong)
        assert f"HF_ENDPOINT must be an address such as https://huggingface.co, not {wrong.rstrip('/')!r}" in fails()


def test_a_hub_that_never_answers(server, monkeypatch):
    monkeypatch.setattr(hub, "_TIMEOUT", (0.3, 0.3, 0.3, 0.3))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "cannot be reached (timed out)" in fails()


def test_a_hub_in_trouble(server):
    server.status = 503
    assert fails() == f"{server.address} answers 503 for {REPOSITORY}; try again in a while"
    server.status = 403
    assert "refuses someone/model (403)" in fails()


def test_an_answer_that_is_not_a_hubs(server, monkeypatch):
    monkeypatch.setattr("tests.models.hub_server.digest", lambda content: "../../../../tmp/evil")
    assert "does not answer as a model hub does" in fails()
    assert not cache.hub_cache().exists()


def test_no_room_is_told_before_anything_is_fetched(server, monkeypatch):
    monkeypatch.setattr(pulling.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1_000_000))
    message = fails()
    assert "needs 3 MB more, and" in message
    assert "has 1 MB free; make room, or set HF_HOME" in message
    assert server.served == 0


def test_a_disk_that_fills_up_meanwhile(server, monkeypatch, disk):  # noqa: F811
    monkeypatch.setenv("HF_HOME", str(disk / "hf"))
    monkeypatch.setattr(pulling, "_check_room", lambda plans: None)
    with disk_with(disk, 1_000_000):
        assert "the disk is full: someone/model needs 3 MB in" in fails()
    server.served = 0
    assert (pull(NAME).folder / "model.safetensors").read_bytes() == WEIGHTS
    assert server.served < SIZE - 500_000


def test_a_cache_that_may_not_be_written(server, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HF_HOME", str(tmp_path / "file"))
    assert "set HF_HOME to a folder that may be written" in fails()


def test_two_pulls_at_once(server):
    server.cuts = [1_000_000, 0, 0, 0]
    fails()
    aside = next(path for path in blobs() if path.suffix == ".incomplete")
    holder = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import fcntl, sys, time; f = open(sys.argv[1], 'ab'); fcntl.flock(f, fcntl.LOCK_EX); print('held');"
            "sys.stdout.flush(); time.sleep(60)",
            str(aside),
        ],
        stdout=subprocess.PIPE,
    )
    with holder:
        holder.stdout.readline()
        assert fails() == f"another process is fetching {REPOSITORY}; wait until it is done"
        holder.kill()


def test_a_pull_that_comes_second_finds_it_done(server, monkeypatch):
    """Another pull ends between its looking for the file and its taking the lock."""

    def lock(out):
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(pulling, "_lock", ours)
            pull(NAME)
        return ours(out)

    ours = pulling._lock
    monkeypatch.setattr(pulling, "_lock", lock)
    assert pull(NAME).received == 0
    assert server.served == SIZE
    assert (cache.snapshot(REPOSITORY) / "model.safetensors").read_bytes() == WEIGHTS


def test_a_file_is_locked_until_it_has_its_name(server, monkeypatch):
    held = []

    def replace(aside, name):
        with open(aside, "ab") as second:
            held.append(not pulling._lock(second))
        Path(aside).rename(name)

    monkeypatch.setattr(pulling.os, "replace", replace)
    pull(NAME)
    assert held[: len(NEEDED)] == [True] * len(NEEDED)


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_opens_no_socket(server, monkeypatch, variable):
    def never(*arguments, **options):
        raise AssertionError("a socket was opened")

    monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(socket, "socket", never)
    monkeypatch.setattr(socket, "getaddrinfo", never)
    assert "is not here, or only in part, and the network is switched off" in fails()
    assert server.log == []


def test_offline_knows_what_is_here(server, monkeypatch):
    folder = pull(NAME).folder
    asked = len(server.log)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert pull(NAME).folder == folder
    (folder / "model.safetensors").unlink()
    assert "only in part" in fails()
    assert len(server.log) == asked


def test_a_pulled_onnx_model_is_loaded_by_its_name(server):
    files = {path.relative_to(BUILTIN).as_posix(): path.read_bytes() for path in BUILTIN.rglob("*") if path.is_file()}
    with pytest.raises(
        ModelError, match="neither a folder nor a model that is here; fetch it: mmrag models pull onnx:"
    ):
        load_encoder(f"onnx:{REPOSITORY}")
    server.repositories[REPOSITORY] = files
    assert pull(f"onnx:{REPOSITORY}").received > pull(f"onnx:{REPOSITORY}").received == 0
    assert absolute_name(f"onnx:{REPOSITORY}") == f"onnx:{REPOSITORY}"
    pulled, builtin = load_encoder(f"onnx:{REPOSITORY}"), load_encoder("builtin")
    assert pulled.identity == builtin.identity
    assert np.allclose(pulled.encode_text(["a dog"]), builtin.encode_text(["a dog"]), atol=1e-5)


def test_a_pulled_clip_is_the_one_that_was_stored(server, tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs the torch extra")
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        vision_config={**sizes, "image_size": 32, "patch_size": 16}, text_config=sizes, projection_dim=24
    )
    model = transformers.CLIPModel(config)
    model.save_pretrained(tmp_path / "clip")
    about = {"size": {"shortest_edge": 32}, "crop_size": 32, "image_processor_type": "CLIPImageProcessor"}
    (tmp_path / "clip" / "preprocessor_config.json").write_text(json.dumps(about))
    shutil.copyfile(BUILTIN / "tokenizer.json", tmp_path / "clip" / "tokenizer.json")
    server.repositories[REPOSITORY] = {path.name: path.read_bytes() for path in (tmp_path / "clip").iterdir()}
    pull(NAME)
    folder = Checkpoint.locate(REPOSITORY).path
    again = transformers.AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    stored = model.state_dict()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in again.state_dict().items())
    if "hf" not in registry._FAMILIES:
        pytest.skip("the family hf is not there; the checkpoint was compared")
    pictures = [Image.new("RGB", (40, 50), colour) for colour in ("red", "blue")]
    vectors = load_encoder(NAME).encode_image(pictures)
    assert vectors.shape == (2, 24)
    assert np.allclose(vectors, load_encoder(f"hf:{tmp_path / 'clip'}").encode_image(pictures), atol=1e-6)


def test_open_clip_and_timm_name_their_repositories(server, monkeypatch):
    pytest.importorskip("open_clip", reason="needs the torch extra")
    server.repositories |= {
        "laion/CLIP-ViT-B-32-xlm-roberta-base-laion5B-s13B-b90k": {
            "open_clip_config.json": b"{}",
            "open_clip_pytorch_model.bin": b"pickle",
            "open_clip_model.safetensors": b"safe",
        },
        "xlm-roberta-base": {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"not needed"},
        "timm/resnet50.a1_in1k": {"config.json": b"{}", "model.safetensors": b"safe", "pytorch_model.bin": b"pickle"},
    }
    folder = pull("openclip-multilingual").folder
    assert {path.name for path in folder.iterdir()} == {"open_clip_config.json", "open_clip_model.safetensors"}
    text = cache.snapshot("xlm-roberta-base")
    assert {path.name for path in text.iterdir()} == {"config.json", "tokenizer.json"}
    assert {path.name for path in pull("timm:resnet50").folder.iterdir()} == {"config.json", "model.safetensors"}
    assert "OpenCLIP has no weights 'nonsense' of 'ViT-B-32'; it has: openai, laion400m_e31" in fails(
        "openclip:ViT-B-32/nonsense"
    )
    assert "timm knows of no weights 'resnet5000'" in fails("timm:resnet5000")
    assert "Invalid pretrained tag (nonsense) for resnet50" in fails("timm:resnet50.nonsense")


def test_large_and_small_files_are_both_among_those_tested():
    assert len(FILES["config.json"]) < LARGE < len(FILES["vocab.json"])
