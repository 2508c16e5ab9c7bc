"""Tiny BLIP-2s with random weights against transformers' own: cosines, judgement, ranks and pixels."""

from __future__ import annotations

import copy
import json
import shutil

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="needs the torch extra")
transformers = pytest.importorskip("transformers", reason="needs the torch extra")

from mmrag.errors import InputError, ModelError  # noqa: E402
from mmrag.machine import usable_cores  # noqa: E402
from mmrag.models.blip2 import open_blip2  # noqa: E402
from mmrag.models.registry import load_encoder, load_generator, load_matcher  # noqa: E402
from tests.models.tiny_blip2 import QUERIES, TEXTS, one_thread, write_retrieval  # noqa: E402, F401

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder, transformers' network and its processor."""
    folder = tmp_path_factory.mktemp("blip2") / "tiny-blip2"
    return folder, *write_retrieval(folder)


@pytest.fixture(scope="module")
def model(tiny):
    return open_blip2(str(tiny[0]))


@pytest.fixture(scope="module")
def large_pictures(photographs):
    return [Image.open(path).convert("RGB") for path in sorted(photographs.iterdir())]


@pytest.fixture(scope="module")
def pictures(large_pictures):
    """The same, small: they are prepared often."""
    return [picture.reduce(4) for picture in large_pictures]


def pair_by_pair(network, processor, texts, pictures, *, hide_last_word=False, head=True):
    """Transformers' own outputs ``(texts, pictures, …)``, one pair at a time."""
    rows = []
    for text in texts:
        row = []
        for picture in pictures:
            inputs = processor(images=picture, text=text, return_tensors="pt")
            inputs["attention_mask"][:, -1] -= int(hide_last_word)
            with torch.inference_mode():
                row.append(network(**inputs, use_image_text_matching_head=head))
        rows.append(row)
    return rows


def itm(*given, **options):
    """Logits of both classes ``(texts, pictures, 2)``."""
    return np.array([[one.logits_per_image[0].numpy() for one in row] for row in pair_by_pair(*given, **options)])


def itc(*given, reduce=np.max, **options):
    """Cosines ``(texts, pictures)``, from the vectors."""
    rows = pair_by_pair(*given, head=False, **options)
    return np.array([[reduce(one.image_embeds[0].numpy() @ one.text_embeds[0].numpy()) for one in row] for row in rows])


@pytest.fixture(scope="module")
def expected(tiny, pictures):
    """Transformers' ITM logits and ITC cosines."""
    _, network, processor = tiny
    return itm(network, processor, TEXTS, pictures), itc(network, processor, TEXTS, pictures)


def spread(scores):
    """How much scores ``(texts, pictures)`` vary across pictures: σ of the text with which they vary the least."""
    return scores.std(axis=1).min()


def agree(found, expected):
    return np.abs(found - expected).max() <= 1e-4 * spread(expected)


def cosines(model, texts, pictures):
    return np.einsum("td,nqd->tnq", model.encode_text(texts), model.encode_image(pictures)).max(axis=2)


def test_the_reference_is_not_blind(expected, model, pictures):
    logits, cosine = expected
    assert spread(logits[..., 1]) >= 0.5
    assert spread(logits[..., 1].T) >= 0.5
    assert spread(cosine) > 0.05
    between = np.einsum("nqd,nrd->nqr", *[model.encode_image(pictures)] * 2)
    assert between[:, ~np.eye(QUERIES, dtype=bool)].max() < 0.999


def test_the_reference_takes_the_highest_of_its_queries(tiny, expected, pictures):
    _, network, processor = tiny
    own = pair_by_pair(network, processor, TEXTS, pictures, head=False)
    assert np.allclose(expected[1], [[one.logits_per_image.item() for one in row] for row in own], atol=1e-6)


def test_cosines_equal_transformers(model, expected, pictures):
    assert model.encode_image(pictures).shape == (len(pictures), QUERIES, 16)
    assert agree(cosines(model, TEXTS, pictures), expected[1])


