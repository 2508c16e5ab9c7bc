"""BLIP with random weights that do look at the picture, against transformers' own classes, on real photographs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="needs the torch extra")
transformers = pytest.importorskip("transformers", reason="needs the torch extra")

from safetensors.torch import load_file, save_file  # noqa: E402

from mmrag.errors import InputError, ModelError  # noqa: E402
from mmrag.models import blip_base, blip_match  # noqa: E402
from mmrag.models.blip import BlipRetrieval, open_blip  # noqa: E402
from mmrag.models.blip_generate import BlipAnswerer  # noqa: E402
from mmrag.models.checkpoint import Checkpoint  # noqa: E402
from mmrag.models.registry import load_encoder, load_generator, load_matcher  # noqa: E402
from mmrag.search.judge import judge_pairs  # noqa: E402
from tests.models.tiny_blip import VOCABULARY, real_config, tokenizer_json, write_blip  # noqa: E402
from tests.models.tiny_blip2 import one_thread  # noqa: E402, F401

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = [
    "a red car",
    "two dogs are playing in deep snow",
    "a cat",
    "a cup of coffee on the table",
    "a rocket at night",
    "a man",
]
QUESTIONS = ["what colour is it", "who is it", "how many dogs are on the table", "where is the cat", "yes", "is it red"]
ANSWERS = ["yes", "no", "a red car", "two dogs", "blue"]
CLOSE = 1e-4
"""How far our numbers may be from transformers', in standard deviations of the latter."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def retrieval(folders):
    """transformers' model, and the folder of the same weights."""
    return write_blip(folders / "blip-itm-tiny", "BlipForImageTextRetrieval"), folders / "blip-itm-tiny"


@pytest.fixture(scope="module")
def captioner(folders):
    return write_blip(folders / "blip-cap-tiny", "BlipForConditionalGeneration"), folders / "blip-cap-tiny"


@pytest.fixture(scope="module")
def answerer(folders):
    return write_blip(folders / "blip-vqa-tiny", "BlipForQuestionAnswering"), folders / "blip-vqa-tiny"


