"""Cross-encoders beside sentence-transformers' own, on random weights that make logits depend on both texts."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from mmrag.errors import ModelError
from mmrag.models.registry import load_matcher

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
sentence_transformers = pytest.importorskip("sentence_transformers")

from tests.models import tiny_cross  # noqa: E402
from tests.models.tiny_cross import WORDS, shake  # noqa: E402

QUERIES = ["a dog in the snow", "red car", "woman reads", "the sea at night with a very green sky of two"]
TEXTS = [
    "the dog plays in the snow with a man",
    "snow",
    "a red car stands on the beach",
    "a green car",
    "two cat on the mountain of the sea in the night with a woman",
    "book",
    "the man reads a red book",
]
LONG = " ".join(WORDS * 3)


@pytest.fixture(scope="module", params=["bert", "distilbert", "roberta"])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"cross-{request.param}")
    tiny_cross.write(request.param, folder)
    return folder


@pytest.fixture
def matcher(folder):
    return load_matcher(f"cross:{folder}")


def reference(folder, pairs, activation=None):
    """What sentence-transformers' CrossEncoder says of pairs."""
    model = sentence_transformers.CrossEncoder(str(folder), device="cpu", local_files_only=True)
    return model.predict(pairs, activation_fn=activation or torch.nn.Identity(), show_progress_bar=False)


def change(path, **settings):
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def logits(matcher, queries=QUERIES, texts=TEXTS):
    return matcher.match(queries, matcher.features(texts)).logits


def expected(folder, queries=QUERIES, texts=TEXTS):
    found = reference(folder, [(query, text) for query in queries for text in texts])
    return found.reshape(len(queries), len(texts))


def distance(found, other):
    """The largest difference, as a fraction of how much logits vary from text to text."""
    spread = other.std(axis=1).mean()
    assert spread >= 0.5, "the network is blind: nothing would be compared"
    return np.abs(found - other).max() / spread


def test_logits_and_probabilities_are_the_references(folder, matcher):
    assert distance(logits(matcher), expected(folder)) <= 1e-4
    judged = matcher.match(QUERIES[:1], TEXTS)
    pairs = [(QUERIES[0], text) for text in TEXTS]
    assert np.abs(judged.probabilities[0] - reference(folder, pairs, torch.nn.Sigmoid())).max() < 1e-5
    assert judged.cosines is None
    assert np.array_equal(judged.scores, judged.logits)


def test_rank_lists_equal_a_plain_double_loops(folder, matcher):
    found = np.argsort(-logits(matcher), axis=1)
    model = sentence_transformers.CrossEncoder(str(folder), device="cpu", local_files_only=True)
    for query, order in zip(QUERIES, found.tolist(), strict=True):
        assert order == [one["corpus_id"] for one in model.rank(query, TEXTS, show_progress_bar=False)]


def test_long_texts_are_cut_as_the_reference_cuts_them(folder, matcher, caplog):
    with caplog.at_level(logging.WARNING, "mmrag"):
        found = logits(matcher, [QUERIES[0], LONG], [*TEXTS, LONG])
    assert distance(found, expected(folder, [QUERIES[0], LONG], [*TEXTS, LONG])) <= 1e-4
    assert "reads 40 tokens; of 9 of 16 pairs the rest is cut" in caplog.text


def test_the_comparison_would_notice(folder, matcher, monkeypatch):
    right = expected(folder)
    assert distance(logits(matcher, [QUERIES[0], *QUERIES[:3]]), right) > 0.01  # another query
    assert distance(logits(matcher, texts=[TEXTS[0], *TEXTS[:6]]), right) > 0.01  # another text
    assert distance(logits(matcher)[:, ::-1], right) > 0.01

    def without(name, value):
        from mmrag.models import cross_encoder

        laid_out = cross_encoder._laid_out
        with monkeypatch.context() as patch:
            patch.setattr(
                "mmrag.models.cross_encoder._laid_out",
                lambda *some: (arrays := laid_out(*some)) | {name: np.full_like(arrays[name], value)},
            )
            return distance(logits(matcher), right)

    assert without("attention_mask", 1) > 0.01
    if folder.name.startswith("cross-bert"):
        assert without("token_type_ids", 0) > 0.01
    with torch.no_grad():
        weight = next(weight for name, weight in matcher.network.named_parameters() if "layer.1." in name)
        weight *= 1.1
    assert distance(logits(matcher), right) > 0.01


