"""Two towers that agree: CLIP, SigLIP, LiT, Chinese-CLIP, and low-rank adaptation of any of them."""

from __future__ import annotations

import dataclasses
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmrag import recipe
from mmrag.errors import ItemError, ModelError, RecipeError
from mmrag.evaluate.retrieval import retrieval_metrics
from mmrag.models.cards import CARD_NAME, Card, Source
from mmrag.models.checkpoint import Checkpoint
from mmrag.models.export import write_card
from mmrag.models.hf import PretrainedEncoder
from mmrag.models.preprocess import Preprocessing
from mmrag.models.registry import load_encoder, open_model
from mmrag.roles import Encoder, Pixels
from mmrag.sources.image import read_image
from mmrag.sources.pairs import Pair
from mmrag.train.augmentation import Augmentation
from mmrag.train.distributed import gather, rank
from mmrag.train.loader import picture_group
from mmrag.train.lora import Lora, adapt, merged
from mmrag.train.negatives import Negatives
from mmrag.train.objectives.contrastive import itc, one_way_nce, ramp, sigmoid
from mmrag.train.objectives.distill import relational
from mmrag.train.objectives.momentum import Queue, follow, twin_of
from mmrag.train.pair_encoder import PairEncoder, opened
from mmrag.train.patches import drop_patches
from mmrag.train.task import Batch, ContrastiveTask, Figures, Layer, Losses, Moment
from mmrag.train.towers import Tower, Towers
from mmrag.train.vector_file import VectorFile, text_key

logger = logging.getLogger("mmrag")

TOWERS: tuple[Tower, ...] = ("image", "text")

_ARRAYS = ("pixels", "image_vectors", "text_vectors", "teacher_image_vectors", "teacher_text_vectors")
_USUAL_SCALE = 100.0  # where a teacher's card does not say

_BESIDE_WEIGHTS = (
    *("tokenizer*", "vocab*", "merges*", "*.model", "added_tokens.json", "special_tokens_map.json"),
    *("preprocessor_config.json", "processor_config.json"),
)


@dataclass(frozen=True)
class Twin:
    """The momentum encoder of the objective "itc" (ALBEF, BLIP).

    Attributes
    ----------
    queue : int
        How many of its last vectors a batch is also held against.
    momentum : float from 0 to 1
        Share of its own weights that stays in every step.
    alpha : float from 0 to 1
        How much of a target it may say, once the first epoch is over.
    """

    queue: int = 4096
    momentum: float = 0.995
    alpha: float = 0.4

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        if self.queue < 0 or not 0 <= self.momentum < 1 or not 0 <= self.alpha <= 1:
            raise RecipeError(f"queue must be at least 0, momentum in [0, 1) and alpha in [0, 1], not {self}")


@dataclass(frozen=True)
class Distillation:
    """A teacher whose order of similarities is kept: a guard against forgetting what the pairs do not show.

    Attributes
    ----------
    teacher : str
        A model's name; empty for the start itself, as it was.
    weight : float
        What the divergence from it is multiplied with.
    """

    teacher: str = ""
    weight: float = 1.0


