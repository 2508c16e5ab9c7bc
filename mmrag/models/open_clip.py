"""OpenCLIP's models, run by torch: every architecture and pretrained tag that it lists, and checkpoints of them."""

from __future__ import annotations

import difflib
import importlib.util
import json
import threading
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrag.errors import MissingExtraError, ModelError
from mmrag.models import cache
from mmrag.models.cards import Card, Source, hash_files, revision_of
from mmrag.models.network import import_torch, import_transformers
from mmrag.models.preprocess import Preprocessing, Transform
from mmrag.models.pretrained import HERE, read_logit_scale
from mmrag.models.tokens import Tokens, tell_cut
from mmrag.models.torch_encoder import TorchEncoder
from mmrag.roles import Identity

if TYPE_CHECKING:
    from torch import Tensor, nn

RANDOM = "random"
"""Instead of a tag: weights that are as good as none, for measuring speed."""

_RESAMPLE = {"bilinear": 2, "bicubic": 3}
_MODEL_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_ENGLISH_TOKENIZERS = (None, "bert-base-uncased", "roberta-base", "timm/ViT-B-16-SigLIP")

_SPLIT = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""

_PLAIN = {"[\u02bc\u2018-\u201b]": "'", "[\u201c-\u201f]": '"', r"\s+": " "}  # what curly quotes and spaces become