def test_a_folder_that_sentence_transformers_wrote_is_read(folder, matcher, tmp_path):
    sentence_transformers.CrossEncoder(str(folder), device="cpu", local_files_only=True).save_pretrained(str(tmp_path))
    assert np.allclose(logits(load_matcher(f"cross:{tmp_path}")), logits(matcher), atol=1e-5)


def test_only_wanted_pairs_are_judged_whatever_the_order_and_the_batch(matcher, monkeypatch):
    right = logits(matcher)
    wanted = np.random.default_rng(0).random(right.shape) < 0.4
    judged = matcher.match(QUERIES, TEXTS, wanted)
    assert np.array_equal(np.isnan(judged.logits), ~wanted)
    assert np.array_equal(np.isnan(judged.probabilities), ~wanted)
    assert np.allclose(judged.logits[wanted], right[wanted], atol=1e-5)
    assert np.allclose(logits(matcher, QUERIES[::-1], TEXTS[::-1])[::-1, ::-1], right, atol=1e-5)
    monkeypatch.setattr(type(matcher), "batch", 1)
    assert np.allclose(logits(matcher), right, atol=1e-5)
    assert matcher.match([], TEXTS).logits.shape == (0, 7)
    assert matcher.match(QUERIES, []).logits.shape == (4, 0)


def test_bf16_is_near(matcher):
    found, right = logits(matcher.at_precision("bf16")), logits(matcher)
    assert 0 < distance(found, right) < 0.3


def test_as_many_tokens_as_there_are_positions_whatever_the_tokenizer_says(tmp_path):
    tiny_cross.write("roberta", tmp_path)
    change(tmp_path / "tokenizer_config.json", model_max_length=512)
    matcher = load_matcher(f"cross:{tmp_path}")
    assert matcher.card.max_tokens == tiny_cross.TOKENS
    assert np.isfinite(logits(matcher, [LONG], [LONG])).all()


def test_a_vocabulary_is_tokenizer_enough(tmp_path):
    tiny_cross.write("bert", tmp_path)
    right = logits(load_matcher(f"cross:{tmp_path}"))
    known = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(known, key=known.get)))
    assert np.allclose(logits(load_matcher(f"cross:{tmp_path}")), right, atol=1e-5)


def test_the_card(tmp_path):
    tiny_cross.write("bert", tmp_path)
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: en\n---\n")
    card = load_matcher(f"cross:{tmp_path}").card
    assert (card.roles, card.dimension, card.languages) == (("matcher",), 0, ("en",))
    assert card.licence_weights == card.sources[0].licence == "apache-2.0"


def test_int8_promises_no_export(matcher):
    with pytest.raises(ModelError, match="in int8; it computes in fp32, bf16 or fp16"):
        matcher.at_precision("int8")


def test_what_is_no_cross_encoder_is_refused(folder, tmp_path):
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "id2label": {"0": "no", "1": "yes"}}))
    with pytest.raises(ModelError, match="gives 2 logits for a pair of texts"):
        load_matcher(f"cross:{tmp_path}")
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    with pytest.raises(ModelError, match="is no cross-encoder: its network is BertModel"):
        load_matcher(f"cross:{tmp_path}")


def test_the_identity_changes_with_the_weights(folder, matcher, tmp_path):
    assert load_matcher(f"cross:{folder}").identity == matcher.identity
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    network = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    shake(network, seed=1)
    network.save_pretrained(tmp_path)
    assert load_matcher(f"cross:{tmp_path}").identity.difference(matcher.identity)
