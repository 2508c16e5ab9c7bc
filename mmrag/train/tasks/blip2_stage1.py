"""BLIP-2's first stage: a Q-Former learns to find in a frozen tower's pictures what words say.

Li et al. 2023, https://arxiv.org/abs/2301.12597, section 3.1: contrast (ITC), matching (ITM) and writing (ITG).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from mmrag.errors import ModelError, RecipeError
from mmrag.evaluate.retrieval import retrieval_metrics
from mmrag.models.checkpoint import Checkpoint
from mmrag.models.network import import_transformers
from mmrag.models.preprocess import Preprocessing
from mmrag.models.pretrained import HERE, load_pretrained
from mmrag.recipe import build
from mmrag.roles import Vectors
from mmrag.sources.pairs import Pair
from mmrag.train.augmentation import Augmentation
from mmrag.train.distributed import gather, rank
from mmrag.train.frozen import FrozenVision
from mmrag.train.objectives.language import lm
from mmrag.train.objectives.matching import NONE, hard_negatives, itm
from mmrag.train.objectives.qformer import itc, itc_mask, itg_mask, itm_mask, query_cosines
from mmrag.train.qformer import TrainedQFormer, grow_vocabulary
from mmrag.train.task import Batch, Figures, Layer, Losses, Moment, Task
from mmrag.train.texts import tokenize

ARCHITECTURE = "Blip2ForImageTextRetrieval"
OBJECTIVES_NAME = "objectives.safetensors"
WRITES = "[DEC]"
"""The first token of a text that is written, in place of [CLS]."""


@dataclass(frozen=True)
class Stage1Settings:
    """What the first stage can be told.

    Attributes
    ----------
    max_tokens : int
        Longer texts are cut.
    label_smoothing : float from 0 to 1
        In contrast and in writing.
    itc, itm, itg : float
        Weights of the three losses.
    cache_bytes : int
        How much of what the frozen tower sees may be kept on disk; 0 keeps nothing. Augmented pictures are not kept.
    augmentation : Augmentation or None
        How pictures change between epochs; None shows them as they are.
    """

    max_tokens: int = 32
    label_smoothing: float = 0.1
    itc: float = 1.0
    itm: float = 1.0
    itg: float = 1.0
    cache_bytes: int = 0
    augmentation: Augmentation | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if self.max_tokens < 3:
            raise RecipeError(
                f"max_tokens must be at least 3, for a word between [CLS] and [SEP], not {self.max_tokens}"
            )
        if not 0 <= self.label_smoothing < 1:
            raise RecipeError(f"label_smoothing must be at least 0 and below 1, not {self.label_smoothing}")
        if min(self.itc, self.itm, self.itg) < 0 or not self.itc + self.itm + self.itg:
            raise RecipeError("itc, itm and itg must not be negative, and one of them must be above 0")
        if self.cache_bytes < 0:
            raise RecipeError(f"cache_bytes must not be negative, not {self.cache_bytes}")


def open_stage1(start: str, settings: Mapping[str, Any], *, where: str = "settings") -> Stage1:
    """Open a BLIP-2 that embeds and judges, to train its Q-Former; parameters and errors as those of `open_task`."""
    chosen = build(Stage1Settings, settings, where=where)
    return Stage1(locate_stage1(start), chosen)


def locate_stage1(start: str) -> Checkpoint:
    """Find a BLIP-2 of the first stage, by its folder or its name on the hub, with or without ``blip2:``.

    Raises
    ------
    ModelError
        If it is not here, or is of another architecture.
    """
    checkpoint = Checkpoint.locate(start.removeprefix("blip2:"))
    named = (checkpoint.config.get("architectures") or [None])[0]
    if named != ARCHITECTURE:
        raise ModelError(
            f"{checkpoint.reference} is a {named}, and BLIP-2 is trained from a {ARCHITECTURE}, such as "
            "blip2:Salesforce/blip2-itm-vit-g or the folder that blip2-stage1 wrote"
        )
    return checkpoint


def load_retrieval(checkpoint: Checkpoint) -> Any:
    """Load transformers' network, all of it, in float32 on the CPU."""
    return load_pretrained(checkpoint, import_transformers().Blip2ForImageTextRetrieval)