@pytest.fixture(scope="module")
def pictures(photographs):
    """Photographs, and parts of them: twelve pictures."""
    whole = [Image.open(path).convert("RGB") for path in sorted(photographs.iterdir())]
    parts = [one.crop((one.width // 4, one.height // 3, one.width // 2, one.height // 2)) for one in whole]
    return whole + parts


@pytest.fixture
def copy(retrieval, tmp_path):
    """A copy of the folder, to damage."""
    return shutil.copytree(retrieval[1], tmp_path / "copy")


def at_equal_ids(folder):
    """Our side with transformers' first token, [CLS]."""
    return BlipRetrieval(Checkpoint.locate(str(folder)), first="[CLS]")


def reference_pixels(folder, pictures):
    return transformers.BlipImageProcessorPil.from_pretrained(folder)(pictures, return_tensors="pt")["pixel_values"]


def ids_of(text, first=None):
    ids = transformers.PreTrainedTokenizerFast(tokenizer_object=_tokenizer()).encode(text, return_tensors="pt")
    if first is not None:
        ids[:, 0] = first
    return ids


def _tokenizer():
    from tokenizers import Tokenizer

    return Tokenizer.from_str(tokenizer_json())


@torch.inference_mode()
def double_loop(model, pixels, texts, *, first=None):
    """The logits of "match" and the cosines, each ``(texts, pictures)``, one pair at a time."""
    logits, cosines = np.empty((2, len(texts), len(pixels)), dtype=np.float32)
    for row, text in enumerate(texts):
        for column in range(len(pixels)):
            one = {"pixel_values": pixels[column : column + 1]}
            logits[row, column] = model(input_ids=ids_of(text, first), **one).itm_score[0, 1]
            cosines[row, column] = model(input_ids=ids_of(text), use_itm_head=False, **one).itm_score[0, 0]
    return logits, cosines


@pytest.fixture(scope="module")
def expected(retrieval, pictures):
    model, folder = retrieval
    return double_loop(model, reference_pixels(folder, pictures), TEXTS)


def test_every_pixel_is_the_references(retrieval, pictures):
    found = at_equal_ids(retrieval[1]).pixels(pictures)
    assert np.abs(found - reference_pixels(retrieval[1], pictures).numpy()).max() < 1e-4


def test_the_reference_is_not_blind(expected):
    logits, cosines = expected
    assert logits.std(axis=1).min() > 0.5  # over pictures
    assert logits.std(axis=0).min() > 0.5  # over texts
    assert cosines.std(axis=1).min() > 0.03
    assert cosines.std(axis=0).min() > 0.03


def test_cosines_equal_transformers(retrieval, pictures, expected):
    encoder = load_encoder(f"blip:{retrieval[1]}")
    cosines = encoder.encode_text(TEXTS) @ encoder.encode_image(pictures).T
    assert np.abs(cosines - expected[1]).max() < CLOSE * expected[1].std()
    assert encoder.card.dimension == 24


FORMS = {"chosen": None, "absorbed": True, "projected": False}


@pytest.fixture(params=FORMS)
def form(request, monkeypatch):
    """Each way of the cross-attention, whatever pays."""
    if FORMS[request.param] is not None:
        monkeypatch.setattr(blip_match, "absorbing_pays", lambda *_: FORMS[request.param])
    return request.param


@pytest.mark.parametrize("limits", [(1, 64), (30, 64), (2048, 64), (2048, 5)])
def test_judgements_equal_transformers(retrieval, pictures, expected, form, limits, monkeypatch):
    monkeypatch.setitem(blip_match.LIMITS, "cpu", limits)
    matcher = at_equal_ids(retrieval[1])
    judged = matcher.match(TEXTS, matcher.features(pictures))
    assert np.abs(judged.logits - expected[0]).max() < CLOSE * expected[0].std()
    assert np.abs(judged.cosines - expected[1]).max() < CLOSE * expected[1].std()


def test_any_pairs_in_any_blocks(retrieval, pictures, expected, form, monkeypatch):
    random = np.random.default_rng(0)
    matcher = at_equal_ids(retrieval[1])
    features = matcher.features(pictures)
    for share, limit in ((0.1, 12), (0.5, 25), (0.5, 2048), (0.9, 40)):
        monkeypatch.setitem(blip_match.LIMITS, "cpu", (limit, 64))
        wanted = random.random(expected[0].shape) < share
        judged = matcher.match(TEXTS, list(features), wanted)
        assert np.array_equal(np.isfinite(judged.logits), wanted)
        assert np.abs(judged.logits - expected[0])[wanted].max() < CLOSE * expected[0].std()


def test_probabilities_are_transformers_softmax(retrieval, pictures):
    model, folder = retrieval
    pixels = reference_pixels(folder, pictures)
    with torch.inference_mode():
        both = model(input_ids=ids_of(TEXTS[0]).repeat(len(pixels), 1), pixel_values=pixels).itm_score
    matcher = at_equal_ids(folder)
    (found,) = matcher.match(TEXTS[:1], matcher.features(pictures)).probabilities
    assert np.abs(found - both.softmax(dim=1)[:, 1].numpy()).max() < 1e-5
    assert np.ptp(found) > 0.2


def test_texts_begin_with_enc_as_blip_was_trained(retrieval, pictures, expected):
    model, folder = retrieval
    enc = len(VOCABULARY) + 1
    logits, cosines = double_loop(model, reference_pixels(folder, pictures), TEXTS, first=enc)
    matcher = load_matcher(f"blip:{folder}")
    judged = matcher.match(TEXTS, matcher.features(pictures))
    assert np.abs(judged.logits - logits).max() < CLOSE * logits.std()
    assert np.abs(judged.cosines - cosines).max() < CLOSE * cosines.std()
    assert np.abs(judged.logits - expected[0]).max() > 0.1


LAYERS = {
    "vision layer": ("vision_model.encoder.layers.1.mlp.fc2.weight", {"logits", "cosines"}),
    "text layer": ("text_encoder.encoder.layer.2.output.dense.weight", {"logits", "cosines"}),
    "cross-attention": ("text_encoder.encoder.layer.1.crossattention.self.key.weight", {"logits"}),
    "head": ("itm_head.weight", {"logits"}),
}


def noticed(model, pixels, texts, expected):
    """Which comparison fails against what the unchanged network said of the same numbers of texts and pictures."""
    found = dict(zip(("logits", "cosines"), double_loop(model, pixels, texts), strict=True))
    plain = dict(zip(found, (one[: len(texts), : len(pixels)] for one in expected), strict=True))
    return {name for name, one in found.items() if np.abs(one - plain[name]).max() > 10 * CLOSE * plain[name].std()}


@pytest.mark.parametrize(("layer", "changes"), LAYERS.values(), ids=LAYERS)
def test_the_comparison_would_notice_a_layer(layer, changes, retrieval, pictures, expected):
    model = transformers.BlipForImageTextRetrieval.from_pretrained(retrieval[1]).eval().requires_grad_(False)
    model.get_parameter(layer).mul_(1.05)
    assert noticed(model, reference_pixels(retrieval[1], pictures[:3]), TEXTS[:3], expected) == changes


def test_the_comparison_would_notice_a_picture_and_a_text(retrieval, pictures, expected):
    model, pixels = retrieval[0], reference_pixels(retrieval[1], pictures[:3])
    assert noticed(model, pixels, TEXTS[:3], expected) == set()
    assert noticed(model, pixels.roll(1, dims=0), TEXTS[:3], expected) == {"logits", "cosines"}
    assert noticed(model, pixels, [f"{text} in" for text in TEXTS[:3]], expected) == {"logits", "cosines"}


def test_the_comparison_would_notice_padding(retrieval, pictures, expected):
    """Texts that attend to padding are judged otherwise; ours have none."""
    model, folder = retrieval
    ids = torch.cat([ids_of(TEXTS[0]), torch.zeros(1, 3, dtype=torch.long)], dim=1)
    pixels = reference_pixels(folder, pictures[:1])
    for head, plain in ((True, expected[0]), (False, expected[1])):
        given = {"input_ids": ids, "pixel_values": pixels, "use_itm_head": head}
        with torch.inference_mode():
            unmasked = model(**given).itm_score[0, -1]
            masked = model(**given, attention_mask=(ids > 0).long()).itm_score[0, -1]
        assert abs(unmasked - plain[0, 0]) > 10 * CLOSE * plain.std()
        assert abs(masked - plain[0, 0]) < CLOSE * plain.std()


def test_rank_lists_equal_a_plain_double_loops(retrieval, pictures, expected):
    matcher = at_equal_ids(retrieval[1])
    scores = matcher.match(TEXTS, matcher.features(pictures)).scores
    plain = expected[0] + expected[1]
    assert np.array_equal(np.argsort(-scores, axis=1), np.argsort(-plain, axis=1))  # text → image
    assert np.array_equal(np.argsort(-scores, axis=0), np.argsort(-plain, axis=0))  # image → text
    assert len({tuple(row) for row in np.argsort(-plain, axis=1)}) > 1
    assert len({tuple(column) for column in np.argsort(-plain, axis=0).T}) > 1


def test_bfloat16_is_near(retrieval, pictures, expected):
    matcher = at_equal_ids(retrieval[1]).at_precision("bf16")
    assert matcher.network.itm_head.weight.dtype == torch.bfloat16
    judged = matcher.match(TEXTS, matcher.features(pictures))
    off = np.abs(judged.logits - expected[0])
    assert CLOSE * expected[0].std() < off.max() < 0.3 * expected[0].std()


def test_what_pays():
    """At BLIP-base's size keys and values pay from about sixty tokens; the counts are those of both ways."""
    patches, heads, width = 577, 12, 768
    for tokens in (10, 62, 63, 200):
        around = 2 * 2 * tokens * width**2  # the maps that are absorbed
        absorbed = around + 2 * 2 * heads * tokens * patches * width
        projected = 2 * 2 * patches * width**2 + 2 * 2 * tokens * patches * width
        assert blip_match.absorbing_pays(tokens, patches, heads, width) == (absorbed < projected)


def test_many_texts_are_read_in_parts(retrieval, pictures, expected, monkeypatch):
    monkeypatch.setattr(blip_match, "TEXTS", 4)
    monkeypatch.setattr(blip_match, "STARTED", 20)
    started, start = [], blip_match._start
    monkeypatch.setattr(blip_match, "_start", lambda network, ids: started.append(ids) or start(network, ids))
    matcher = at_equal_ids(retrieval[1])
    judged = matcher.match(TEXTS, matcher.features(pictures))
    assert np.abs(judged.logits - expected[0]).max() < CLOSE * expected[0].std()
    assert [ids for part in started for ids in part] == matcher.ids(TEXTS)
    assert max(sum(map(len, part)) for part in started) < 30


@pytest.mark.parametrize("cosines", [True, False])
def test_each_text_is_read_once_for_all_blocks_of_pictures(retrieval, pictures, expected, cosines, caplog):
    matcher, read = load_matcher(f"blip:{retrieval[1]}"), []
    matcher.network.text_proj.register_forward_hook(lambda _, given, __: read.append(len(given[0])))
    texts, features = [*TEXTS, "car " * 100], matcher.features(pictures[:4])
    pairs = np.array([(text, picture) for text in range(len(texts)) for picture in range(4)])
    blocks = [([0, 1], features[:2]), ([2], features[2:3]), ([3], features[3:])]
    with caplog.at_level("WARNING", "mmrag"):
        judged = judge_pairs(matcher, texts, pairs, blocks, cosines=cosines)
    assert sum(read) == (len(texts) if cosines else 0)
    assert caplog.text.count("only the first 40 tokens") == 1
    if cosines:
        found = judged.cosines.reshape(len(texts), 4)[:-1]
        assert np.abs(found - expected[1][:, :4]).max() < CLOSE * expected[1].std()


def test_what_is_remembered_of_a_text_is_of_one_precision_and_bounded(retrieval, pictures, monkeypatch):
    monkeypatch.setattr(blip_base, "_REMEMBERED", 2)
    matcher = load_matcher(f"blip:{retrieval[1]}")
    features = matcher.features(pictures[:2])
    exact = matcher.match(TEXTS, features).cosines
    rough = matcher.at_precision("bf16").match(TEXTS, features).cosines
    assert 0 < np.abs(exact - rough).max() < 0.1
    assert np.array_equal(matcher.match(TEXTS[::-1], features).cosines[::-1], exact)
    assert len(matcher._remembered._made) == 4


def test_features_of_another_shape(retrieval):
    matcher = load_matcher(f"blip:{retrieval[1]}")
    with pytest.raises(InputError, match=r"features\[0\] has the shape \(10, 16\), not \(10, 32\)"):
        matcher.match(["a cat"], [np.zeros((10, 16))])


@pytest.mark.parametrize("with_blips_own", [False, True])
def test_blips_own_tokens(copy, with_blips_own):
    (copy / "tokenizer.json").write_text(tokenizer_json(with_blips_own=with_blips_own), "utf-8")
    ((first, *rest),) = open_blip(str(copy)).token_ids(["a cat"], "[ENC]")
    assert (first, rest) == (len(VOCABULARY) + 1, [VOCABULARY.index(word) for word in ("a", "cat", "[SEP]")])


def test_a_vocabulary_without_room_for_blips_own_tokens(copy):
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["vocab_size"] -= 1
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"has no token \[ENC\]: its tokenizer and the vocabulary of \d+"):
        open_blip(str(copy)).token_ids(["a cat"], "[ENC]")


def test_a_missing_tensor(copy):
    weights = load_file(copy / "model.safetensors")
    del weights["itm_head.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 are missing or of another shape, the first is itm_head\.weight\. "):
        load_encoder(f"blip:{copy}").encode_text(["a cat"])


def test_damaged_weights(copy):
    (copy / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_encoder(f"blip:{copy}").encode_text(["a cat"])


def test_pictures_of_another_size(copy):
    processor = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").write_text(json.dumps(processor | {"size": {"height": 32, "width": 32}}))
    with pytest.raises(ModelError, match=r"prepares pictures of \(32, 32\) pixels for a network of 48; fetch it again"):
        open_blip(str(copy))


def test_as_transformers_5_saves_it(retrieval, copy):
    """The processor in one file, and none of the older name."""
    (copy / "preprocessor_config.json").unlink()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=_tokenizer())
    images = transformers.BlipImageProcessorPil(size={"height": 48, "width": 48}, image_mean=[0.1, 0.2, 0.3])
    transformers.BlipProcessor(images, tokenizer).save_pretrained(copy)
    assert not (copy / "preprocessor_config.json").exists()
    assert open_blip(str(copy)).preprocessing.mean == (0.1, 0.2, 0.3)
    shutil.copy(retrieval[1] / "preprocessor_config.json", copy)  # both: transformers goes by the newer
    assert open_blip(str(copy)).preprocessing.mean == (0.1, 0.2, 0.3)
    theirs = transformers.AutoImageProcessor.from_pretrained(copy, backend="pil")
    assert tuple(theirs.image_mean) == (0.1, 0.2, 0.3)


def test_a_processor_without_pictures(copy):
    (copy / "processor_config.json").write_text('{"processor_class": "BlipProcessor"}')
    assert open_blip(str(copy)).preprocessing.height == 48
    (copy / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match=r"cannot read .*preprocessor_config\.json: No such file"):
        open_blip(str(copy))


def test_special_tokens_in_a_text_are_words(retrieval, pictures):
    matcher = load_matcher(f"blip:{retrieval[1]}")
    (ids,) = matcher.ids(["a [SEP] [ENC] cat"])
    special = [matcher.tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]", "[ENC]")]
    assert [ids.count(one) for one in special] == [1, 1, 0]
    assert len(ids) > 8


@pytest.mark.parametrize("kind", ["retrieval", "captioner", "answerer"])
def test_the_card(kind, request, tmp_path):
    folder = shutil.copytree(request.getfixturevalue(kind)[1], tmp_path / "copy")
    (folder / "README.md").write_text("---\nlicense: bsd-3-clause\n---\n")
    card = open_blip(str(folder)).card
    assert (card.licence_weights, card.sources[0].licence) == ("bsd-3-clause", "bsd-3-clause")
    assert (card.roles, card.dimension) == {"retrieval": (("encoder", "matcher"), 24)}.get(kind, (("generator",), 0))


def test_another_architecture(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"architectures": ["BlipModel"]}))
    with pytest.raises(ModelError, match=r"is a BlipModel, and family blip runs BlipForImageTextRetrieval, "):
        open_blip(str(copy))


