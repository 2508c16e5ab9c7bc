"""A tiny Miniature in torch by itself, and run by ONNX Runtime against torch."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("transformers", reason="needs the torch extra")

import mmrag  # noqa: E402
from mmrag.errors import InputError, ModelError, RecipeError  # noqa: E402
from mmrag.evaluate import evaluate_captions, evaluate_pairs  # noqa: E402
from mmrag.models.folder import ModelFolder  # noqa: E402
from mmrag.models.miniature import Miniature, MiniatureConfig  # noqa: E402
from mmrag.models.miniature_export import export_miniature  # noqa: E402
from mmrag.models.miniature_files import SETTINGS_NAME, Judging, MiniatureSettings  # noqa: E402
from mmrag.models.miniature_runtime import MiniatureRuntime  # noqa: E402
from mmrag.models.onnx import OnnxEncoder  # noqa: E402
from mmrag.stores.features import FeatureCache  # noqa: E402
from tests.models import tiny_miniature  # noqa: E402
from tests.models.tiny_blip import tokenizer_json  # noqa: E402

TEXTS = ["a red car", "two dogs are playing in deep snow", "coffee on the table", "a cup", "rocket at night in snow"]
CLOSE = 1e-4
"""How far ONNX Runtime may be from torch, in standard deviations of what torch says."""


@pytest.fixture(scope="module")
def networks():
    return tiny_miniature.networks()


@pytest.fixture(scope="module")
def miniature(networks):
    return networks[2]


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    return MiniatureRuntime(Path(tiny_miniature.make_miniature(tmp_path_factory.mktemp("miniature"))))


@pytest.fixture(scope="module")
def images(photographs):
    return [Image.open(path).convert("RGB").resize((97, 80)) for path in sorted(photographs.iterdir())]


@pytest.fixture(scope="module")
def features(runtime, images):
    return runtime.features(images)


@pytest.fixture(scope="module")
def grids(networks, runtime, images):
    """What torch sees, (pictures, cells, width)."""
    encoder, _, miniature = networks
    pixels = torch.from_numpy(np.stack([runtime.preprocess(image) for image in images]))
    with torch.inference_mode():
        return miniature.see(encoder.image(pixels).flatten(2).mT)


def random_inputs(seed=0, pictures=3, texts=6, tokens=7):
    random = torch.Generator().manual_seed(seed)
    config = tiny_miniature.CONFIG
    seen = 6 * torch.rand(pictures, config.cells, config.grid_features, generator=random)
    return torch.randint(4, config.vocabulary, (texts, tokens), generator=random), seen


def judged(miniature, runtime, texts, grids):
    """What torch says: logits and mean log-likelihoods (texts, pictures), a pair at a time and without padding."""
    logits, likelihoods = (np.empty((len(texts), len(grids)), np.float32) for _ in range(2))
    for row, text in enumerate(texts):
        ids = torch.tensor([runtime._word_tokenizer.encode(text).ids])
        for column, grid in enumerate(grids):
            with torch.inference_mode():
                hidden = miniature(ids, miniature.read(grid[None]))
                said = miniature.next_logits(hidden)[0, :-1].log_softmax(-1)
                logits[row, column] = miniature.match_logits(hidden[0, -1])
                likelihoods[row, column] = said.gather(1, ids[0, 1:, None]).mean()
    return logits, likelihoods


# --- the network ------------------------------------------------------------------------------------------------------


def test_padding_changes_nothing(miniature):
    ids, seen = random_inputs()
    memory = miniature.look(seen)
    padded = torch.cat([ids, torch.zeros(6, 4, dtype=torch.long)], dim=1)
    assert torch.allclose(miniature(padded, memory)[:, :7], miniature(ids, memory), atol=1e-5)


def test_no_token_sees_those_after_it(miniature):
    ids, seen = random_inputs()
    changed = ids.clone()
    changed[:, 4] = 4 + (ids[:, 4] - 3) % (tiny_miniature.CONFIG.vocabulary - 4)
    difference = (
        (miniature(ids, miniature.look(seen)) - miniature(changed, miniature.look(seen))).abs().amax(dim=(0, 2))
    )
    assert difference[:4].max() == 0
    assert difference[4:].min() > 0.01


def test_what_is_masked_is_seen_by_itself_alone(miniature):
    ids, seen = random_inputs()
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[:, 2] = False
    changed = ids.clone()
    changed[:, 2] = 4 + (ids[:, 2] - 3) % (tiny_miniature.CONFIG.vocabulary - 4)
    one, other = (miniature(some, miniature.look(seen), mask) for some in (ids, changed))
    difference = (one - other).abs().amax(dim=(0, 2))
    assert difference[2] > 0.01
    assert difference[[0, 1, 3, 4, 5, 6]].max() == 0
    everything = torch.ones_like(mask)
    assert torch.equal(miniature(ids, miniature.look(seen), everything), miniature(ids, miniature.look(seen)))


def test_texts_of_a_picture_stand_together(miniature):
    ids, seen = random_inputs()
    together = miniature(ids, miniature.look(seen))
    for picture in range(3):
        mine = slice(2 * picture, 2 * picture + 2)
        alone = miniature(ids[mine], miniature.look(seen[picture : picture + 1]))
        assert torch.allclose(together[mine], alone, atol=1e-5)
    assert (miniature(ids, miniature.look(seen.flip(0))) - together).std() > 0.1 * together.std()


def test_every_weight_is_used_and_trained():
    network = Miniature(tiny_miniature.CONFIG, dropout=0.1).train()
    ids, seen = random_inputs()
    hidden = network(ids, network.look(seen))
    (network.next_logits(hidden).log_softmax(-1)[..., 5].sum() + network.match_logits(hidden[:, -1]).sum()).backward()
    assert [name for name, one in network.named_parameters() if one.grad is None or not one.grad.any()] == []
    assert not torch.equal(network(ids, network.look(seen)), network(ids, network.look(seen)))  # dropout
    network.eval()
    assert torch.equal(network(ids, network.look(seen)), network(ids, network.look(seen)))


@pytest.mark.parametrize("wrong", [{"heads": 5}, {"layers": 0}, {"max_tokens": 2}])
def test_sizes_that_no_network_has(wrong):
    with pytest.raises(RecipeError, match="heads divides width"):
        MiniatureConfig(vocabulary=10, **wrong)


# --- ONNX Runtime against torch ---------------------------------------------------------------------------------------


def test_the_features_are_grid_and_vector(runtime, networks, images, features, grids):
    cells = tiny_miniature.CONFIG.cells
    assert features.shape == (len(images), *runtime.feature_shape) == (len(images), 9 + 2, 32)
    assert np.abs(features[:, :cells] - grids.numpy()).max() < CLOSE * grids.std().item()
    assert grids.std(dim=0).mean() > 0.1  # pictures differ
    vectors = features[:, cells:].reshape(len(images), -1)
    assert np.allclose(vectors, runtime.encode_image(images), atol=1e-5)


def test_judges_as_torch_does(runtime, miniature, features, grids):
    logits, _ = judged(miniature, runtime, TEXTS, grids)
    found = runtime.match(TEXTS, features)
    assert logits.std(axis=0).min() > 0.1
    assert logits.std(axis=1).min() > 0.05
    assert np.abs(found.logits - logits).max() < CLOSE * logits.std()
    assert np.allclose(found.probabilities, 1 / (1 + np.exp(-logits)), atol=1e-4)
    cosines = runtime.encode_text(TEXTS) @ features[:, 9:].reshape(len(features), -1).T
    assert np.allclose(found.cosines, cosines, atol=1e-5)


def other_network(miniature, change):
    other = copy.deepcopy(miniature)
    with torch.no_grad():
        change(other)
    return other


@pytest.mark.parametrize(
    "change",
    {
        "positions": lambda network: network.positions.weight.copy_(network.positions.weight.flip(0)),
        "a layer's cross-attention": lambda network: network.layers[1].cross_output.weight.mul_(0.9),
        "a layer's self-attention": lambda network: network.layers[2].self_output.weight.mul_(0.9),
        "a layer's feed-forward": lambda network: network.layers[0].project.weight.mul_(0.9),
        "a norm": lambda network: network.layers[0].norm.weight.mul_(0.9),
        "keys of a layer": lambda network: network.keys_values.weight[:32].mul_(0.5),
        "values of the last layer": lambda network: network.keys_values.weight[-32:].mul_(0.9),
        "the embedding": lambda network: network.words.weight[2].mul_(0.9),
        "the last map": lambda network: network.match.weight.mul_(0.99),
    }.items(),
    ids=lambda item: item[0],
)
def test_any_other_network_would_be_noticed(change, runtime, miniature, features, grids):
    other = other_network(miniature, change[1])
    logits, likelihoods = judged(other, runtime, TEXTS, grids)
    with_both = with_judging(runtime, Judging(0, 1)).match(TEXTS, features)
    differences = [
        np.abs(runtime.match(TEXTS, features).logits - logits).max() / logits.std(),
        np.abs(with_both.logits - likelihoods).max() / likelihoods.std(),
    ]
    assert max(differences) > 20 * CLOSE


def with_judging(runtime, judging):
    other = copy.copy(runtime)
    other.settings = dataclasses.replace(runtime.settings, judging=judging)
    return other


def test_the_calibrated_logit(runtime, miniature, features, grids):
    logits, likelihoods = judged(miniature, runtime, TEXTS, grids)
    found = with_judging(runtime, Judging(match=0.5, likelihood=2)).match(TEXTS, features)
    expected = 0.5 * logits + 2 * likelihoods
    assert np.abs(found.logits - expected).max() < CLOSE * expected.std()
    assert np.allclose(found.scores, expected + found.cosines, atol=1e-3)
    assert np.allclose(found.probabilities, 1 / (1 + np.exp(-logits)), atol=1e-4)


def test_many_texts_of_many_lengths(runtime, miniature, features, grids, monkeypatch):
    monkeypatch.setattr("mmrag.models.miniature_runtime.TOKENS_AT_ONCE", 40)
    monkeypatch.setattr("mmrag.models.miniature_runtime.PICTURES_AT_ONCE", 2)
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(tiny_miniature.VOCABULARY[5:30], random.integers(1, 18))) for _ in range(20)]
    wanted = random.random((20, len(features))) < [0.05, 0.1, 0.1, 0.3, 0.8, 1]
    both = with_judging(runtime, Judging(likelihood=1))
    found = both.match(texts, features, wanted).logits
    expected = sum(judged(miniature, runtime, texts, grids))
    assert np.array_equal(np.isfinite(found), wanted)
    assert np.abs(found - expected)[wanted].max() < CLOSE * expected.std()


def test_a_text_without_a_known_word_is_judged_by_its_cosine(runtime, features):
    found = runtime.match(["海滩上的狗", "狗", "a red car"], features)
    assert (found.logits[:2] == 0).all()
    assert np.ptp(found.logits[2]) > 0
    assert np.ptp(found.cosines[1]) > 0


def test_features_may_be_kept_rounded(runtime, features, tmp_path):
    exact = runtime.match(TEXTS, features)
    for precision, close in (("fp16", 2e-3), ("int8", 5e-2)):
        cache = FeatureCache(
            tmp_path,
            runtime.identity,
            computed_in="fp32",
            shape=runtime.feature_shape,
            limit=10**6,
            precision=precision,
        )
        kept = runtime.match(TEXTS, np.stack([cache.keep(str(n), one) for n, one in enumerate(features)]))
        assert np.abs(kept.logits - exact.logits).max() < close * exact.logits.std()
        assert np.abs(kept.cosines - exact.cosines).max() < close * exact.cosines.std()


def test_features_of_another_model(runtime, features):
    with pytest.raises(
        InputError, match=r"features have the shape \(9, 32\), not \(11, 32\); make them with `features`"
    ):
        runtime.match(TEXTS, features[:, :9])


# --- words ------------------------------------------------------------------------------------------------------------


def greedy(miniature, runtime, grid, start, length):
    """The likeliest token each time, of those that may be written, in torch."""
    ids, forbidden = list(start), [0, 1, 2]
    while len(ids) < len(start) + length:
        with torch.inference_mode():
            logits = miniature.next_logits(miniature(torch.tensor([ids]), miniature.read(grid[None]))[0, -1])
        likeliest = next(token for token in logits.argsort(descending=True).tolist() if token not in forbidden)
        if likeliest == 3:
            break
        ids.append(likeliest)
    return runtime._word_tokenizer.decode(ids)


def test_describes_as_torch_does(runtime, miniature, images, grids):
    expected = [greedy(miniature, runtime, grid, [2], 12) for grid in grids]
    assert runtime.caption(images, beams=1, max_tokens=12) == expected
    assert len(set(expected)) > 1
    start = runtime._word_tokenizer.encode("a red").ids[:-1]
    begun = [greedy(miniature, runtime, grid, start, 5) for grid in grids]
    assert runtime.caption(images, beams=1, max_tokens=5, prompt="a red") == begun
    assert all(caption.startswith("a red") for caption in begun)


def test_a_caption_does_not_depend_on_its_company(runtime, images):
    together = runtime.caption(images, max_tokens=10)
    assert [runtime.caption([image], max_tokens=10)[0] for image in images] == together
    assert runtime.caption([]) == []


def test_chance_is_decided_by_the_seed(runtime, images):
    def say(seed):
        return runtime.caption(images[:2], nucleus=0.95, max_tokens=12, seed=seed)

    assert say(1) == say(1)
    assert len({tuple(say(seed)) for seed in range(4)}) == 4
    first, second = runtime.caption([images[0], images[0]], nucleus=0.95, max_tokens=12, seed=1)
    assert first != second


def test_a_long_prompt_is_cut(runtime, images, caplog):
    limit = runtime.settings.network.max_tokens
    (caption,) = runtime.caption(images[:1], prompt="red " * limit)
    assert caption.split()[: limit - 2] == ["red"] * (limit - 2)
    assert "only the first 24 tokens are read" in caplog.text


def test_ranks_answers_by_their_likelihood(runtime, miniature, images, grids):
    answers = ["red car", "coffee on the table", "snow"]
    for question in ("a", ""):
        found = runtime.rank_answers(images[:2], [question] * 2, answers)
        expected = np.empty((2, 3), np.float32)
        start = runtime._word_tokenizer.encode(question).ids[:-1]
        for column, answer in enumerate(answers):
            ids = torch.tensor([[*start, *runtime._word_tokenizer.encode(answer).ids[1:]]])
            for row in range(2):
                with torch.inference_mode():
                    hidden = miniature(ids, miniature.read(grids[row][None]))
                    said = miniature.next_logits(hidden)[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
                expected[row, column] = said[len(start) - 1 :].sum()
        assert np.allclose(found, expected, rtol=0, atol=CLOSE * expected.std())
    assert runtime.rank_answers(images, [""] * len(images), []).shape == (len(images), 0)


def test_answers_nothing(runtime, images):
    with pytest.raises(
        ModelError, match="tiny-miniature describes pictures and answers nothing; blip:Salesforce/blip-vqa"
    ):
        runtime.answer(images[:1], ["what colour is it"])
    with pytest.raises(InputError, match="one question for each"):
        runtime.rank_answers(images, ["what colour is it"], ["red"])
    with pytest.raises(InputError, match="reads 24 tokens; ask less"):
        runtime.rank_answers(images[:1], ["red " * 15], ["car " * 15])


# --- Chinese ----------------------------------------------------------------------------------------------------------


def test_each_text_goes_to_the_tower_of_its_script(runtime, networks):
    encoder, chinese, _ = networks
    texts = ["a red car", "一只狗在雪地里", "coffee", "红色汽车", "a dog 狗", "海滩上的两个孩子"]
    readers = [encoder.text, chinese, encoder.text, chinese, chinese, chinese]
    tokenizers = [runtime._tokenizer if reader is encoder.text else runtime._chinese_tokenizer for reader in readers]
    expected = []
    for text, reader, tokenizer in zip(texts, readers, tokenizers, strict=True):
        ids = torch.tensor([tokenizer.encode(text).ids])
        with torch.inference_mode():
            expected.append(torch.nn.functional.normalize(reader(ids, torch.ones_like(ids)), dim=-1)[0].numpy())
    for encode in (runtime.encode_text, runtime.encode_query):
        found = encode(texts)
        assert (found * np.array(expected)).sum(axis=1).min() > 0.995  # in 8 bits
    assert (found[0] @ found[1:].T).max() < 0.9


def test_the_chinese_tower_is_part_of_the_identity(runtime, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(runtime.folder, folder)
    before = ModelFolder.read(folder).fingerprint()
    assert before == runtime.card.weights
    for name in ("tokenizer_zh.json", "onnx/text_model_zh.onnx"):
        path = folder / name
        path.write_bytes(path.read_bytes() + b" ")
        after = ModelFolder.read(folder).fingerprint()
        assert after != before
        before = after
    with pytest.raises(ModelError, match="have changed"):
        MiniatureRuntime(folder).verify()


def test_better_words_leave_vectors_as_they_are(runtime, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(runtime.folder, folder)
    (folder / "onnx" / "words_model.onnx").write_bytes(b"other words")
    assert ModelFolder.read(folder).fingerprint() == runtime.card.weights
    with pytest.raises(ModelError, match=r"words_model\.onnx cannot be loaded"):
        MiniatureRuntime(folder).match(["a dog"], np.zeros((1, *runtime.feature_shape), np.float32))


# --- folders, and the whole -------------------------------------------------------------------------------------------


def test_one_model_in_all_roles(runtime):
    name = str(runtime.folder)
    for load in (mmrag.load_encoder, mmrag.load_matcher, mmrag.load_generator):
        assert isinstance(load(name), MiniatureRuntime)
    assert runtime.at_precision("fp32").feature_shape == runtime.feature_shape
    assert json.loads(json.dumps(runtime.card.languages)) == ["en", "zh"]


def test_without_a_miniature_it_is_an_encoder(runtime, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(runtime.folder, folder)
    (folder / SETTINGS_NAME).unlink()
    assert type(mmrag.load_encoder(str(folder))) is OnnxEncoder
    with pytest.raises(ModelError, match="is no matcher"):
        mmrag.load_matcher(str(folder))


def test_settings_and_tower_must_agree(runtime, tmp_path, images):
    folder = tmp_path / "copy"
    shutil.copytree(runtime.folder, folder)
    path = folder / SETTINGS_NAME
    path.write_text(path.read_text().replace("cells = 9", "cells = 4"))
    with pytest.raises(ModelError, match=r"gives \(9, 32\) of a picture, and miniature\.toml says \(4, 32\)"):
        MiniatureRuntime(folder).features(images)
    path.write_text(path.read_text() + "\n[tuning]\n")
    with pytest.raises(RecipeError, match="unknown key 'tuning'"):
        MiniatureRuntime(folder)


def test_settings_survive_writing(runtime, miniature):
    assert runtime.settings == MiniatureSettings(miniature.config)


def test_a_tokenizer_that_does_not_fit_is_not_exported(miniature, tmp_path):
    with pytest.raises(ModelError, match=r"the tokenizer has .* tokens, and the network"):
        export_miniature(
            Miniature(dataclasses.replace(miniature.config, vocabulary=7)), tmp_path, tokenizer=tokenizer_json()
        )
    plain = json.loads(tokenizer_json()) | {"post_processor": None}
    with pytest.raises(ModelError, match=r"must be token 0, and a text stand between \[CLS\] and \[SEP\]"):
        export_miniature(miniature, tmp_path, tokenizer=json.dumps(plain))


@pytest.fixture(scope="module")
def pairs(photographs, tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    names = sorted(photographs.iterdir())
    path.write_text("\n".join(json.dumps({"image": str(one), "texts": TEXTS[:2]}) for one in names))
    return path


def test_evaluates(runtime, pairs, photographs):
    report = evaluate_pairs([pairs], model=runtime, rerank=runtime, tops=(0, 2, 8))
    assert [one["top"] for one in report["rerank"]["at"]] == [0, 2, 8]
    assert report["rerank"]["model"] == "tiny-miniature"
    described = evaluate_captions([pairs], model=runtime)
    assert described["n_images"] == len(list(photographs.iterdir()))
    assert [one["caption"] for one in described["examples"]] == runtime.caption(
        [Image.open(path).convert("RGB") for path in sorted(photographs.iterdir())]
    )


def test_searches_and_judges_again_without_torch(runtime, photographs, tmp_path):
    code = (
        "import sys, mmrag\n"
        f"index = mmrag.create({str(tmp_path)!r}, model={str(runtime.folder)!r})\n"
        f"index.add({str(photographs)!r})\n"
        f"hits = index.search('a red car', rerank={str(runtime.folder)!r}, top=4, k=2)\n"
        "assert [hit.kind for hit in hits] == ['match'] * 2, hits\n"
        "assert set(hits[0].parts) == {'cosine', 'itc', 'logit', 'probability'}, hits[0].parts\n"
        "assert index.search('红色汽车', k=1)[0].score\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
