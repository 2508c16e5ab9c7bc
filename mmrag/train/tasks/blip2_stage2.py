"""BLIP-2's second stage: a frozen language model learns nothing, the Q-Former learns to speak to it.

Li et al. 2023, https://arxiv.org/abs/2301.12597, section 3.2: what the queries saw stands before words as soft tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmrag.errors import ModelError, RecipeError
from mmrag.models.checkpoint import Checkpoint
from mmrag.models.network import import_transformers
from mmrag.models.preprocess import Preprocessing
from mmrag.models.pretrained import HERE, load_pretrained, read_config
from mmrag.recipe import build
from mmrag.sources.pairs import Pair
from mmrag.train.augmentation import Augmentation
from mmrag.train.frozen import Frozen, FrozenVision
from mmrag.train.objectives.language import IGNORED
from mmrag.train.qformer import Queries
from mmrag.train.task import Batch, Figures, Layer, Losses, Moment, Task
from mmrag.train.tasks.blip2_stage1 import load_retrieval, locate_stage1


@dataclass(frozen=True)
class Stage2Settings:
    """What the second stage can be told.

    Attributes
    ----------
    llm : str
        The language model, by its name on the hub or its folder: a decoder (OPT, Llama, SmolLM2) or an
        encoder–decoder (Flan-T5). It stays as it is.
    llm_precision : {"fp32", "bf16"}
        What it is kept in.
    prompt : str
        Stands before every caption, and is not learnt.
    split : float from 0 to 1
        With an encoder–decoder, the share of captions of which the encoder reads a random first part (prefix LM); the
        others are written from the prompt alone, as captions are later.
    max_tokens : int
        Longer texts are cut, the prompt counted.
    cache_bytes : int
        How much of what the frozen tower sees may be kept on disk; 0 keeps nothing. Augmented pictures are not kept.
    augmentation : Augmentation or None
        How pictures change between epochs; None shows them as they are.
    """

    llm: str
    llm_precision: Literal["fp32", "bf16"] = "bf16"
    prompt: str = ""
    split: float = 0.5
    max_tokens: int = 48
    cache_bytes: int = 0
    augmentation: Augmentation | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if not 0 <= self.split <= 1:
            raise RecipeError(f"split must be from 0 to 1, not {self.split}")
        if self.max_tokens < 1 or self.cache_bytes < 0:
            raise RecipeError(
                "max_tokens must be at least 1 and cache_bytes at least 0, "
                f"not {self.max_tokens} and {self.cache_bytes}"
            )


def open_stage2(start: str, settings: Mapping[str, Any], *, where: str = "settings") -> Stage2:
    """Open a BLIP-2 of the first stage, to train it before a language model; parameters as those of `open_task`."""
    chosen = build(Stage2Settings, settings, where=where)
    return Stage2(locate_stage1(start), chosen)


class SpokenQFormer(nn.Module):
    """A Q-Former without its words, and the map of its queries into a language model's embeddings.

    Parameters
    ----------
    retrieval : Blip2ForImageTextRetrieval
        Of transformers; its parts are used and not copied, and lose what only reads words.
    width : int
        Of the language model's embeddings.
    """

    def __init__(self, retrieval: Any, width: int) -> None:
        super().__init__()
        self.queries = Queries(retrieval.query_tokens)
        self.qformer = retrieval.qformer
        self.qformer.config.use_qformer_text_input = False
        for layer in self.qformer.encoder.layer:
            del layer.intermediate, layer.output
        self.language_projection = nn.Linear(self.queries.query_tokens.shape[2], width)

    def forward(self, states: Tensor) -> Tensor:
        """Tell pictures ``(n, patches, width of the image tower)`` as soft tokens ``(n, queries, width)``."""
        queries = self.queries.query_tokens.expand(len(states), -1, -1)
        hidden = self.qformer(query_embeds=queries, encoder_hidden_states=states).last_hidden_state
        soft: Tensor = self.language_projection(hidden)
        return soft


class Stage2(Task):
    """The Q-Former, its queries and the projection are trained; image tower and language model stay as they are.

    Parameters
    ----------
    checkpoint : Checkpoint
        Of a `Blip2ForImageTextRetrieval`.
    settings : Stage2Settings
    """

    network: SpokenQFormer

    def __init__(self, checkpoint: Checkpoint, settings: Stage2Settings) -> None:
        self._settings = settings
        language_model = _load_llm(Checkpoint.locate(settings.llm), settings.llm_precision)
        self._llm = Frozen(language_model)
        self._writing = _writing(Checkpoint.locate(settings.llm).path, language_model, settings)
        retrieval = load_retrieval(checkpoint)
        self.network = SpokenQFormer(retrieval, language_model.get_input_embeddings().embedding_dim)
        self._config = retrieval.config
        self._preprocessing = Preprocessing.find(checkpoint.path)
        self._vision = FrozenVision(
            retrieval.vision_model,
            self._preprocessing,
            augmentation=settings.augmentation,
            cache_bytes=settings.cache_bytes,
        )

    @property
    def device(self) -> torch.device:
        """Where it is trained."""
        return next(self.network.parameters()).device

    def begin(self, pairs: Sequence[Pair]) -> None:
        """Keep what the frozen tower sees, as far as there is room."""
        self._vision.keep(pairs, self.device)

    def prepare(self, pair: Pair, rng: np.random.Generator) -> Mapping[str, Any]:
        """Choose one of the texts, and where it is split; prepare the picture."""
        text = pair.texts[rng.integers(len(pair.texts))]
        words = self._writing.sample(text, rng if rng.random() < self._settings.split else None)
        return self._vision.prepare(pair, rng) | words

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """Lay samples out: pictures as `FrozenVision.collate`; what is read and what is to be said after it."""
        return self._vision.collate(samples) | self._writing.collate(samples)

    def losses(self, batch: Batch, moment: Moment) -> Losses:  # noqa: ARG002
        """Compute what a token of the captions costs, in nats."""
        costs = self._costs(self.network(self._vision.see(batch, self.device)), batch)
        return {"loss": costs.sum() / (batch["labels"] != IGNORED).sum()}

    def _costs(self, soft: Tensor, batch: Batch) -> Tensor:
        """Give what each caption costs, ``(n,)`` nats, after the soft tokens of a picture."""
        logits = self._writing.logits(self._llm.on(soft.device), soft, batch).float()
        costs = F.cross_entropy(logits.transpose(1, 2), batch["labels"], ignore_index=IGNORED, reduction="none")
        return costs.sum(dim=1)

    def layers(self) -> Sequence[Layer]:
        """Name the projection, the Q-Former's layers and the queries."""
        network, blocks = self.network, list(self.network.qformer.encoder.layer)
        return [
            Layer("language_projection", network.language_projection, fresh=True),
            *(Layer(f"layer {i}", block, depth=len(blocks) - i) for i, block in enumerate(blocks)),
            Layer("norm", network.qformer.layernorm, depth=len(blocks) + 1),
            Layer("queries", network.queries, depth=len(blocks) + 1),
        ]

    @torch.no_grad()
    def measure(self, pairs: Sequence[Pair]) -> Figures:
        """Measure ``"lm"``, nats a token of all captions costs, and ``"sight"``, how much more after another picture.

        A language model that ignores its soft tokens has a sight of 0; the other picture is the next one.
        """
        own = other = tokens = 0.0
        for samples in self._vision.batches(pairs):
            rows = [row for row, sample in enumerate(samples) for _ in sample["pair"].texts]
            texts = [self._writing.sample(text, None) for sample in samples for text in sample["pair"].texts]
            batch = {name: tensor.to(self.device) for name, tensor in self._writing.collate(texts).items()}
            soft = self.network(self._vision.see(self._vision.collate(samples), self.device))
            own += float(self._costs(soft[rows], batch).sum())
            other += float(self._costs(soft.roll(1, dims=0)[rows], batch).sum())
            tokens += int((batch["labels"] != IGNORED).sum())
        return {"lm": round(own / tokens, 4), "sight": round((other - own) / tokens, 4)}

    def score(self, figures: Figures) -> float:
        """Compare by what a token costs."""
        return -float(figures["lm"])

    def save(self, folder: Path) -> None:
        """Write all of it, frozen parts too: what ``blip2:FOLDER`` opens as a generator."""
        folder.mkdir(parents=True, exist_ok=True)
        self._whole().save_pretrained(folder)
        self._writing.tokenizer.save_pretrained(folder)
        self._preprocessing.write(folder / "preprocessor_config.json")

    def _whole(self) -> Any:
        """Put the parts together as transformers has them."""
        transformers = import_transformers()
        config = transformers.Blip2Config(
            vision_config=self._config.vision_config.to_dict(),
            qformer_config=self.network.qformer.config.to_dict(),
            text_config=self._llm.network.config.to_dict(),
            num_query_tokens=self._config.num_query_tokens,
        )
        with torch.device("meta"):
            whole = transformers.Blip2ForConditionalGeneration(config)
        whole.vision_model, whole.language_model = self._vision.tower, self._llm.network
        whole.query_tokens = self.network.queries.query_tokens
        whole.qformer, whole.language_projection = self.network.qformer, self.network.language_projection
        return whole