class Stage1(Task):
    """The Q-Former is trained, by all three losses; the image tower stays as it is.

    Parameters
    ----------
    checkpoint : Checkpoint
        Of a `Blip2ForImageTextRetrieval`, as transformers saves it.
    settings : Stage1Settings
    """

    network: TrainedQFormer

    def __init__(self, checkpoint: Checkpoint, settings: Stage1Settings) -> None:
        self._settings = settings
        self._retrieval = load_retrieval(checkpoint)
        self._preprocessing = Preprocessing.find(checkpoint.path)
        self._texts = _Texts(checkpoint.path, settings.max_tokens)
        grow_vocabulary(self._retrieval, self._texts.writes + 1, like=self._texts.reads)
        self.network = TrainedQFormer(self._retrieval)
        self._fresh = not (checkpoint.path / OBJECTIVES_NAME).is_file()
        if not self._fresh:
            self.network.objectives.load_state_dict(load_file(checkpoint.path / OBJECTIVES_NAME))
        self._vision = FrozenVision(
            self._retrieval.vision_model,
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
        """Choose one of the texts, and prepare the picture."""
        text = pair.texts[rng.integers(len(pair.texts))]
        return self._vision.prepare(pair, rng) | {"text": text}

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """Lay samples out: pictures as `FrozenVision.collate`, ``ids`` and ``mask`` ``(n, t)``."""
        return self._vision.collate(samples) | self._texts([sample["text"] for sample in samples])

    def losses(self, batch: Batch, moment: Moment) -> Losses:  # noqa: ARG002
        """Compute ITC, ITM and ITG, as much of each as the settings say."""
        states = self._vision.see(batch, self.device)
        contrast, scores = self._contrast(states, batch)
        losses = {
            "itc": contrast,
            "itm": self._matching(states, batch, scores),
            "itg": self._writing(states, batch, self._settings.label_smoothing),
        }
        total = sum(getattr(self._settings, name) * loss for name, loss in losses.items())
        return {"loss": torch.as_tensor(total), **{name: loss.detach() for name, loss in losses.items()}}

    def _contrast(self, states: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Compute ITC against the vectors of all processes, and the scores ``(n, n)`` of this one's."""
        image_vectors, text_vectors = self._embed(states, batch)
        groups, scale = batch["groups"], self.network.scale
        own = torch.arange(len(groups), device=states.device) + rank() * len(groups)
        same = groups[:, None] == gather(groups)[None, :]
        with torch.autocast(states.device.type, enabled=False):  # in bf16, logits would be steps of a quarter
            scores = scale * query_cosines(image_vectors, gather(text_vectors))  # (n, all)
            back = scale * query_cosines(gather(image_vectors), text_vectors).T
        smoothing = self._settings.label_smoothing
        loss = (
            itc(scores, own, same=same, label_smoothing=smoothing)
            + itc(back, own, same=same, label_smoothing=smoothing)
        ) / 2
        return loss, scores.detach()[:, own]

    def _embed(self, states: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        mask = itc_mask(self.network.query_count, batch["mask"])
        return self.network.embed(*self.network.read(states, batch["ids"], mask))

    def _matching(self, states: Tensor, batch: Batch, scores: Tensor) -> Tensor:
        """Compute ITM over n pairs, and for each picture a wrong text and for each text a wrong picture."""
        groups = batch["groups"]
        everyone = torch.arange(len(groups), device=states.device)
        wrong_texts, wrong_pictures = hard_negatives(scores, groups, groups), hard_negatives(scores.T, groups, groups)
        pictures = torch.cat([everyone, everyone[wrong_texts != NONE], wrong_pictures[wrong_pictures != NONE]])
        texts = torch.cat([everyone, wrong_texts[wrong_texts != NONE], everyone[wrong_pictures != NONE]])
        mask = itm_mask(self.network.query_count, batch["mask"][texts])
        queries, _ = self.network.read(states[pictures], batch["ids"][texts], mask)
        logits = self.network.judge(queries)
        return itm(logits[: len(everyone)], logits[len(everyone) :])

    def _writing(self, states: Tensor, batch: Batch, label_smoothing: float) -> Tensor:
        """Compute ITG: each token from the picture's queries and the tokens before it."""
        ids = batch["ids"].clone()
        ids[:, 0] = self._texts.writes
        mask = itg_mask(self.network.query_count, batch["mask"])
        _, words = self.network.read(states, ids, mask)
        return lm(self.network.write(words), ids, batch["mask"], label_smoothing=label_smoothing)

    def layers(self) -> Sequence[Layer]:
        """Name heads, the Q-Former's layers and embeddings."""
        network, blocks = self.network, list(self.network.qformer.encoder.layer)
        heads = ("vision_projection", "text_projection", "itm_head")
        return [
            Layer("objectives", network.objectives, fresh=self._fresh),
            *(Layer(name, getattr(network, name)) for name in heads),
            *(Layer(f"layer {i}", block, depth=len(blocks) - i) for i, block in enumerate(blocks)),
            Layer("norm", network.qformer.layernorm, depth=len(blocks) + 1),
            Layer("queries", network.queries, depth=len(blocks) + 1),
            Layer("embeddings", network.embeddings, depth=len(blocks) + 1),
        ]

    def after_step(self, moment: Moment) -> None:  # noqa: ARG002
        """Bound the temperature."""
        self.network.bound_scale()

    def logged(self) -> dict[str, float]:
        """Give the temperature."""
        return {"temperature": 1 / self.network.scale.item()}

    @torch.no_grad()
    def measure(self, pairs: Sequence[Pair]) -> Figures:
        """Measure R@k in percent in both directions, by cosines, and ``"itg"``, nats a picture's text costs a token."""
        images: list[Vectors] = []
        texts: list[Vectors] = []
        owners: list[int] = []
        written: list[tuple[float, int]] = []
        for samples in self._vision.batches(pairs):
            rows = [row for row, sample in enumerate(samples) for _ in sample["pair"].texts]
            words = self._texts([text for sample in samples for text in sample["pair"].texts])
            batch = {name: tensor.to(self.device) for name, tensor in words.items()}
            states = self._vision.see(self._vision.collate(samples), self.device)[rows]
            image_vectors, text_vectors = self._embed(states, batch)
            first = [rows.index(row) for row in range(len(samples))]
            owners += [sum(len(some) for some in images) + row for row in rows]
            images.append(image_vectors[first].float().cpu().numpy())
            texts.append(text_vectors.float().cpu().numpy())
            written.append((float(self._writing(states, batch, 0.0)), int(batch["mask"][:, 1:].sum())))
        metrics = retrieval_metrics(np.concatenate(texts), np.concatenate(images), owners)
        tokens = sum(count for _, count in written)
        return metrics.as_dict() | {"itg": round(sum(loss * count for loss, count in written) / tokens, 4)}

    def score(self, figures: Figures) -> float:
        """Compare by R@1, the mean of both directions."""
        return float(figures["text_to_image"]["R@1"] + figures["image_to_text"]["R@1"]) / 2

    def save(self, folder: Path) -> None:
        """Write what ``blip2:FOLDER`` opens as an encoder and matcher, and what a further training begins with."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {name.removeprefix("queries."): tensor.cpu() for name, tensor in self.network.state_dict().items()}
        apart = {name: tensor for name, tensor in state.items() if name.startswith("objectives.")}
        vision = {f"vision_model.{name}": tensor for name, tensor in self._vision.tower.state_dict().items()}
        whole = {name: tensor for name, tensor in state.items() if name not in apart} | vision
        self._retrieval.save_pretrained(folder, state_dict=whole)
        save_file(
            {name.removeprefix("objectives."): tensor.contiguous() for name, tensor in apart.items()},
            folder / OBJECTIVES_NAME,
        )
        self._texts.save(folder)
        self._preprocessing.write(folder / "preprocessor_config.json")


class _Texts:
    """BERT's tokenizer, and the token that begins what is written.

    Parameters
    ----------
    folder : path
        Where a tokenizer lies, which need not know [DEC] yet.
    max_tokens : int
        Where texts are cut.
    """

    def __init__(self, folder: Path, max_tokens: int) -> None:
        try:
            self._own = import_transformers().AutoTokenizer.from_pretrained(folder, **HERE)
        except Exception as error:  # tokenizers and transformers each raise their own
            raise ModelError(f"{folder} has no tokenizer that can be read: {error}") from error
        self._own.add_special_tokens({"bos_token": WRITES})
        self.writes = int(self._own.convert_tokens_to_ids(WRITES))
        self.reads = int(self._own.cls_token_id)
        self._tokenizer = Tokenizer.from_str(self._own.backend_tokenizer.to_str())
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        self._tokenizer.encode_special_tokens = True  # "[DEC]" in a text is a word

    def __call__(self, texts: Sequence[str]) -> Batch:
        """Make ``ids`` and ``mask``, int64 ``(n, t)``."""
        ids, mask = tokenize(self._tokenizer, texts)
        return {"ids": torch.from_numpy(ids), "mask": torch.from_numpy(mask)}

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files."""
        self._own.save_pretrained(folder)