def test_roles_that_a_checkpoint_lacks(retrieval, captioner, answerer, pictures):
    with pytest.raises(ModelError, match=r"is no generator: .* blip:Salesforce/blip-image-captioning-base is one"):
        load_generator(f"blip:{retrieval[1]}")
    with pytest.raises(ModelError, match=r"is no matcher: .* blip:Salesforce/blip-itm-base-coco is one"):
        load_matcher(f"blip:{captioner[1]}")
    with pytest.raises(ModelError, match="describes and answers nothing; blip:Salesforce/blip-vqa-base does"):
        load_generator(f"blip:{captioner[1]}").answer(pictures[:1], QUESTIONS[:1])
    with pytest.raises(ModelError, match="describes nothing; blip:Salesforce/blip-image-captioning-base does"):
        load_generator(f"blip:{answerer[1]}").caption(pictures[:1])


def test_a_card_is_read_without_torch(retrieval):
    code = (
        "import sys; from mmrag.models.registry import load_matcher; "
        f"print(load_matcher('blip:{retrieval[1]}').card.roles, sorted({{'torch', 'transformers'}} & {{*sys.modules}}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["('encoder',", "'matcher')", "[]"]


@pytest.fixture
def written(monkeypatch):
    """The token ids that our side writes."""
    tokens = []

    def watch(generator):
        generate = generator.network.text_decoder.generate

        def spy(**given):
            ids = generate(**given)
            tokens.extend(ids.tolist())
            return ids

        monkeypatch.setattr(generator.network.text_decoder, "generate", spy)
        return generator

    return watch, tokens


def up_to_the_end(rows):
    """What follows the token that ends a text is padding."""
    end = VOCABULARY.index("[SEP]")
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        ("", {"num_beams": 3}),
        ("", {"num_beams": 1}),
        ("a picture of", {"num_beams": 4}),
        ("", {"do_sample": True, "top_p": 0.8, "top_k": 0}),
    ],
)
def test_captions_equal_transformers(captioner, pictures, written, prompt, options):
    model, folder = captioner
    watch, found = written
    generator = watch(load_generator(f"blip:{folder}"))
    some = pictures[:6]
    given = {"pixel_values": reference_pixels(folder, some), "max_new_tokens": 12}
    if prompt:
        given["input_ids"] = ids_of(prompt).repeat(len(some), 1)
    torch.manual_seed(5)
    expected = model.generate(**given, **options).tolist()
    ways = {"nucleus": options["top_p"], "seed": 5} if "top_p" in options else {"beams": options["num_beams"]}
    captions = generator.caption(some, prompt=prompt, max_tokens=12, **ways)
    assert up_to_the_end(found) == up_to_the_end(expected)
    assert len({tuple(row) for row in up_to_the_end(expected)}) == len(some)  # each picture its own
    assert min(len(set(row)) for row in expected) > 3  # and no stammering
    assert len(set(captions)) == len(some)
    assert all(caption.startswith(prompt) for caption in captions)
    assert not any("[" in caption for caption in captions)