@dataclass(frozen=True)
class ContrastiveSettings:
    """What the two towers learn, and of what.

    Attributes
    ----------
    objective : {"info_nce", "sigmoid", "itc"}
        See `mmrag.train.objectives.contrastive`.
    label_smoothing : float from 0 to 1
        Share of the target that is spread over the batch; of "info_nce" only.
    temperature : float
        Where the learned temperature begins; 0 goes on with the model's.
    freeze : tuple of str
        Towers that stay as they are: their vectors are computed once, so pictures are not augmented for a frozen
        image tower. LiT freezes "image".
    text_first : int
        For so many epochs the text tower learns alone (Chinese-CLIP's first stage).
    patch_dropout : float from 0 to 1
        Share of the patches that are left out of each picture.
    hard_negatives : int
        How many pairs each pair brings into the batch that its text is confused with, mined in every epoch: a batch
        is ``1 + hard_negatives`` times as large.
    augmentation : Augmentation or None
        None shows pictures as they are.
    lora, distill, twin
        As their classes say; None is without.
    """

    objective: Literal["info_nce", "sigmoid", "itc"] = "info_nce"
    label_smoothing: float = 0.0
    temperature: float = 0.0
    freeze: tuple[Tower, ...] = ()
    text_first: int = 0
    patch_dropout: float = 0.0
    hard_negatives: int = 0
    augmentation: Augmentation | None = None
    lora: Lora | None = None
    distill: Distillation | None = None
    twin: Twin = field(default_factory=Twin)

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if set(self.freeze) == set(TOWERS):
            raise RecipeError('freeze leaves nothing to train: name "image" or "text", not both')
        if self.lora and set(self.lora.towers) & set(self.freeze):
            raise RecipeError(f"a tower is either frozen or adapted by lora, not both: freeze is {list(self.freeze)}")
        if self.patch_dropout and "image" in self.freeze:
            raise RecipeError("patch_dropout is for an image tower that is trained, so freeze must not name it")
        if self.text_first and self.freeze:
            raise RecipeError("text_first trains both towers in the end, so freeze must be empty")
        if not (0 <= self.label_smoothing < 1 and 0 <= self.patch_dropout < 1):
            raise RecipeError("label_smoothing and patch_dropout must be at least 0 and below 1")
        if min(self.temperature, self.text_first, self.hard_negatives) < 0:
            raise RecipeError("temperature, text_first and hard_negatives must not be negative")
        if self.label_smoothing and self.objective != "info_nce":
            raise RecipeError(f'label_smoothing is for the objective "info_nce", not {self.objective!r}; set it to 0')