class _Writing(ABC):
    """What a language model reads after the soft tokens, and what it is to say.

    Parameters
    ----------
    tokenizer : transformers' tokenizer
    prompt : str
        Stands before every caption.
    max_tokens : int
        Longer texts are cut.
    end : int
        The token that ends a caption.
    """

    def __init__(self, tokenizer: Any, *, prompt: str, max_tokens: int, end: int) -> None:
        self.tokenizer = tokenizer
        self._prompt, self._max_tokens, self._end = prompt, max_tokens, end
        if len(self.ids(prompt)) >= max_tokens - 1:
            raise RecipeError(f"the prompt {prompt!r} leaves no room for a caption in max_tokens = {max_tokens}")

    def ids(self, text: str) -> list[int]:
        """Make tokens, those included that begin or end every text."""
        return list(self.tokenizer(text).input_ids)

    @abstractmethod
    def sample(self, text: str, rng: np.random.Generator | None) -> dict[str, list[int]]:
        """Make "read" and "said", tokens of a caption; `rng` may move some from the latter to the former."""

    @abstractmethod
    def logits(self, llm: Any, soft: Tensor, batch: Batch) -> Tensor:
        """Give what is said in the place of each label, ``(n, t, vocabulary)``."""

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """Lay out ``ids`` and ``mask`` ``(n, s)`` of what is read, and ``labels`` ``(n, t)``, int64."""
        read = [sample["read"] for sample in samples]
        ids, mask = _filled(read, 0), _filled([[1] * len(one) for one in read], 0)
        return {"ids": ids, "mask": mask, "labels": _filled([sample["said"] for sample in samples], IGNORED)}