def test_a_seed_decides_and_leaves_other_random_numbers_alone(captioner, pictures):
    generator = load_generator(f"blip:{captioner[1]}")
    torch.manual_seed(1)
    undisturbed = torch.rand(3)
    torch.manual_seed(1)
    first, second, third = (generator.caption(pictures[:4], nucleus=0.9, seed=seed) for seed in (7, 7, 8))
    assert torch.equal(torch.rand(3), undisturbed)
    assert first == second != third


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beams": 0}, "at least 1"),
        ({"max_tokens": 0}, "at least 1"),
        ({"nucleus": 1.5}, "nucleus is a probability, above 0 and at most 1, not 1.5"),
    ],
)
def test_options_that_nothing_can_be_written_with(captioner, pictures, options, message):
    with pytest.raises(InputError, match=message):
        load_generator(f"blip:{captioner[1]}").caption(pictures[:1], **options)


def vqa(folder):
    """Our side with transformers' first token of questions, [CLS]."""
    return BlipAnswerer(Checkpoint.locate(str(folder)), first="[CLS]")


def test_answers_equal_transformers(answerer, pictures, written):
    model, folder = answerer
    watch, found = written
    generator = watch(vqa(folder))
    pixels = reference_pixels(folder, pictures[:6])
    expected = [
        model.generate(input_ids=ids_of(question), pixel_values=pixels[n : n + 1], num_beams=3, max_new_tokens=8)[0]
        for n, question in enumerate(QUESTIONS)
    ]
    answers = generator.answer(pictures[:6], QUESTIONS, max_tokens=8)
    decode = _tokenizer().decode
    assert answers == [decode([one for one in row.tolist() if one < len(VOCABULARY)]) for row in expected]
    assert sorted(up_to_the_end(found)) == sorted(up_to_the_end(row.tolist() for row in expected))
    assert len(set(answers)) == len(answers)
    trained = load_generator(f"blip:{folder}").answer(pictures[:6], QUESTIONS, max_tokens=8)
    assert trained != answers  # with [ENC]


