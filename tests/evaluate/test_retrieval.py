from __future__ import annotations

import numpy as np
import pytest

import mmrag.evaluate.retrieval as retrieval
from mmrag.errors import InputError
from mmrag.evaluate import evaluate_pairs, retrieval_metrics


def slow_ranks(texts, images, owner):
    """The protocol, spelled out."""
    text_ranks = []
    for t, text in enumerate(texts):
        own = float(text @ images[owner[t]])
        text_ranks.append(1 + sum(float(text @ image) >= own for i, image in enumerate(images) if i != owner[t]))
    image_ranks = []
    for i, image in enumerate(images):
        best = max(float(image @ texts[t]) for t in range(len(texts)) if owner[t] == i)
        others = (float(image @ texts[t]) for t in range(len(texts)) if owner[t] != i)
        image_ranks.append(1 + sum(score >= best for score in others))
    return text_ranks, image_ranks


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("scores_at_once", [1, 1 << 24])
def test_agrees_with_the_slow_protocol_on_random_scores_with_ties(seed, scores_at_once, monkeypatch):
    monkeypatch.setattr(retrieval, "_SCORES_AT_ONCE", scores_at_once)
    random = np.random.default_rng(seed)
    images = random.integers(-2, 3, (23, 4)).astype(np.float32)  # whole numbers: sums are exact, ties are common
    owner = np.concatenate([np.arange(23), random.integers(0, 23, 40)])
    texts = random.integers(-2, 3, (63, 4)).astype(np.float32)
    metrics = retrieval_metrics(texts, images, owner)
    text_ranks, image_ranks = slow_ranks(texts, images, owner)
    assert metrics.text_ranks.tolist() == text_ranks
    assert metrics.image_ranks.tolist() == image_ranks
    assert len(set(text_ranks)) > 5


def test_a_model_that_says_the_same_of_everything_finds_nothing():
    constant = np.ones((20, 3), np.float32)
    report = retrieval_metrics(constant, constant, np.arange(20)).as_dict()
    assert report["text_to_image"] == {"R@1": 0.0, "R@5": 0.0, "R@10": 0.0, "median_rank": 20.0}


def test_figures_by_hand():
    images = np.eye(2, dtype=np.float32)
    texts = np.array([[1, 0], [0.2, 0.1], [0.9, 0.1]], np.float32)  # the last one belongs to picture 1
    report = retrieval_metrics(texts, images, [0, 0, 1]).as_dict()
    assert report["text_to_image"]["R@1"] == pytest.approx(66.67)
    assert report["image_to_text"] == {"R@1": 50.0, "R@5": 100.0, "R@10": 100.0, "median_rank": 1.5}
    assert (report["n_images"], report["n_texts"]) == (2, 3)


def test_every_picture_needs_a_text():
    vectors = np.eye(3, dtype=np.float32)
    with pytest.raises(InputError, match="every picture"):
        retrieval_metrics(vectors, vectors, [0, 0, 1])


def test_pairs_with_a_bad_picture(tmp_path, colours, caplog):
    lines = [f'{{"image": "{colours}/{name}.png", "text": "something {name}"}}' for name in ("red", "blue", "green")]
    (tmp_path / "bad.jpg").write_bytes(b"hello")
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join([*lines, '{"image": "bad.jpg", "text": "nothing"}']))
    report = evaluate_pairs([path], model="toy:1")
    assert report["text_to_image"]["R@1"] == 100
    assert (report["n_images"], report["n_texts"], report["model"]) == (3, 3, "toy")
    assert "bad.jpg: not a picture" in caplog.text