class OpenClipEncoder(TorchEncoder):
    """A model of OpenCLIP's.

    Parameters
    ----------
    architecture : str
        Such as "ViT-B-32-256"; one that `open_clip.list_models` names.
    weights : str
        A tag that OpenCLIP lists for it, whose files are here; the absolute path of a checkpoint, for pictures
        prepared as OpenCLIP prepares them by default; or "random".

    Raises
    ------
    MissingExtraError
        If the extra is not installed.
    ModelError
        If there is no such model, or it is not here; with the command that fetches it.
    """

    def __init__(self, architecture: str, weights: str) -> None:
        open_clip = import_open_clip()
        self._config = _config(architecture)
        self._architecture, self._weights = architecture, weights
        tag = open_clip.get_pretrained_cfg(architecture, weights)
        self._file = None if weights == RANDOM else self._find_weights(tag)
        # a tag that was trained with the quick GELU needs it, whatever the architecture's file says
        self._quick_gelu = bool(self._config.get("quick_gelu") or tag.get("quick_gelu"))
        digest = hash_files(self._file.parent, [self._file]) if self._file else RANDOM
        self.card = self._card(revision_of(digest))
        self.preprocessing = _preprocessing(self._config["vision_cfg"].get("image_size", 224), tag)
        self._tokenizing = threading.Lock()  # a fast tokenizer may not be used by two threads
        self.identity = Identity(
            name=self.card.name,
            revision=self.card.revision,
            weights=digest,
            preprocessing=str(self.preprocessing),
            dimension=self.card.dimension,
        )

    @property
    def _name(self) -> str:
        return f"openclip:{self._architecture}/{self._weights}"

    def _find_weights(self, tag: dict[str, Any]) -> Path:
        path = Path(self._weights).expanduser()
        if not tag and path.is_absolute() and path.is_file():
            return path
        if not tag:
            known = ", ".join(import_open_clip().list_pretrained_tags_by_model(self._architecture)) or "none"
            raise ModelError(
                f"{self._weights!r} is neither 'random', nor the absolute path of a checkpoint, nor among OpenCLIP's "
                f"tags for {self._architecture}: {known}"
            )
        found = _tagged_file(tag)
        if found is None:
            raise ModelError(f"{self._name} is not here; fetch it: mmrag models pull {self._name}")
        return found

    def _card(self, revision: str) -> Card:
        text = self._config["text_cfg"]
        weights = Path(self._weights).name
        commit = cache.at_commit(self._file.parent) if self._file else ""
        return Card(
            name=f"{self._architecture}-{Path(weights).stem}",
            family="openclip",
            revision=revision,
            dimension=int(self._config["embed_dim"]),
            max_tokens=int(text.get("context_length", 77)),
            text_padding="longest" if self._is_causal or "hf_model_name" in text else "full",
            languages=("en",) if text.get("hf_tokenizer_name") in _ENGLISH_TOKENIZERS else (),
            logit_scale=read_logit_scale([self._file]) if self._file else 0.0,
            summary=f"{self._architecture} of OpenCLIP, weights {weights}.",
            licence_code="MIT",
            licence_weights="As whoever trained them says.",
            sources=(
                Source(f"OpenCLIP, {self._architecture}, {weights}{commit}", "code MIT; weights as their card says"),
            ),
        )

    @property
    def _is_causal(self) -> bool:
        """Whether texts end in a token that sees all before it, and nothing behind: padding may then be left out."""
        text = self._config["text_cfg"]
        own = not self._config.get("custom_text") and "hf_tokenizer_name" not in text
        return own and text.get("pool_type", "argmax") == "argmax" and not text.get("no_causal_mask")

    def load_network(self) -> nn.Module:
        """Read the weights from disk, into single precision on the CPU."""
        open_clip, torch = import_open_clip(), import_torch()
        text = dict(self._config["text_cfg"])
        if "hf_model_name" in text:
            text |= {"hf_model_name": str(self._hub_folder(text["hf_model_name"])), "hf_model_pretrained": False}
        try:
            with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of its own deprecated calls
                torch.manual_seed(0)
                network: nn.Module = open_clip.create_model(
                    self._architecture,
                    pretrained=str(self._file) if self._file else None,
                    pretrained_text=False,
                    quick_gelu=self._quick_gelu,
                    text_cfg=text,
                )
        except Exception as error:  # a checkpoint of another model, or a damaged one
            raise ModelError(f"OpenCLIP cannot load {self._name}: {error}") from error
        return network

    def image_vectors(self, network: Any, pixels: Tensor) -> Tensor:
        """Embed ``(n, 3, height, width)`` into ``(n, dimension)``."""
        vectors: Tensor = network.encode_image(pixels)
        return vectors

    def text_vectors(self, network: Any, tokens: dict[str, Tensor]) -> Tensor:
        """Embed tokens ``(n, t)`` into ``(n, dimension)``."""
        embed = _causal_vectors if self._is_causal else type(network).encode_text
        vectors: Tensor = embed(network, tokens["input_ids"])
        return vectors

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tokens]:
        """Make "input_ids", ``(n, t)``, as OpenCLIP's own tokenizer does."""
        with self._tokenizing:
            ids: Tokens = self._tokenizer(list(texts)).numpy()
            for text, row in zip(texts, ids, strict=True):
                if (row != self._pad_id).all() and self._is_longer(text):
                    tell_cut(text, self.card.max_tokens)
        if self.card.text_padding == "longest":
            used = (ids != self._pad_id).any(axis=0)
            ids = ids[:, : int(used.nonzero()[0].max()) + 1]
        return {"input_ids": ids}

    def _count_tokens(self, texts: Sequence[str]) -> list[int]:
        with self._tokenizing:
            if not self._hub_tokenizer:
                return [len(self._tokenizer.encode(text)) + 2 for text in texts]  # between its start and its end
            cleaned = [self._tokenizer.clean_fn(text) for text in texts]
            counted = self._tokenizer.tokenizer(cleaned, truncation=False, verbose=False).input_ids
            own = self._tokenizer.tokenizer_mode == "clips"  # start, end and class, where the tokenizer has two
            return [len(ids) + own for ids in counted]

    def _is_longer(self, text: str) -> bool:
        (row,) = self._tokenizer([text], context_length=self.card.max_tokens + 1)
        return bool((row != self._pad_id).all())

    @cached_property
    def _pad_id(self) -> int:
        return int(self._tokenizer.tokenizer.pad_token_id) if self._hub_tokenizer else 0

    @property
    def _hub_tokenizer(self) -> str | None:
        name: str | None = self._config["text_cfg"].get("hf_tokenizer_name")
        return name

    @cached_property
    def _tokenizer(self) -> Any:
        tokenizers, text = import_open_clip().tokenizer, self._config["text_cfg"]
        options = text.get("tokenizer_kwargs") or {}
        if not self._hub_tokenizer:
            return tokenizers.SimpleTokenizer(context_length=self.card.max_tokens, **options)
        import_transformers()
        folder = self._hub_folder(self._hub_tokenizer)
        try:
            return tokenizers.HFTokenizer(
                str(folder),
                context_length=self.card.max_tokens,
                tokenizer_mode=text.get("tokenizer_mode"),
                **HERE,
                **options,
            )
        except Exception as error:  # files that are missing or damaged
            raise ModelError(
                f"the tokenizer of {self._name}, in {folder}, cannot be loaded: {error}. Fetch it again: "
                f"mmrag models pull {self._name}"
            ) from error

    def _hub_folder(self, repository: str) -> Path:
        """Find what the text tower takes from another model of the hub."""
        folder = Path(repository) if Path(repository).is_absolute() else cache.snapshot(repository)
        if folder is None:
            raise ModelError(
                f"{self._name} reads texts with the tokenizer of {repository}, which is not here; fetch it: "
                f"mmrag models pull {self._name}"
            )
        return folder

    def write_tokenizer(self, folder: Path) -> None:
        """Write ``tokenizer.json``; HTML entities and mis-decoded text, which OpenCLIP mends, stay as they are."""
        if not self._hub_tokenizer:
            (folder / "tokenizer.json").write_text(tokenizer_json(), encoding="utf-8")
            return
        options = self._config["text_cfg"].get("tokenizer_kwargs") or {}
        if options.keys() - {"clean"} or self._config["text_cfg"].get("tokenizer_mode"):
            super().write_tokenizer(folder)  # refuses
        tokenizer = _cleaning(self._tokenizer.tokenizer.backend_tokenizer, options.get("clean", "whitespace"))
        tokenizer.no_truncation()
        tokenizer.enable_padding(pad_id=self._pad_id)
        tokenizer.save(str(folder / "tokenizer.json"))