def test_the_likelihood_of_answers_equals_transformers_loss(answerer, pictures):
    model, folder = answerer
    pixels = reference_pixels(folder, pictures[:6])
    expected = np.empty((6, len(ANSWERS)), dtype=np.float32)
    for row, question in enumerate(QUESTIONS):
        for column, answer in enumerate(ANSWERS):
            labels = ids_of(answer, first=len(VOCABULARY))
            loss = model(input_ids=ids_of(question), pixel_values=pixels[row : row + 1], labels=labels).loss
            expected[row, column] = -loss.item() * (labels.shape[1] - 1)
    found = vqa(folder).rank_answers(pictures[:6], QUESTIONS, ANSWERS)
    assert expected.std(axis=0).min() > 0.5
    assert np.abs(found - expected).max() < CLOSE * expected.std()
    assert np.array_equal(found.argsort(axis=1), expected.argsort(axis=1))


def test_nothing_to_write(captioner, answerer):
    assert load_generator(f"blip:{captioner[1]}").caption([]) == []
    generator = load_generator(f"blip:{answerer[1]}")
    assert generator.answer([], []) == []
    assert generator.rank_answers([], [], ANSWERS).shape == (0, len(ANSWERS))


def test_each_picture_needs_its_question(answerer, pictures):
    with pytest.raises(InputError, match="one question for each of the 2 pictures, in a list"):
        load_generator(f"blip:{answerer[1]}").answer(pictures[:2], QUESTIONS[:1])


@pytest.mark.slow
def test_real_size(tmp_path, photographs):
    """BLIP-base at 384 pixels: both ways of the cross-attention."""
    model = write_blip(tmp_path / "blip-itm-base", "BlipForImageTextRetrieval", real_config())
    pictures = [Image.open(path).convert("RGB") for path in sorted(photographs.iterdir())[:4]]
    logits, cosines = double_loop(model, reference_pixels(tmp_path / "blip-itm-base", pictures), TEXTS[:2])
    matcher = at_equal_ids(tmp_path / "blip-itm-base")
    features = matcher.features(pictures)
    assert logits.std(axis=1).min() > 0.5
    assert cosines.std(axis=1).min() > 0.03
    for repeats in (1, 12):  # of few texts, and of many
        judged = matcher.match(TEXTS[:2] * repeats, features)
        assert np.abs(judged.logits - np.tile(logits, (repeats, 1))).max() < CLOSE * logits.std()
        assert np.abs(judged.cosines - np.tile(cosines, (repeats, 1))).max() < CLOSE * cosines.std()