def test_judgement_equals_transformers(model, expected, pictures):
    logits, cosine = expected
    judgement = model.match(TEXTS, model.features(pictures))
    assert agree(judgement.logits, logits[..., 1])
    assert agree(judgement.cosines, cosine)
    probabilities = np.exp(logits[..., 1]) / np.exp(logits).sum(axis=-1)
    assert np.abs(judgement.probabilities - probabilities).max() < 1e-4


def test_texts_that_transformers_pads_equal_ours(tiny, model, pictures):
    """All texts at once, filled up and masked, against each text alone."""
    _, network, processor = tiny
    judgement = model.match(TEXTS, model.features(pictures[:1]))
    inputs = processor(images=[pictures[0]] * len(TEXTS), text=TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        logits = network(**inputs, use_image_text_matching_head=True).logits_per_image[:, 1]
    assert not inputs["attention_mask"].all()
    assert np.abs(judgement.logits[:, 0] - logits.numpy()).max() < 5e-5


def test_ranks_equal_a_double_loops_in_both_directions(model, expected, pictures):
    scores = expected[0][..., 1] + expected[1]
    found = model.match(TEXTS, model.features(pictures)).scores
    for axis in (0, 1):
        assert np.array_equal(np.argsort(-found, axis=axis), np.argsort(-scores, axis=axis))
    assert not np.array_equal(np.argsort(-expected[0][..., 1]), np.argsort(-expected[1]))


# --- what must break the comparison -----------------------------------------------------------------------------------


def without(network, name):
    """A copy of the network in which one part does nothing."""
    changed = copy.deepcopy(network)
    for parameter in changed.get_submodule(name).parameters():
        parameter.data.zero_()
    return changed


PARTS = {
    "vision": "vision_model.encoder.layers.1.mlp.fc2",
    "first look": "qformer.encoder.layer.0.crossattention.output.dense",
    "second look": "qformer.encoder.layer.2.crossattention.output.dense",
    "first layer": "qformer.encoder.layer.0.output_query.dense",
    "last layer": "qformer.encoder.layer.3.output_query.dense",
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_one_part_of_the_network_matters(part, tiny, model, pictures):
    _, network, processor = tiny
    changed, some = without(network, part), pictures[:3]
    judgement = model.match(TEXTS, model.features(some))
    assert not agree(judgement.logits, itm(changed, processor, TEXTS, some)[..., 1])
    assert not agree(judgement.cosines, itc(changed, processor, TEXTS, some))


@pytest.mark.parametrize("part", ["qformer.encoder.layer.0.output.dense", "qformer.encoder.layer.2.output.dense"])
def test_what_becomes_of_the_words_matters(part, tiny, model, pictures):
    _, network, processor = tiny
    changed, some = without(network, part), pictures[:3]
    judgement = model.match(TEXTS, model.features(some))
    assert not agree(judgement.logits, itm(changed, processor, TEXTS, some)[..., 1])


def test_picture_text_mask_and_maximum_matter(tiny, model, expected, pictures):
    _, network, processor = tiny
    given = network, processor, TEXTS, pictures
    judgement = model.match(TEXTS, model.features(pictures))
    mirrored = model.match(TEXTS, model.features([picture.transpose(0) for picture in pictures]))
    other = model.match([f"{text} dog" for text in TEXTS], model.features(pictures))
    for wrong in (mirrored, other):
        assert not agree(wrong.logits, expected[0][..., 1])
        assert not agree(wrong.cosines, expected[1])
    assert not agree(judgement.logits, itm(*given, hide_last_word=True)[..., 1])
    assert not agree(judgement.cosines, itc(*given, hide_last_word=True))
    assert not agree(judgement.cosines, itc(*given, reduce=np.mean))
    assert not agree(judgement.logits, expected[0][..., 0])


# --- how it is computed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pictures_at_once", "pairs_at_once"), [(1, 1), (2, 3), (16, 4)])
def test_only_the_pairs_that_are_wanted(model, pictures, monkeypatch, pictures_at_once, pairs_at_once):
    features = model.features(pictures)
    everything = model.match(TEXTS, features)
    wanted = np.random.default_rng(0).random((len(TEXTS), len(pictures))) < 0.5
    wanted[:, 1], wanted[2] = False, False
    monkeypatch.setattr(type(model), "pictures_at_once", pictures_at_once)
    monkeypatch.setattr(type(model), "pairs_at_once", pairs_at_once)
    judgement = model.match(TEXTS, features, wanted)
    for name in ("logits", "probabilities", "cosines"):
        found = getattr(judgement, name)
        assert np.array_equal(np.isnan(found), ~wanted)
        assert np.allclose(found[wanted], getattr(everything, name)[wanted], atol=1e-5)


def test_nothing_to_judge(model, pictures):
    features = model.features(pictures[:2])
    assert model.match([], features).logits.shape == (0, 2)
    assert model.match(TEXTS, features[:0]).scores.shape == (len(TEXTS), 0)
    assert np.isnan(model.match(TEXTS, features, np.zeros((len(TEXTS), 2), dtype=bool)).scores).all()
    with pytest.raises(InputError, match=r"\(2, 2\)"):
        model.match(TEXTS, features, np.ones((2, 2), dtype=bool))


def test_features_of_another_model(model):
    with pytest.raises(InputError, match=r"features\[1\] has the shape \(3, 48\), not \(17, 48\); make them with"):
        model.match(TEXTS, [np.zeros((17, 48), np.float32), np.zeros((3, 48), np.float32)])


def test_special_tokens_in_a_text_are_words(model):
    ids = model.tokenize(["a <image> [SEP] dog"])["input_ids"][0]
    special = [model.tokenizer.token_to_id(token) for token in ("<image>", "[SEP]")]
    assert [int(np.sum(ids == one)) for one in special] == [0, 1]
    assert len(ids) > 8


def test_a_picture_is_seen_once_for_all_texts(model, pictures):
    features, seen, looked = model.features(pictures), [], []
    layers = model.network.qformer.encoder.layer
    hooks = [
        model.network.vision_model.register_forward_hook(lambda *given: seen.append(given)),
        layers[2].crossattention.attention.key.register_forward_hook(lambda _, __, out: looked.append(len(out))),
    ]
    model.match(TEXTS, features)
    for hook in hooks:
        hook.remove()
    assert (seen, sum(looked)) == ([], len(pictures))


def test_pixels_are_the_processors(tiny, model, large_pictures):
    processor = transformers.BlipImageProcessorPil.from_pretrained(tiny[0])
    expected = processor(large_pictures, return_tensors="np")["pixel_values"]
    found = np.stack([model.preprocess(picture) for picture in large_pictures])
    assert np.abs(found - expected).max() < 1e-4
    assert np.abs(found - expected[::-1]).max() > 1


def test_bfloat16_is_near(model, expected, pictures):
    half = model.at_precision("bf16")
    assert half.network.itm_head.weight.dtype == torch.bfloat16
    judgement = half.match(TEXTS, half.features(pictures))
    for found, exact in ((judgement.logits, expected[0][..., 1]), (judgement.cosines, expected[1])):
        assert not agree(found, exact)
        assert np.corrcoef(found.ravel(), exact.ravel())[0, 1] > 0.98


def test_roles_and_card(tiny):
    name = f"blip2:{tiny[0]}"
    encoder, matcher = load_encoder(name), load_matcher(name)
    assert encoder.card == matcher.card
    assert (encoder.card.name, encoder.card.roles) == ("blip-2", ("encoder", "matcher"))
    assert (encoder.card.vectors, encoder.card.dimension, encoder.card.max_tokens) == (QUERIES, 16, 512)
    assert encoder.identity.weights.startswith(f"sha256:{encoder.identity.revision}")
    assert matcher.feature_shape == (17, 48)
    with pytest.raises(ModelError, match=r"is no generator: .* encoder and matcher\. blip2:Salesforce/blip2-opt-2\.7b"):
        load_generator(name)


# --- what is wrong with a folder --------------------------------------------------------------------------------------


@pytest.fixture
def damaged(tiny, tmp_path):
    return shutil.copytree(tiny[0], tmp_path / "copy")


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_as_transformers_5_saves_it(tiny, damaged):
    (damaged / "preprocessor_config.json").unlink()
    tiny[2].save_pretrained(damaged)
    assert not (damaged / "preprocessor_config.json").exists()
    assert open_blip2(str(damaged)).preprocessing == open_blip2(str(tiny[0])).preprocessing


def test_a_licence(damaged):
    (damaged / "README.md").write_text("---\nlicense: mit\n---\n")
    card = open_blip2(str(damaged)).card
    assert (card.licence_weights, card.sources[0].licence) == ("mit", "mit")


def test_another_architecture(damaged):
    change(damaged / "config.json", architectures=["BertModel"])
    with pytest.raises(ModelError, match=r"copy is a BertModel; blip2: opens Blip2ForImageTextRetrieval, .*-vit-g"):
        open_blip2(str(damaged))
    change(damaged / "config.json", architectures=None)
    with pytest.raises(ModelError, match="copy is a None"):
        open_blip2(str(damaged))


def test_pixels_that_do_not_fit(damaged):
    change(damaged / "preprocessor_config.json", size={"height": 64, "width": 64})
    with pytest.raises(ModelError, match=r"pictures of \(64, 64\) pixels for a network of 56; fetch it again"):
        open_blip2(str(damaged))


def test_a_table_that_is_none(damaged):
    change(damaged / "config.json", vision_config=3)
    with pytest.raises(ModelError, match=r"config\.json: vision_config is not a table"):
        open_blip2(str(damaged))


def test_weights_that_are_missing(damaged):
    change(
        damaged / "config.json",
        qformer_config={**json.loads((damaged / "config.json").read_text())["qformer_config"], "num_hidden_layers": 5},
    )
    with pytest.raises(
        ModelError, match=r"are not all there: \d+ are missing or of another shape, the first is qformer\."
    ):
        open_blip2(str(damaged)).encode_text(["a dog"])


def test_weights_that_are_damaged(damaged):
    (damaged / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match=r"the weights of .*copy cannot be loaded: "):
        open_blip2(str(damaged)).encode_text(["a dog"])


def test_half_precision_is_refused(tiny):
    with pytest.raises(ModelError, match="the Q-Former and Flan-T5 overflow in fp16; take bf16 or fp32"):
        load_matcher(f"blip2:{tiny[0]}", precision="fp16")


# --- at its real size -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_vit_g_and_the_whole_qformer(tmp_path, large_pictures, monkeypatch):
    """BLIP-2's own 39 and 12 layers, of which only the files' weights are missing: 4.7 GB are not written to disk."""
    torch.set_num_threads(usable_cores())
    vision, qformer = transformers.Blip2VisionConfig(), transformers.Blip2QFormerConfig()
    monkeypatch.setattr(transformers.Blip2ForImageTextRetrieval, "save_pretrained", lambda self, folder: None)
    network, processor = write_retrieval(
        tmp_path, vision=vision.to_dict(), qformer={"vocab_size": 400}, queries=32, dimension=256, head=24
    )
    network.config.architectures = ["Blip2ForImageTextRetrieval"]
    network.config.save_pretrained(tmp_path)
    model = open_blip2(str(tmp_path))
    monkeypatch.setattr(model, "load_network", lambda: network)
    texts, pictures = TEXTS[1:3], large_pictures[:2]
    assert (model.feature_shape, len(network.qformer.encoder.layer)) == ((257, 1408), qformer.num_hidden_layers)
    assert (model.card.vectors, model.card.dimension) == (32, 256)
    logits, cosine = (of(network, processor, texts, pictures) for of in (itm, itc))
    judgement = model.match(texts, model.features(pictures))
    assert min(spread(logits[..., 1]), spread(logits[..., 1].T)) >= 0.5
    assert spread(cosine) > 0.01
    assert agree(judgement.logits, logits[..., 1])
    assert agree(judgement.cosines, cosine)
    assert agree(cosines(model, texts, pictures), cosine)