def open_openclip(reference: str) -> OpenClipEncoder:
    """Open ``ARCHITECTURE/TAG``, ``ARCHITECTURE//path/of/a/checkpoint`` or ``ARCHITECTURE/random``."""
    architecture, _, weights = reference.partition("/")
    return OpenClipEncoder(architecture, weights)


def _config(architecture: str) -> dict[str, Any]:
    open_clip = import_open_clip()
    config: dict[str, Any] | None = open_clip.get_model_config(architecture) if architecture else None
    if config is None:
        near = ", ".join(difflib.get_close_matches(architecture, open_clip.list_models(), n=4)) or "none"
        raise ModelError(
            f"OpenCLIP has no architecture {architecture!r}; near it are: {near}. Write openclip:ARCHITECTURE/TAG; "
            "`mmrag models --all` lists them"
        )
    return config


def weight_names(tag: dict[str, Any]) -> tuple[str, ...]:
    """Name the files that may hold a tag's weights in its repository, as OpenCLIP prefers them: safetensors first."""
    name = tag["hf_hub"].rpartition("/")[2]
    if name in ("", _MODEL_FILES[-1]):
        return _MODEL_FILES
    return f"{name.rpartition('.')[0]}.safetensors", name


def _tagged_file(tag: dict[str, Any]) -> Path | None:
    """Find a tag's weights where `mmrag models pull` or OpenCLIP has put them; safetensors before others."""
    repository = tag.get("hf_hub", "").rpartition("/")[0]
    snapshot = cache.snapshot(repository) if repository else None
    if snapshot:
        return next((snapshot / one for one in weight_names(tag) if (snapshot / one).is_file()), None)
    return None


