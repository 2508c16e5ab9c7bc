"""The built-in encoder: its image tower, head and text adapter, towards all texts of each picture."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmrag.errors import InputError
from mmrag.evaluate.retrieval import mean_recall, retrieval_metrics
from mmrag.models.towers import DualEncoder
from mmrag.recipe import build
from mmrag.sources.pairs import Pair
from mmrag.train.augmentation import Augmentation
from mmrag.train.concepts import Concepts, class_texts
from mmrag.train.objectives.contrastive import multi_positive_nce
from mmrag.train.start import Start, load_start
from mmrag.train.task import Batch, Figures, Layer, Losses, Moment, Task
from mmrag.train.texts import encode_texts
from mmrag.train.views import Views

LARGEST_SCALE = 100.0
STAGES = 9


@dataclass(frozen=True)
class EncoderSettings:
    """How the built-in encoder is trained.

    Attributes
    ----------
    frozen_stages : int from 0 to 9
        How many of the image tower's stages, from the pixels on, stay as they are.
    views : int
        How many views of each picture go through them, once.
    concepts : int
        Made-up pairs in every step (`mmrag.train.concepts`), where the start brings a classifier.
    temperature : float
        Where the learned temperature begins.
    label_smoothing : float from 0 to 1
        Share of the target spread over the batch.
    augmentation : Augmentation
        How views differ.
    """

    frozen_stages: int = 5
    views: int = 4
    concepts: int = 128
    temperature: float = 0.07
    label_smoothing: float = 0.05
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if not (0 <= self.frozen_stages <= STAGES and self.views >= 1 and self.concepts >= 0 and self.temperature > 0):
            raise InputError(
                f"frozen_stages must be from 0 to {STAGES}, views at least 1, concepts at least 0 and temperature "
                f"above 0, not {self}"
            )


class Trained(nn.Module):
    """An encoder with the logarithm of its scale, one over the temperature."""

    def __init__(self, encoder: DualEncoder, temperature: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.log_scale = nn.Parameter(torch.tensor(temperature).reciprocal().log())


class EncoderTask(Task):
    """Pull every picture towards all of its texts, and away from those of the others.

    The text tower stays as it is, and so do the first stages of the image tower: what they give is computed once.

    Parameters
    ----------
    start : Start
        What to begin with.
    settings : EncoderSettings
        How to train it.
    """

    network: Trained

    def __init__(self, start: Start, settings: EncoderSettings) -> None:
        self.start = start
        self.settings = settings
        encoder = start.network.to(memory_format=torch.channels_last)
        encoder.requires_grad_(False)
        self.network = Trained(encoder, settings.temperature)
        for layer in self.layers():
            layer.module.requires_grad_(True)
        self._first_stages = copy.deepcopy(encoder.image.stages[: settings.frozen_stages]).eval()
        self._views = self._seen(settings.views)
        self._held_out = self._seen(1)
        self._texts: dict[tuple[str, ...], Tensor] = {}
        self._concepts: Concepts | None = None

    def _seen(self, count: int) -> Views:
        return Views(
            self._look, self.start.preprocessing, count=count, augmentation=self.settings.augmentation, threads=2
        )

    @torch.no_grad()
    def _look(self, pixels: Tensor) -> Tensor:
        x = pixels.to(self._device, memory_format=torch.channels_last)
        with torch.autocast(self._device.type, torch.bfloat16):
            for stage in self._first_stages:
                x = stage(x)
        return x.cpu()

    @property
    def _device(self) -> torch.device:
        return self.network.log_scale.device

    def begin(self, pairs: Sequence[Pair]) -> None:
        """Compute what the frozen parts give: views of pictures, vectors of texts, names of classes."""
        self._first_stages.to(self._device)
        self._views.fill(pairs)
        self._texts |= self._text_vectors(pairs)
        if self.settings.concepts and self.start.classifier is not None:
            vectors = self._bare_vectors(class_texts())
            self._concepts = Concepts(self.start.classifier, vectors)

    def _text_vectors(self, pairs: Sequence[Pair]) -> dict[tuple[str, ...], Tensor]:
        """Embed all texts of pairs, before the adapter, ``(k, d)`` for a pair's k texts."""
        vectors = self._bare_vectors([text for pair in pairs for text in pair.texts])
        parts = vectors.split([len(pair.texts) for pair in pairs])
        return {pair.texts: part for pair, part in zip(pairs, parts, strict=True)}

    def _bare_vectors(self, texts: list[str]) -> Tensor:
        bare = copy.copy(self.network.encoder)
        bare._modules = {**bare._modules, "adapter": nn.Identity()}
        return encode_texts(bare, self.start.tokenizer, texts).cpu()

    def prepare(self, pair: Pair, rng: np.random.Generator) -> Mapping[str, Any]:
        """Choose one of the views of a picture; all of its texts are taken."""
        row = self._views.row(pair)
        return {"row": row, "view": rng.integers(self.settings.views), "texts": self._texts[pair.texts]}

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """Lay out the views of n pictures, and all of their texts with the pictures that they belong to."""
        rows = [sample["row"] for sample in samples]
        seen = self._views.stored[rows, [sample["view"] for sample in samples]]
        counts = torch.tensor([len(sample["texts"]) for sample in samples])
        groups = torch.tensor(rows)
        return {
            "seen": torch.from_numpy(seen).float().to(memory_format=torch.channels_last),
            "texts": torch.cat([sample["texts"] for sample in samples]),
            "groups": groups,
            "text_groups": groups.repeat_interleave(counts),
        }

    def losses(self, batch: Batch, moment: Moment) -> Losses:
        """Compare pictures, and features that a classifier makes up, with texts."""
        encoder = self.network.encoder
        device = batch["seen"].device.type
        with torch.autocast(device, torch.bfloat16):
            grid = encoder.image(batch["seen"], start=self.settings.frozen_stages)  # (n, features, h / 32, w / 32)
        vectors = F.normalize(encoder.head(grid.float()), dim=-1)  # (n, d)
        texts, groups, text_groups = batch["texts"], batch["groups"], batch["text_groups"]
        if self._concepts:
            generator = torch.Generator().manual_seed(moment.step)
            features, names, classes = self._concepts.sample(self.settings.concepts, generator)
            made_up = F.normalize(encoder.head(features.to(vectors.device)), dim=-1)
            vectors, texts = torch.cat([vectors, made_up]), torch.cat([texts, names.to(texts.device)])
            own = (-1 - classes).to(groups.device)
            groups, text_groups = torch.cat([groups, own]), torch.cat([text_groups, own])
        loss = multi_positive_nce(
            vectors,
            encoder.adapter(texts),
            self.network.log_scale.exp(),
            image_groups=groups,
            text_groups=text_groups,
            label_smoothing=self.settings.label_smoothing,
        )
        return {"loss": loss}

    def layers(self) -> Sequence[Layer]:
        """Name the image tower's last stages, the head and the adapter, which are new, and the scale."""
        encoder = self.network.encoder
        stages = nn.ModuleList(encoder.image.stages[self.settings.frozen_stages :])
        return [
            Layer("stages", stages),
            Layer("head", encoder.head, fresh=True),
            Layer("adapter", encoder.adapter, fresh=True),
            Layer("scale", nn.ParameterList([self.network.log_scale]), fresh=True),
        ]

    @torch.no_grad()
    def after_step(self, moment: Moment) -> None:  # noqa: ARG002
        """Bound the scale, as CLIP does."""
        self.network.log_scale.clamp_(max=float(np.log(LARGEST_SCALE)))

    def logged(self) -> dict[str, float]:
        """Give the temperature."""
        return {"temperature": float(self.network.log_scale.detach().neg().exp())}

    @torch.no_grad()
    def measure(self, pairs: Sequence[Pair]) -> Figures:
        """Measure retrieval in both directions."""
        if not len(self._held_out.stored):
            self._first_stages.to(self._device)
            self._held_out.fill(pairs)
            self._texts |= self._text_vectors(pairs)
        encoder = self.network.encoder.eval()
        texts = encoder.adapter(torch.cat([self._texts[pair.texts] for pair in pairs]).to(self._device))
        owner = np.repeat(np.arange(len(pairs)), [len(pair.texts) for pair in pairs])
        images = self.picture_vectors(self._held_out, view=0)
        return retrieval_metrics(texts.cpu().numpy(), images.cpu().numpy(), owner).as_dict()

    @torch.no_grad()
    def picture_vectors(self, views: Views, *, view: int) -> Tensor:
        """Embed one view of all pictures, ``(n, d)``."""
        encoder, vectors = self.network.encoder, []
        for first in range(0, len(views.stored), 64):
            stored = torch.from_numpy(np.ascontiguousarray(views.stored[first : first + 64, view]))
            seen = stored.to(self._device, torch.float32, memory_format=torch.channels_last)
            with torch.autocast(self._device.type, torch.bfloat16):
                grid = encoder.image(seen, start=self.settings.frozen_stages)
            vectors.append(F.normalize(encoder.head(grid.float()), dim=-1))
        return torch.cat(vectors)

    def score(self, figures: Figures) -> float:
        """Give the mean R@1 of both directions."""
        return mean_recall(figures)

    def save(self, folder: Path) -> None:
        """Write the weights and what goes with them; `mmrag.train.edition` makes a model folder of them."""
        self.start.write(folder, logit_scale=float(self.network.log_scale.detach().exp()))


def open_encoder(start: str, settings: Mapping[str, Any], *, where: str) -> EncoderTask:
    """Open the built-in encoder's task: see `mmrag.train.tasks.open_task`."""
    return EncoderTask(load_start(start), build(EncoderSettings, settings, where=where))
