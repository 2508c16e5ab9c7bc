"""A training that travels: packed here, run where there is neither mmrag nor its dependencies, joined here."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("transformers", reason="needs the torch extra")

from safetensors.torch import load_file  # noqa: E402

from mmrag.errors import InputError  # noqa: E402
from mmrag.models.registry import load_encoder  # noqa: E402
from mmrag.sources.pairs import Pair, open_pairs  # noqa: E402
from mmrag.train.__main__ import main  # noqa: E402
from mmrag.train.bundle import pack, shrunk, write_pairs  # noqa: E402
from mmrag.train.loop import fit  # noqa: E402
from mmrag.train.pieces import cut, join  # noqa: E402
from mmrag.train.recipe import load_recipe  # noqa: E402
from mmrag.train.tasks import open_task  # noqa: E402
from tests.train.drawn import make_model, pairs  # noqa: E402

ABSENT = ["onnxruntime", "lancedb", "lance", "pyarrow", "typer", "rich", "open_clip", "faiss", "peft", "pillow_heif"]
ABSENT += ["onnx", "onnx_ir", "onnxscript", "openvino", "tensorboard", "sentence_transformers", "datasets"]

RECIPE = """
task = "contrastive"
start = "{start}"
[data]
batch_size = 8
text_key = "words"
[optimizer]
learning_rate = 1e-3
[loop]
epochs = 2
"""


def write_jsonl(folder, some):
    folder.mkdir()
    lines = []
    for number, pair in enumerate(some):
        (folder / f"{number}.png").write_bytes(pair.image)
        lines.append(json.dumps({"image": f"{number}.png", "words": pair.texts}) + "\n")
    (folder / "pairs.jsonl").write_text("".join(lines))
    return folder / "pairs.jsonl"


def bare(folder, *arguments):
    """Run the bundle's own mmrag in a process that has little else."""
    code = (
        f"import sys; sys.modules |= dict.fromkeys({ABSENT})\n"
        f"import mmrag; assert mmrag.__file__.startswith({str(folder)!r}), mmrag.__file__\n"
        f"sys.argv = ['train', *{list(arguments)}]\n"
        "import runpy; runpy.run_module('mmrag.train', run_name='__main__', alter_sys=True)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, env=environment, timeout=300
    )


def test_a_model_trained_elsewhere_is_the_one_trained_here(tmp_path):
    start = make_model("clip", tmp_path / "clip")
    jsonl = write_jsonl(tmp_path / "pictures", pairs(1))
    (tmp_path / "mine.toml").write_text(RECIPE.format(start=start))
    recipe = load_recipe(str(tmp_path / "mine.toml"))
    here = tmp_path / "here"
    task = open_task(recipe.task, start=start, settings={})
    fit(task, open_pairs([jsonl], text_key="words"), out=here, recipe=recipe)

    packed, there = tmp_path / "packed", tmp_path / "there"
    main(["pack", str(jsonl), "--recipe", str(tmp_path / "mine.toml"), "--limit", "5", "--out", str(packed)])
    assert len(list(packed.glob("piece-*"))) > 1
    assert max(path.stat().st_size for path in packed.iterdir()) <= 5_000_000
    there.mkdir()
    subprocess.run("cat piece-* | tar -x -C ../there", shell=True, check=True, cwd=packed)  # noqa: S602, S609
    done = bare(there, "run", "--out", "model", "--pieces", "back", "--limit", "2")
    assert done.returncode == 0, done.stderr
    assert max(path.stat().st_size for path in (there / "back").iterdir()) <= 2_000_000
    main(["join", str(there / "back"), "--out", str(tmp_path / "mine")])

    learnt, found = (load_file(folder / "model.safetensors") for folder in (here, tmp_path / "mine"))
    began = load_file(tmp_path / "clip" / "model.safetensors")
    assert learnt.keys() == found.keys()
    assert all(torch.equal(learnt[name], found[name]) for name in learnt)
    assert any(not torch.equal(learnt[name], began[name]) for name in learnt)
    vectors = [load_encoder(str(folder)).encode_text(["a red area left"]) for folder in (here, tmp_path / "mine")]
    assert np.array_equal(*vectors)