def _preprocessing(image_size: int | Sequence[int], tag: dict[str, Any]) -> Preprocessing | Transform:
    open_clip = import_open_clip()
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    merged = open_clip.transform.merge_preprocess_dict(open_clip.transform.PreprocessCfg(size=(height, width)), tag)
    config = open_clip.transform.PreprocessCfg(**{**merged, "size": (height, width)})
    shortest = config.resize_mode == "shortest" and height == width
    if not (shortest or config.resize_mode == "squash"):
        transform = open_clip.transform.image_transform_v2(config, is_train=False)
        return Transform(transform, height, width, f"open_clip {config}")
    return Preprocessing(
        height=height,
        width=width,
        resample=_RESAMPLE.get(config.interpolation, _RESAMPLE["bicubic"]),  # as it takes whatever else is said
        mean=tuple(config.mean),
        std=tuple(config.std),
        shortest_edge=height if shortest else None,
        crop_to_nearest=shortest,
    )


def _causal_vectors(network: Any, ids: Tensor) -> Tensor:
    """Embed token ids ``(n, t)`` as ``CLIP.encode_text`` does, for any t: nothing depends on padding behind."""
    import torch

    length = ids.shape[1]
    x = network.token_embedding(ids) + network.positional_embedding[:length]  # (n, t, d)
    x = network.ln_final(network.transformer(x, attn_mask=network.attn_mask[:length, :length]))
    pooled = x[torch.arange(x.shape[0], device=x.device), ids.argmax(dim=-1)]  # (n, d); the end has the highest number
    projection = network.text_projection
    vectors: Tensor = projection(pooled) if callable(projection) else pooled @ projection
    return vectors


def _cleaning(tokenizer: Any, clean: str) -> Any:
    """Let a tokenizer clean texts as OpenCLIP does before it: "whitespace", "lower" or "canonicalize"."""
    import string

    from tokenizers import Regex, normalizers

    steps = _uncurled()
    if clean == "canonicalize":
        steps += [normalizers.Replace("_", " "), normalizers.Replace(Regex(f"[{_escaped(string.punctuation)}]"), "")]
    if clean != "whitespace":
        steps.append(normalizers.Lowercase())
    steps += [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    tokenizer.normalizer = normalizers.Sequence([*steps, *filter(None, [tokenizer.normalizer])])
    return tokenizer


def _uncurled() -> list[Any]:
    from tokenizers import Regex, normalizers

    return [normalizers.NFC(), *(normalizers.Replace(Regex(found), written) for found, written in _PLAIN.items())]


def _escaped(characters: str) -> str:
    return "".join(f"\\{character}" for character in characters)


def tokenizer_json() -> str:
    """Write CLIP's byte-pair tokenizer as ``tokenizer.json``, from the merges that OpenCLIP carries."""
    from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import BPE

    source = import_open_clip().tokenizer.SimpleTokenizer()
    start, end = "<start_of_text>", "<end_of_text>"
    tokenizer = Tokenizer(
        BPE(
            vocab=source.encoder,
            merges=list(source.bpe_ranks),
            end_of_word_suffix="</w>",
            continuing_subword_prefix="",
            unk_token=end,
        )
    )
    tokenizer.add_special_tokens([start, end])
    tokenizer.normalizer = normalizers.Sequence([*_uncurled(), normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(_SPLIT), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(token, source.encoder[token]) for token in (start, end)]
    )
    written = json.loads(tokenizer.to_str())
    written["model"]["merges"] = [" ".join(pair) for pair in written["model"]["merges"]]  # loads in half the time
    return json.dumps(written, ensure_ascii=False, separators=(",", ":"))


def import_open_clip() -> Any:
    """Import OpenCLIP, or tell which extra brings it."""
    if importlib.util.find_spec("open_clip") is None:
        raise MissingExtraError("open_clip", "torch")
    try:
        import open_clip
    except Exception as error:
        raise ModelError(
            f"open_clip is installed, but importing it fails ({error}). Usually torch and torchvision do not fit each "
            "other: install both from one index, as uv does: uv pip install 'mmrag[torch]'"
        ) from error
    return open_clip
