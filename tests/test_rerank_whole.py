"""BLIP and BLIP-2, tiny and at random, from a folder of photographs to reranked hits, against a plain double loop."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

import mmrag
from mmrag.search.pipeline import Pipeline, Rerank
from mmrag.sources.image import read_image
from tests.contracts.made import made

WORDS = ["a red car", "two dogs are playing in deep snow", "a cup of coffee on the table"]
MODELS = ["tests.models.tiny_blip:make_retrieval", "tests.models.tiny_blip2:make_retrieval"]


@pytest.fixture(params=MODELS, scope="module")
def model(request, tmp_path_factory):
    return made(request.param, tmp_path_factory)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, photographs):
    """Photographs, as they are and turned round, none of which has the content of another."""
    folder = tmp_path_factory.mktemp("corpus")
    for path in sorted(photographs.iterdir()):
        picture = Image.open(path).convert("RGB")
        picture.thumbnail((160, 160))
        picture.save(folder / f"{path.stem}.png")
        picture.rotate(180).save(folder / f"{path.stem}-turned.png")
    return folder


@pytest.fixture(scope="module")
def index(model, corpus, tmp_path_factory):
    index = mmrag.create(tmp_path_factory.mktemp("home"), model=model)
    assert not index.add(corpus).failed
    return index


@pytest.fixture(scope="module")
def judged(model, corpus):
    """The names of all pictures, and the judgement of all words with each, one by one."""
    matcher = mmrag.load_matcher(model)
    names = sorted(path.name for path in corpus.iterdir())
    pictures = [read_image((corpus / name).read_bytes()) for name in names]
    alone = [matcher.match(WORDS, matcher.features([picture])) for picture in pictures]
    return names, matcher, pictures, np.concatenate([one.scores for one in alone], axis=1)


def names_of(hits):
    return [hit.item.uri.rpartition("/")[2] for hit in hits]


@pytest.mark.parametrize("precision", ["fp16", "int8", None])
def test_hits_are_in_the_order_of_a_double_loop(index, model, judged, precision):
    names, _, _, scores = judged
    rerank = Rerank(model, top=len(names), cache_mb=64 if precision else 0, cache_precision=precision or "fp16")
    pipeline = Pipeline(rerank=rerank)
    slack = {"fp16": 2e-3, "int8": 0.1, None: 1e-3}[precision] * scores.std()
    for hits, row in zip(index.search(WORDS, k=len(names), pipeline=pipeline), scores, strict=True):
        assert sorted(names_of(hits)) == names
        expected = dict(zip(names, row, strict=True))
        assert all(abs(hit.score - expected[name]) <= slack for hit, name in zip(hits, names_of(hits), strict=True))
        found = [expected[name] for name in names_of(hits)]
        assert all(first >= second - 2 * slack for first, second in pairwise(found))


def test_the_cosine_of_recall_is_the_matchers_own(index, model):
    for hit in index.search(WORDS[0], k=5, rerank=model):
        assert hit.kind == "match"
        assert hit.parts["itc"] == pytest.approx(hit.parts["cosine"], abs=1e-6)
        assert hit.score == pytest.approx(hit.parts["logit"] + hit.parts["itc"], abs=1e-5)


def test_a_picture_finds_itself_and_its_score_is_the_mean_of_the_best(index, judged):
    names, matcher, pictures, _ = judged
    vectors = matcher.encode_image(pictures).reshape(len(pictures), -1, matcher.card.dimension)
    expected = [np.mean([max(one @ other for other in item) for one in vectors[3]]) for item in vectors]
    hits = index.search(pictures[3], k=len(names))
    assert names_of(hits)[0] == names[3]
    for hit in hits:
        assert hit.score == pytest.approx(expected[names.index(names_of([hit])[0])], abs=1e-3)