class _DecoderWriting(_Writing):
    """Soft tokens, prompt and caption in a row; what follows the prompt is to be said."""

    def sample(self, text: str, rng: np.random.Generator | None) -> dict[str, list[int]]:  # noqa: ARG002
        """Make "read", prompt and caption, and "said", the same with the prompt `IGNORED`."""
        before = len(self.ids(self._prompt))
        ids = self.ids(f"{self._prompt} {text}".strip())[: self._max_tokens - 1]
        ids = [*ids, self._end]
        return {"read": ids, "said": [*([IGNORED] * before), *ids[before:]]}

    def logits(self, llm: Any, soft: Tensor, batch: Batch) -> Tensor:
        """Give what is said of each of the labels, ``(n, t, vocabulary)``."""
        embeds, mask = _after(llm, soft, batch)
        logits: Tensor = llm(inputs_embeds=embeds, attention_mask=mask).logits
        return logits[:, soft.shape[1] - 1 : -1]  # a place foretells the next


class _EncoderDecoderWriting(_Writing):
    """The encoder reads soft tokens, prompt and perhaps a caption's first part; the decoder is to say the rest."""

    def sample(self, text: str, rng: np.random.Generator | None) -> dict[str, list[int]]:
        """Make "read" and "said"; a caption is split after some of its words, which `rng` draws."""
        words = text.split()
        first = int(rng.integers(1, len(words))) if rng and len(words) > 1 else 0
        read = self.ids(" ".join([*self._prompt.split(), *words[:first]]))
        said = self.ids(" ".join(words[first:]))[: self._max_tokens - 1]
        return {"read": read[: self._max_tokens], "said": said if said[-1] == self._end else [*said, self._end]}

    def logits(self, llm: Any, soft: Tensor, batch: Batch) -> Tensor:
        """Give what is said of each of the labels, ``(n, t, vocabulary)``."""
        embeds, mask = _after(llm, soft, batch)
        before = llm.prepare_decoder_input_ids_from_labels(batch["labels"])
        logits: Tensor = llm(inputs_embeds=embeds, attention_mask=mask, decoder_input_ids=before).logits
        return logits


def _after(llm: Any, soft: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Put soft tokens ``(n, queries, width)`` before the words ``(n, t)``: embeddings, and who is there."""
    words = llm.get_input_embeddings()(batch["ids"])
    mask = torch.cat([batch["mask"].new_ones(soft.shape[:2]), batch["mask"]], dim=1)
    return torch.cat([soft.to(words.dtype), words], dim=1), mask


def _filled(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Fill rows up to the longest, int64 ``(n, t)``."""
    filled = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for row, one in zip(filled, rows, strict=True):
        row[: len(one)] = one
    return torch.from_numpy(filled)


def _load_llm(checkpoint: Checkpoint, precision: str) -> Any:
    """Load a language model, and have its configuration say how texts end, which is what a saved BLIP-2 goes by."""
    transformers = import_transformers()
    config = read_config(checkpoint)
    kind = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    network: Any = load_pretrained(checkpoint, kind, dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[precision])
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"):
        said = getattr(network.generation_config, name, None)
        if said is not None:
            setattr(network.config, name, said)
    if network.config.eos_token_id is None:
        raise ModelError(f"{checkpoint.reference} does not say which token ends a text (eos_token_id in config.json)")
    return network


def _writing(folder: Path, language_model: Any, settings: Stage2Settings) -> _Writing:
    try:
        tokenizer = import_transformers().AutoTokenizer.from_pretrained(folder, **HERE)
    except Exception as error:  # tokenizers and transformers each raise their own
        raise ModelError(f"{folder} has no tokenizer that can be read: {error}") from error
    end = language_model.config.eos_token_id
    kind: type[_Writing] = _EncoderDecoderWriting if language_model.config.is_encoder_decoder else _DecoderWriting
    return kind(
        tokenizer,
        prompt=settings.prompt,
        max_tokens=settings.max_tokens,
        end=end[0] if isinstance(end, list) else end,
    )
