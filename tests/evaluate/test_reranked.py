from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mmrag.errors import InputError
from mmrag.evaluate import evaluate_pairs, retrieval_metrics
from mmrag.evaluate.rerank import reranked_metrics
from tests.toy import COLOURS, HalvesEncoder, ToyEncoder, ToyJudge, ToyReader


def slow_rank(cosines, matches, own, top):
    """Sort by cosine, then the best `top` again by match; what is not its own comes first among equals."""
    order = sorted(range(len(cosines)), key=lambda n: (-cosines[n], own[n]))
    best = sorted(order[:top], key=lambda n: (-matches[n], own[n]))
    return next(rank for rank, n in enumerate([*best, *order[top:]], start=1) if own[n])


@pytest.mark.parametrize("vectors", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_sorting_everything_for_every_k(seed, vectors):
    random = np.random.default_rng(seed)
    images = random.integers(-2, 3, (17, vectors, 4)).astype(np.float32)  # whole numbers: ties are common
    owner = np.concatenate([np.arange(17), random.integers(0, 17, 20)])
    texts = random.integers(-2, 3, (37, 4)).astype(np.float32)
    matches = random.integers(0, 6, (37, 17)).astype(np.float32)
    cosines = np.array([[max(float(text @ one) for one in image) for image in images] for text in texts])
    image_vectors = images[:, 0] if vectors == 1 else images
    base = retrieval_metrics(texts, image_vectors, owner)
    asked: list[tuple[int, int]] = []

    def judge(pairs):
        asked.extend(map(tuple, pairs.tolist()))
        return matches[pairs[:, 0], pairs[:, 1]]

    tops = [0, 1, 5, 30]
    metrics, judged = reranked_metrics(texts, image_vectors, owner, base, tops=tops, judge=judge)
    assert judged == len(asked) == len(set(asked))
    for top in tops:
        own = [[owner[t] == i for i in range(17)] for t in range(37)]
        text_ranks = [slow_rank(cosines[t], matches[t], own[t], top) for t in range(37)]
        image_ranks = [
            slow_rank(cosines[:, i], matches[:, i], [owner[t] == i for t in range(37)], top) for i in range(17)
        ]
        assert metrics[top].text_ranks.tolist() == text_ranks
        assert metrics[top].image_ranks.tolist() == image_ranks
    assert metrics[0].text_ranks.tolist() == base.text_ranks.tolist()
    assert metrics[30].text_ranks.tolist() != base.text_ranks.tolist()


def test_only_candidates_are_judged():
    random = np.random.default_rng(9)
    texts, images = random.normal(size=(2, 30, 4)).astype(np.float32)
    base = retrieval_metrics(texts, images, np.arange(30))
    _, judged = reranked_metrics(
        texts, images, np.arange(30), base, tops=[2], judge=lambda pairs: np.zeros(len(pairs), np.float32)
    )
    assert 60 <= judged <= 120
    _, judged = reranked_metrics(texts, images, np.arange(30), base, tops=[0], judge=lambda pairs: 1 / 0)
    assert judged == 0


@pytest.fixture
def pairs(tmp_path):
    """Pictures of two colours, a brick that is nearer to red in the mean than the red one, and no picture."""
    names = [name for name in COLOURS if name not in ("white", "black")]
    lines = ['{"image": "bad.jpg", "text": "nothing"}']
    (tmp_path / "bad.jpg").write_bytes(b"hello")
    for most in names:
        for rest in names:
            pixels = np.array([COLOURS[most]] * 30 + [COLOURS[rest]] * 4 + [(90, 90, 90)] * 30, np.uint8)
            Image.fromarray(pixels.reshape(8, 8, 3)).save(tmp_path / f"{most}-{rest}.png")
        lines.append(json.dumps({"image": f"{most}-{names[0]}.png", "texts": [f"mostly {most}", f"so {most}"]}))
    lines.append(json.dumps({"image": "red-blue.png", "text": "grey"}))
    Image.new("RGB", (8, 8), (210, 40, 40)).save(tmp_path / "brick.png")
    lines.append('{"image": "brick.png", "text": "a brick"}')
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_a_matcher_finds_more_and_each_pair_is_judged_once(pairs, caplog):
    matcher = ToyJudge("other")
    told = []
    report = evaluate_pairs(
        [pairs], model=ToyEncoder(), rerank=matcher, tops=[0, 2, 99], progress=lambda *some: told.append(some)
    )
    base, two, all_of_them = report["rerank"]["at"]
    assert [one["top"] for one in (base, two, all_of_them)] == [0, 2, 99]
    for direction in ("text_to_image", "image_to_text"):
        assert base[direction] == report[direction]
        assert all_of_them[direction]["median_rank"] <= base[direction]["median_rank"]
    assert all_of_them["text_to_image"]["R@1"] > base["text_to_image"]["R@1"]
    assert report["rerank"]["pairs"] == matcher.judged == 10 * 6
    assert report["rerank"]["model"] == "toy"
    assert matcher.looked == report["n_images"] == 6
    assert matcher.compared
    assert "bad.jpg: not a picture" in caplog.text
    assert told[0] == (6, 0)
    assert told[-1] == (6, 6)


def test_cosines_that_are_known_are_not_computed_again(pairs):
    own, other = ToyJudge(), ToyJudge("other")
    one, two = (evaluate_pairs([pairs], model=ToyEncoder(), rerank=judge, tops=[3]) for judge in (own, other))
    assert one == two  # revision "other" has the very same encoder
    assert (own.compared, other.compared) == (0, 1)


def test_a_limit_takes_the_first_pairs(pairs):
    report = evaluate_pairs([pairs], model=ToyEncoder(), limit=3)
    assert (report["n_images"], report["n_texts"]) == (2, 4)
    with pytest.raises(InputError, match="limit is at least 1, not 0"):
        evaluate_pairs([pairs], model=ToyEncoder(), limit=0)


def test_models_of_several_vectors_are_measured(pairs):
    report = evaluate_pairs([pairs], model=HalvesEncoder())
    assert report["text_to_image"]["R@5"] >= 90


def test_mistakes_are_told(pairs):
    with pytest.raises(InputError, match="toy-reader judges texts only"):
        evaluate_pairs([pairs], model=ToyEncoder(), rerank=ToyReader())
    with pytest.raises(InputError, match="tops are whole numbers of at least 0"):
        evaluate_pairs([pairs], model=ToyEncoder(), rerank=ToyJudge(), tops=[-1])


def test_the_command_gives_figures_for_every_k(pairs):
    code = (
        "import sys, tests.conftest; sys.argv[0] = 'mmrag'\n"  # registers the toys
        "from mmrag.cli.main import main; main()"
    )
    arguments = ["eval", str(pairs), "--model", "judge:1", "--rerank", "judge:1", "--top", "0,2", "--limit", "5"]

    def run(*more):
        return subprocess.run(
            [sys.executable, "-c", code, *arguments, *more], capture_output=True, text=True, timeout=60, env=os.environ
        )

    report = json.loads(run("--json").stdout)
    assert [one["top"] for one in report["rerank"]["at"]] == [0, 2]
    lines = run().stdout.splitlines()
    assert [line.split("  ")[0] for line in lines[1:4]] == ["text to image", "", ""]
    assert lines[2].startswith("  top 0        R@1")
    assert lines[-1] == f"toy judged {report['rerank']['pairs']} pairs"
    assert "--top takes whole numbers and commas" in run("--top", "0,x").stderr