def test_models_that_settings_name_travel_too(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(name)
    (tmp_path / "mine.toml").write_text(
        f'task = "contrastive"\nstart = "{tmp_path}/one"\n[settings.distill]\nteacher = "{tmp_path}/other"\n'
    )
    pack(load_recipe(str(tmp_path / "mine.toml")), pairs(1)[:2], tmp_path / "bundle", val=pairs(2)[:3])
    written = json.loads((tmp_path / "bundle" / "recipe.json").read_text())
    assert (tmp_path / "bundle" / written["start"] / "config.json").read_text() == "one"
    teacher = written["settings"]["distill"]["teacher"]
    assert (tmp_path / "bundle" / teacher / "config.json").read_text() == "other"
    assert str(tmp_path) not in json.dumps(written)
    assert [len(open_pairs([tmp_path / "bundle" / name])) for name in ("pairs.tar", "val.tar")] == [2, 3]


def test_what_is_no_bundle_is_said(tmp_path, capsys):
    with pytest.raises(SystemExit, match="1"):
        main(["run", "--bundle", str(tmp_path), "--out", str(tmp_path / "out")])
    assert "there is no bundle in" in capsys.readouterr().err


# --- pairs ------------------------------------------------------------------------------------------------------------


def picture(kind, size):
    file = io.BytesIO()
    Image.radial_gradient("L").resize(size).convert("RGB").save(file, kind)
    return file.getvalue()


def test_pictures_are_shrunk_to_what_is_needed():
    suffix, data = shrunk(picture("JPEG", (400, 300)), 100)
    assert (suffix, Image.open(io.BytesIO(data)).size) == ("jpg", (133, 100))
    expected = Image.radial_gradient("L").resize((133, 100))
    assert np.abs(np.asarray(Image.open(io.BytesIO(data)).convert("L"), float) - np.asarray(expected)).mean() < 3


@pytest.mark.parametrize("side", [None, 32])
def test_what_need_not_be_shrunk_stays_as_it_is(side):
    assert shrunk(picture("PNG", (32, 40)), side) == ("png", picture("PNG", (32, 40)))
    assert shrunk(picture("GIF", (32, 40)), side)[0] == "jpg"  # everything else becomes what all machines read


def test_pairs_keep_their_order_and_texts_and_bad_ones_are_counted(tmp_path):
    some = [Pair("a/b.c", picture("PNG", (8, 8)), ("one", "zwei – 二")), Pair("bad", b"no picture", ("x",))]
    some.append(Pair("c", picture("PNG", (9, 9)), ("three",)))
    skipped = write_pairs(some, tmp_path / "pairs.tar", side=None)
    assert sum(skipped.values()) == 1
    found = list(open_pairs([tmp_path / "pairs.tar"]))
    assert [(pair.image, pair.texts) for pair in found] == [(some[0].image, some[0].texts), (some[2].image, ("three",))]
    with pytest.raises(InputError, match="none of 1 pairs can be read"):
        write_pairs(some[1:2], tmp_path / "none.tar", side=None)


# --- pieces -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    whole = tmp_path / "whole"
    (whole / "inside").mkdir(parents=True)
    (whole / "large").write_bytes(np.random.default_rng(0).bytes(50_001))
    (whole / "inside" / "empty").write_bytes(b"")
    return whole


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_pieces_make_the_folder_again(folder, tmp_path):
    written = cut(folder, tmp_path / "cut", limit=10_000)
    assert [path.stat().st_size for path in written[:-1]] == [10_000] * (len(written) - 1)
    elsewhere = tmp_path / "second transfer"
    elsewhere.mkdir()
    for path in written[3:]:
        path.rename(elsewhere / path.name)
    join([elsewhere, tmp_path / "cut"], tmp_path / "joined")
    assert contents(tmp_path / "joined") == contents(folder)


def test_missing_and_damaged_pieces_are_named(folder, tmp_path):
    written = cut(folder, tmp_path / "cut", limit=10_000)
    data = written[1].read_bytes()
    written[1].write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(InputError, match=r"piece-0001 is not what pieces\.json lists"):
        join([tmp_path / "cut"], tmp_path / "joined")
    written[1].unlink()
    with pytest.raises(InputError, match=f"piece-0001 of {len(written)} pieces is not in"):
        join([tmp_path / "cut"], tmp_path / "again")
    with pytest.raises(InputError, match="is not empty"):
        cut(folder, tmp_path / "cut", limit=10_000)
    with pytest.raises(InputError, match=r"there is no pieces\.json"):
        join([tmp_path / "whole"], tmp_path / "none")