class Contrastive(ContrastiveTask):
    """An image tower and a text tower that learn to agree on pairs.

    Parameters
    ----------
    encoder : PretrainedEncoder
        The start.
    settings : ContrastiveSettings
        What is learned.
    start : str
        What the start is called.

    Raises
    ------
    ModelError
        If the model has no learned temperature, or no patches to drop.
    MissingExtraError
        If peft is needed and not installed.
    """

    network: Towers

    def __init__(self, encoder: PretrainedEncoder, settings: ContrastiveSettings, *, start: str) -> None:
        self._encoder, self._settings, self._start = encoder, settings, start
        self._biased = settings.objective == "sigmoid"
        model = encoder.load_network()
        self.network = Towers(model, name=start, temperature=settings.temperature, biased=self._biased)
        if settings.patch_dropout:
            drop_patches(model, settings.patch_dropout, name=start)
        if settings.lora:
            adapt(model, settings.lora)
        if settings.objective == "itc":
            self.network.follow_with(twin_of(model), Queue(settings.twin.queue, encoder.card.dimension))
        if settings.hard_negatives:
            self.network.negatives = Negatives(settings.hard_negatives)
        if settings.augmentation and "image" in settings.freeze:
            logger.warning("the image tower is frozen and sees each picture once: augmentation is off")
        self._pairs: Sequence[Pair] = ()
        self._seen: list[tuple[int, Tensor, Tensor, Tensor]] = []  # step, image keys, text keys, groups
        self._vectors = PairEncoder(encoder, self.network, frozen=settings.freeze)
        self._taught: dict[Tower, VectorFile] = {tower: VectorFile() for tower in TOWERS if settings.distill}
        self._teacher_scale = self._teacher().card.logit_scale or _USUAL_SCALE if settings.distill else 0.0

    # --- pairs → batches ----------------------------------------------------------------------------------------------

    def prepare(self, pair: Pair, rng: np.random.Generator) -> Mapping[str, Any]:
        """Turn a pair into a sample, with those of the pairs that it is confused with."""
        sample = self._sample(pair, rng)
        return sample | {"others": self._others(pair, sample["group"], rng)}

    def _sample(self, pair: Pair, rng: np.random.Generator) -> dict[str, Any]:
        text = pair.texts[rng.integers(len(pair.texts))]
        keys: dict[Tower, int] = {"image": picture_group(pair), "text": text_key(text)}
        known = self._vectors.known
        sample: dict[str, Any] = {"group": keys["image"], "text": text}
        sample |= {f"{tower}_vectors": file[keys[tower]] for tower, file in known.items()}
        sample |= {f"teacher_{tower}_vectors": file[keys[tower]] for tower, file in self._taught.items()}
        return sample if "image" in known else sample | {"pixels": self._view(pair.image, rng)}

    @property
    def _negatives(self) -> Negatives:
        return cast(Negatives, self.network.negatives)

    def _others(self, pair: Pair, group: int, rng: np.random.Generator) -> list[dict[str, Any]]:
        """Give as many samples for each pair: for want of others the pair itself, which is never its own negative."""
        if not self._settings.hard_negatives:
            return []
        others = []
        for row in self._negatives.of(group):
            try:
                others.append(self._sample(self._pairs[row], rng))
            except ItemError:  # it could be read when it was mined, and its own turn will tell
                continue
        return others + [self._sample(pair, rng) for _ in range(self._settings.hard_negatives - len(others))]

    def _view(self, data: bytes, rng: np.random.Generator) -> Pixels:
        augmentation, preprocessing = self._settings.augmentation, self._encoder.preprocessing
        if augmentation is None:
            return preprocessing(read_image(data), exact=True)
        size = preprocessing.width, preprocessing.height
        image = read_image(data, at_least=math.ceil(max(size) * math.sqrt(augmentation.ratio / augmentation.crop)))
        if isinstance(preprocessing, Preprocessing) and preprocessing.shortest_edge is not None:
            image = _square(image, rng)
            preprocessing = dataclasses.replace(preprocessing, shortest_edge=None, crop_to_nearest=False)
        return preprocessing(augmentation(image, size, rng), exact=True)

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """Lay samples out, each followed by those that it brings; the text tower's tokens lie beside the rest."""
        rows = [row for sample in samples for row in (sample, *sample["others"])]
        batch: Batch = {"groups": torch.tensor([row["group"] for row in rows])}
        for name in _ARRAYS:
            if name in rows[0]:
                batch[name] = torch.from_numpy(np.stack([row[name] for row in rows]))
        if "text_vectors" not in batch:
            tokens = self._encoder.tokenize([row["text"] for row in rows])
            batch |= {name: torch.from_numpy(array) for name, array in tokens.items()}
        return batch

    # --- batches → losses ---------------------------------------------------------------------------------------------

    def embed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Embed pictures and texts into unit vectors ``(n, d)``; what is frozen was embedded before."""
        alone = self._settings.text_first and int(self.network.epochs_done) < self._settings.text_first
        with torch.set_grad_enabled(torch.is_grad_enabled() and not alone):
            image_vectors = self._vectors.embed("image", self.network.model, batch)
        return image_vectors, self._vectors.embed("text", self.network.model, batch)

    def contrast(self, image_vectors: Tensor, text_vectors: Tensor, batch: Batch, moment: Moment) -> Losses:
        """Compare this process's rows with those of all ("local loss"); the mean over processes is the whole loss."""
        keys = self._keys(batch)
        with torch.autocast(image_vectors.device.type, enabled=False):  # in bf16, logits would be steps of a quarter
            return self._compare(image_vectors, text_vectors, batch, moment, keys)

    def _compare(
        self, image_vectors: Tensor, text_vectors: Tensor, batch: Batch, moment: Moment, keys: Sequence[Tensor]
    ) -> Losses:
        if self._settings.objective == "itc":
            loss = self._itc(image_vectors, text_vectors, batch, moment, keys)
        elif self._settings.objective == "sigmoid":
            loss = self._sigmoid(image_vectors, text_vectors, batch)
        else:
            loss = self._info_nce(image_vectors, text_vectors, batch)
        if self._settings.distill is None:
            return {"loss": loss}
        distance = self._distance(image_vectors, text_vectors, batch)
        return {"loss": loss + self._settings.distill.weight * distance, "contrast": loss, "distance": distance}

    def _info_nce(self, image_vectors: Tensor, text_vectors: Tensor, batch: Batch) -> Tensor:
        groups, scale = batch["groups"], self.network.scale
        options: dict[str, Any] = {
            "offset": rank() * len(groups),
            "label_smoothing": self._settings.label_smoothing,
            "row_groups": groups,
            "column_groups": gather(groups),
        }
        to_text = one_way_nce(image_vectors, gather(text_vectors), scale, **options)
        return (to_text + one_way_nce(text_vectors, gather(image_vectors), scale, **options)) / 2

    def _sigmoid(self, image_vectors: Tensor, text_vectors: Tensor, batch: Batch) -> Tensor:
        groups = batch["groups"]
        return sigmoid(
            image_vectors,
            gather(text_vectors),
            self.network.scale,
            self.network.bias.squeeze(),
            offset=rank() * len(groups),
            image_groups=groups,
            text_groups=gather(groups),
        )

    @torch.no_grad()
    def _keys(self, batch: Batch) -> list[Tensor]:
        """Embed pictures and texts as the twin does, where there is one."""
        if self._settings.objective != "itc":
            return []
        return [self._vectors.embed(tower, self.network.twin, batch) for tower in TOWERS]

    def _itc(
        self, image_vectors: Tensor, text_vectors: Tensor, batch: Batch, moment: Moment, keys: Sequence[Tensor]
    ) -> Tensor:
        queue, groups, (image_keys, text_keys) = self.network.queue, batch["groups"], keys
        loss = itc(
            image_vectors,
            text_vectors,
            torch.cat([image_keys, queue.image_vectors]),
            torch.cat([text_keys, queue.text_vectors]),
            self.network.scale,
            groups=groups,
            key_groups=torch.cat([groups, queue.groups]),
            alpha=ramp(self._settings.twin.alpha, moment.share * moment.epochs),
        )
        self._seen.append((moment.step, image_keys, text_keys, groups))
        return loss

    def _distance(self, image_vectors: Tensor, text_vectors: Tensor, batch: Batch) -> Tensor:
        images, texts = batch["teacher_image_vectors"], batch["teacher_text_vectors"]
        scales: dict[str, Any] = {"scale": self.network.scale, "teacher_scale": self._teacher_scale}
        of_images = relational(image_vectors, gather(text_vectors), images, gather(texts), **scales)
        return (of_images + relational(text_vectors, gather(image_vectors), texts, gather(images), **scales)) / 2

    def layers(self) -> Sequence[Layer]:
        """Name the parts of the towers that are trained, and the temperature."""
        trained = [tower for tower in TOWERS if tower not in self._settings.freeze]
        parts = [part for tower in trained for part in self.network.parts(tower)]
        return parts + self.network.own_parts(biased=self._biased)

    # --- around the steps ---------------------------------------------------------------------------------------------

    def begin(self, pairs: Sequence[Pair]) -> None:
        """Compute what frozen towers and a teacher say, and mine the first epoch's negatives.

        Each process does all of it, for which pairs are its own changes from epoch to epoch.
        """
        self._pairs = pairs
        if self._settings.distill:
            self._ask_teacher()
        if self._settings.freeze:
            for _ in self._vectors.encode_parts(pairs):
                pass  # it keeps them
        if self._settings.hard_negatives:
            self._mine()

    def after_step(self, moment: Moment) -> None:
        """Bound the temperature, let the twin follow, and mine at the end of an epoch."""
        self.network.bound()
        if self._settings.objective == "itc":
            follow(self.network.twin, self.network.model, momentum=self._settings.twin.momentum)
            for step, *seen in self._seen:  # of a step that was not taken, nothing gets into the queue
                if step == moment.step - 1:
                    self.network.queue.push(*map(gather, seen))
            self._seen.clear()
        per_epoch = max(1, moment.steps // moment.epochs)
        done, into_next = divmod(moment.step, per_epoch)
        self.network.epochs_done.fill_(done)
        if self._settings.hard_negatives and not into_next and moment.step < moment.steps:
            self._mine()

    def logged(self) -> dict[str, float]:
        """Give the temperature, and the bias where there is one."""
        temperature = {"temperature": 1 / self.network.scale.item()}
        return temperature | {"bias": self.network.bias.item()} if self._biased else temperature

    def _mine(self) -> None:
        found = self._vectors.encode(self._pairs)
        _, first_texts = np.unique(found.image_of_text, return_index=True)
        texts = found.text_vectors[first_texts]
        self._negatives.mine(
            texts, found.image_vectors, groups=found.groups, rows=found.rows, device=self.network.device
        )

    def _teacher(self) -> Encoder:
        named = self._settings.distill.teacher if self._settings.distill else ""
        return load_encoder(named or self._start)

    def _ask_teacher(self) -> None:
        teacher = self._teacher()
        for some in opened(self._pairs, lambda _, data: read_image(data)):
            texts = list(dict.fromkeys(text for one in some for text in one.texts))
            images = teacher.encode_image([one.picture for one in some])
            self._taught["image"].add([one.group for one in some], images)
            self._taught["text"].add([text_key(text) for text in texts], teacher.encode_text(texts))

    # --- what comes out -----------------------------------------------------------------------------------------------

    def measure(self, pairs: Sequence[Pair]) -> Figures:
        """Measure R@1, R@5, R@10 and the median rank in both directions, as `mmrag eval` does."""
        found = self._vectors.encode(pairs)
        return retrieval_metrics(found.text_vectors, found.image_vectors, found.image_of_text).as_dict()

    def score(self, figures: Figures) -> float:
        """Mean R@1 of both directions, in percent."""
        return float(figures["text_to_image"]["R@1"] + figures["image_to_text"]["R@1"]) / 2

    def save(self, folder: Path) -> None:
        """Write a folder in the layout of transformers, and a card; it opens without peft."""
        folder.mkdir(parents=True, exist_ok=True)
        model = self.network.model
        (merged(model) if self._settings.lora else model).save_pretrained(folder)
        for glob in _BESIDE_WEIGHTS:
            for path in self._encoder.folder.glob(glob):
                shutil.copyfile(path, folder / path.name)
        if not (folder / "tokenizer.json").is_file():
            self._encoder.write_tokenizer(folder)
        (folder / CARD_NAME).unlink(missing_ok=True)  # of an earlier run: it must not describe this one
        write_card(self._card(folder), folder)

    def _card(self, folder: Path) -> Card:
        began = self._encoder.card
        return dataclasses.replace(
            PretrainedEncoder(Checkpoint.locate(str(folder))).card,
            name=folder.resolve().name,
            languages=began.languages,
            summary=f"{began.name}, trained on {len(self._pairs)} pictures and their texts.",
            licence_weights=began.licence_weights,
            sources=(Source(began.name, began.licence_weights or "see its own card", use="the start of both towers"),),
            training=f"From {began.name} at {began.revision}: {_described(self._settings)}",
        )


def open_contrastive(start: str, settings: Mapping[str, Any], *, where: str) -> Contrastive:
    """Open two towers to train.

    Parameters
    ----------
    start : str
        A model's name; one of transformers' with an image and a text tower.
    settings : mapping
        Keys of `ContrastiveSettings`.
    where : str
        Named in errors.

    Raises
    ------
    RecipeError
        If the settings do not fit.
    ModelError
        If the start is not here, or is of another kind.
    MissingExtraError
        If peft is needed and not installed.
    """
    chosen = recipe.build(ContrastiveSettings, settings, where=where)
    encoder = open_model(start)
    if not isinstance(encoder, PretrainedEncoder):
        raise ModelError(
            f"{start} ({encoder.card.family}) is no model that this task trains: it takes CLIP, SigLIP, SigLIP 2, "
            "Chinese-CLIP and their like in transformers' layout, such as hf:openai/clip-vit-base-patch32. See: "
            "mmrag models"
        )
    return Contrastive(encoder, chosen, start=start)


def _described(settings: ContrastiveSettings) -> str:
    """Say in one line what was chosen, the defaults left out."""
    usual = ContrastiveSettings()
    chosen = {one.name: getattr(settings, one.name) for one in dataclasses.fields(settings)}
    return ", ".join(f"{name} {value}" for name, value in chosen.items() if value != getattr(usual, name)) or "defaults"


def _square(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Cut the largest square out of a picture, anywhere: proportions stay as a search sees them."""
    side = min(image.size)
    left, top = (int(rng.integers(length - side + 1)) for length in image.size)
    return image.crop((left, top, left + side, top + side))
