"""BLIP: one network learns to embed, to judge and to describe, from the same batch (Li et al. 2022, section 3.2)."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import Tensor

from mmrag import recipe
from mmrag.errors import InputError, ItemError, ModelError, RecipeError
from mmrag.evaluate.retrieval import retrieval_metrics
from mmrag.models.blip import BlipRetrieval
from mmrag.models.blip_generate import BlipCaptioner
from mmrag.models.blip_network import ENCODE
from mmrag.models.registry import open_model
from mmrag.models.tokens import laid_out
from mmrag.roles import Pixels, Vectors
from mmrag.sources.image import read_image
from mmrag.sources.pairs import Pair
from mmrag.train.augmentation import Augmentation
from mmrag.train.distributed import gather
from mmrag.train.joint_blip import JointBlip
from mmrag.train.loader import picture_group
from mmrag.train.objectives.contrastive import itc, ramp
from mmrag.train.objectives.language import lm
from mmrag.train.objectives.matching import NONE, hard_negatives, itm
from mmrag.train.task import Batch, Figures, Layer, Losses, Moment, Task

logger = logging.getLogger("mmrag")

MEASURED_AT_ONCE = 32

_BESIDE_WEIGHTS = (
    *("tokenizer*", "vocab*", "special_tokens_map.json", "added_tokens.json", "generation_config.json"),
    *("preprocessor_config.json", "processor_config.json"),
)


@dataclass(frozen=True)
class BlipSettings:
    """What a BLIP learns.

    Attributes
    ----------
    itc, itm, lm : float
        Weights of the three losses: to embed, to judge, to describe. 0 leaves one out.
    queue : int
        How many of the twin's last pairs a batch is also held against.
    momentum : float from 0 to 1
        Share of the twin's own weights that stays in every step.
    alpha : float from 0 to 1
        How much of a target of ITC the twin may say, once `alpha_epochs` are over.
    alpha_epochs : float
        For so long that share rises.
    temperature : float
        Where the learned one begins.
    prompt : str
        What every description begins with, and is given, not learned. A model that is trained with one has to be
        asked with it: empty, as in BLIP's pretraining, it needs none.
    label_smoothing : float from 0 to 1
        Share of the target of a token that is spread over the vocabulary.
    max_tokens : int
        Longer texts are cut.
    augmentation : Augmentation or None
        None shows pictures as they are.
    """

    itc: float = 1.0
    itm: float = 1.0
    lm: float = 1.0
    queue: int = 57600
    momentum: float = 0.995
    alpha: float = 0.4
    alpha_epochs: float = 1.0
    temperature: float = 0.07
    prompt: str = ""
    label_smoothing: float = 0.1
    max_tokens: int = 35
    augmentation: Augmentation | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if min(self.itc, self.itm, self.lm) < 0 or self.itc + self.itm + self.lm == 0:
            raise RecipeError(f"of itc, itm and lm none may be negative and one must be above 0, not {self}")
        if not (0 <= self.momentum < 1 and 0 <= self.alpha <= 1 and 0 <= self.label_smoothing < 1):
            raise RecipeError(f"momentum and label_smoothing must be in [0, 1) and alpha in [0, 1], not {self}")
        if min(self.temperature, self.alpha_epochs) <= 0 or self.queue < 0 or self.max_tokens < 3:
            raise RecipeError(
                f"temperature and alpha_epochs must be above 0, queue at least 0 and max_tokens at least 3, not {self}"
            )


class BlipTask(Task):
    """Train a BLIP's three faces at once: ITC, ITM and LM.

    Parameters
    ----------
    model : BlipRetrieval or BlipCaptioner
        The start: how texts and pictures are read, and the weights.
    settings : BlipSettings
        What is learned.

    Raises
    ------
    ModelError
        If the start is damaged.
    """

    network: JointBlip

    def __init__(self, model: BlipRetrieval | BlipCaptioner, settings: BlipSettings) -> None:
        self.network = JointBlip.start(model, temperature=settings.temperature, queue=settings.queue)
        self._model, self._settings = model, settings
        self._tokenizer = model.tokenizer
        self._tokenizer.enable_truncation(min(settings.max_tokens, model.card.max_tokens))
        self._first = {"read": model.token_id(ENCODE), "written": int(model.text["bos_token_id"])}
        self._prompt = len(self._tokenizer.encode(settings.prompt).ids) - 1  # [DEC] and its words, without [SEP]
        self._seen: list[tuple[int, Tensor, Tensor, Tensor]] = []  # step, image keys, text keys, groups

    # --- pairs → batches ----------------------------------------------------------------------------------------------

    def prepare(self, pair: Pair, rng: np.random.Generator) -> Mapping[str, Any]:
        """Turn a pair into pixels and one of its texts."""
        text = pair.texts[rng.integers(len(pair.texts))]
        return {"pixels": self._view(pair, rng), "text": text, "group": picture_group(pair)}

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """Lay samples out: "pixels", "groups", and the tokens of what is read and of what is to be written."""
        texts = [sample["text"] for sample in samples]
        return {
            "pixels": torch.from_numpy(np.stack([sample["pixels"] for sample in samples])),
            "groups": torch.tensor([sample["group"] for sample in samples]),
            **self._tokens("read", texts),
            **self._tokens("written", [f"{self._settings.prompt} {text}" for text in texts]),
        }

    def _view(self, pair: Pair, rng: np.random.Generator) -> Pixels:
        preprocessing, augmentation = self._model.preprocessing, self._settings.augmentation
        size = preprocessing.width, preprocessing.height
        if augmentation is None:
            return preprocessing(read_image(pair.image, at_least=max(size)), exact=True)
        needed = math.ceil(max(size) * math.sqrt(augmentation.ratio / augmentation.crop))
        return preprocessing(augmentation(read_image(pair.image, at_least=needed), size, rng), exact=True)

    def _tokens(self, name: str, texts: Sequence[str]) -> dict[str, Tensor]:
        arrays = laid_out(self._tokenizer.encode_batch(list(texts)))
        return {f"{name}_ids": torch.from_numpy(arrays["input_ids"]),
                f"{name}_mask": torch.from_numpy(arrays["attention_mask"])}  # fmt: skip

    def _beginning_with(self, name: str, ids: Tensor) -> Tensor:
        """Put [ENC] or [DEC] in the place of [CLS]."""
        ids = ids.clone()
        ids[:, 0] = self._first[name]
        return ids

    # --- batches → losses ---------------------------------------------------------------------------------------------

    def losses(self, batch: Batch, moment: Moment) -> Losses:
        """See each picture once, then embed, judge and describe it."""
        network, settings = self.network, self._settings
        states = network.see(batch["pixels"])
        images = network.image_vectors(states)
        texts = network.text_vectors(batch["read_ids"], batch["read_mask"])
        parts = {}
        if settings.itc:
            parts["itc"] = self._itc(images, texts, batch, moment)
        if settings.itm:
            parts["itm"] = self._itm(states, (network.scale * images @ texts.T).detach(), batch)
        if settings.lm:
            parts["lm"] = self._lm(states, batch, label_smoothing=settings.label_smoothing)
        weighted = [getattr(settings, name) * part for name, part in parts.items()]
        return {"loss": torch.stack(weighted).sum(), **parts}

    def _itc(self, images: Tensor, texts: Tensor, batch: Batch, moment: Moment) -> Tensor:
        network, queue, groups = self.network, self.network.queue, batch["groups"]
        with torch.no_grad():
            image_keys = network.image_vectors(network.see(batch["pixels"], twin=True), twin=True)
            text_keys = network.text_vectors(batch["read_ids"], batch["read_mask"], twin=True)
        self._seen.append((moment.step, image_keys, text_keys, groups))
        with torch.autocast(images.device.type, enabled=False):
            return itc(
                images,
                texts,
                torch.cat([image_keys, queue.image_vectors]),
                torch.cat([text_keys, queue.text_vectors]),
                network.scale,
                groups=groups,
                key_groups=torch.cat([groups, queue.groups]),
                alpha=ramp(self._settings.alpha, moment.share * moment.epochs, epochs=self._settings.alpha_epochs),
            )

    def _itm(self, states: Tensor, scores: Tensor, batch: Batch) -> Tensor:
        """Judge each pair, each picture with a text that is not its own, and each text with such a picture."""
        ids, mask, groups = batch["read_ids"], batch["read_mask"], batch["groups"]
        text = hard_negatives(scores, groups, groups)
        image = hard_negatives(scores.T, groups, groups)
        alone = text == NONE
        images = torch.cat([states, states[~alone], states[image[~alone]]])
        rows = torch.cat([torch.arange(len(ids), device=ids.device), text[~alone], torch.nonzero(~alone)[:, 0]])
        logits = self.network.match(self._beginning_with("read", ids)[rows], mask[rows], images)
        return itm(logits[: len(ids)], logits[len(ids) :])

    def _lm(self, states: Tensor, batch: Batch, *, label_smoothing: float) -> Tensor:
        ids, mask = self._beginning_with("written", batch["written_ids"]), batch["written_mask"]
        logits = self.network.write(ids, mask, states)
        return lm(logits, ids, mask, prompt=self._prompt, label_smoothing=label_smoothing)

    def layers(self) -> Sequence[Layer]:
        """Name all parts but the twin, which follows."""
        return self.network.parts()

    def after_step(self, moment: Moment) -> None:
        """Let the twin follow, and queue what it saw in this step, in all processes the same.

        Of a step that was not taken, because something was no number, nothing gets into the queue.
        """
        self.network.follow(self._settings.momentum)
        for step, *seen in self._seen:
            if step == moment.step - 1:
                self.network.queue.push(*map(gather, seen))
        self._seen.clear()

    def logged(self) -> dict[str, float]:
        """Give the temperature."""
        return {"temperature": 1 / self.network.scale.item()}

    # --- figures and files --------------------------------------------------------------------------------------------

    def measure(self, pairs: Sequence[Pair]) -> Figures:
        """Measure all faces that are trained on pairs that are held out.

        Returns
        -------
        dict
            R@k of the vectors in percent, as `RetrievalMetrics.as_dict` gives them; "itm_accuracy", the percentage
            of right judgements of each picture with its first text, and with the most similar first text of another
            picture among 32; "lm_loss" of the first texts, in nats a token.

        Raises
        ------
        InputError
            If no picture can be read.
        """
        training = self.network.training
        self.network.eval()
        with torch.no_grad():
            measured = [self._measure(some) for some in self._readable(pairs)]
        self.network.train(training)
        if not measured:
            raise InputError(f"of {len(pairs)} pairs to measure on, no picture can be read; the log says why")
        return self._figures(measured)

    def _readable(self, pairs: Sequence[Pair]) -> Iterator[list[tuple[Pair, Pixels]]]:
        some = []
        for number in range(len(pairs)):
            try:
                pair = pairs[number]
                pixels = self._model.preprocessing(read_image(pair.image), exact=True)
            except ItemError as error:
                logger.warning("pair %d cannot be measured on: %s", number, error)
                continue
            some.append((pair, pixels))
            if len(some) == MEASURED_AT_ONCE:
                yield some
                some = []
        if some:
            yield some

    def _measure(self, some: Sequence[tuple[Pair, Pixels]]) -> _Measured:
        network, device, settings = self.network, self.network.log_scale.device, self._settings
        pairs = [pair for pair, _ in some]
        tokens = self._tokens("read", [text for pair in pairs for text in pair.texts])
        batch = self.collate(
            [{"pixels": pixels, "text": pair.texts[0], "group": picture_group(pair)} for pair, pixels in some]
        )
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        states = network.see(batch["pixels"])
        images = network.image_vectors(states)
        texts = network.text_vectors(tokens["read_ids"].to(device), tokens["read_mask"].to(device))
        own = np.cumsum([0, *(len(pair.texts) for pair in pairs)])
        asked = int(batch["written_mask"][:, max(1, self._prompt) :].sum())
        return _Measured(
            images.cpu().numpy(),
            texts.cpu().numpy(),
            np.diff(own),
            self._judged(states, images @ texts[own[:-1]].T, batch) if settings.itm else torch.zeros(0),
            float(self._lm(states, batch, label_smoothing=0.0)) * asked if settings.lm else 0.0,
            asked,
        )

    def _judged(self, states: Tensor, cosines: Tensor, batch: Batch) -> Tensor:
        """Tell which judgements are right, bool: of each pair, and of each picture with the hardest other text."""
        ids, mask, groups = self._beginning_with("read", batch["read_ids"]), batch["read_mask"], batch["groups"]
        others = cosines.masked_fill(groups[:, None] == groups[None, :], -torch.inf)
        hardest, found = others.argmax(dim=1), others.amax(dim=1).isfinite()
        matching = self.network.match(ids, mask, states).argmax(dim=1) == 1
        other = self.network.match(ids[hardest], mask[hardest], states).argmax(dim=1) == 0
        return torch.cat([matching, other[found]]).cpu()

    def _figures(self, measured: Sequence[_Measured]) -> Figures:
        images, texts, counts, judged = (
            [getattr(one, name) for one in measured] for name in ("images", "texts", "counts", "judged")
        )
        owner = np.repeat(np.arange(sum(map(len, images))), np.concatenate(counts))
        figures: Figures = dict(retrieval_metrics(np.concatenate(texts), np.concatenate(images), owner).as_dict())
        if self._settings.itm:
            figures["itm_accuracy"] = round(100 * torch.cat(judged).float().mean().item(), 1)
        if self._settings.lm:
            figures["lm_loss"] = round(sum(one.spent for one in measured) / sum(one.tokens for one in measured), 4)
        return figures

    def score(self, figures: Figures) -> float:
        """Give the mean R@1 of both directions; where nothing but descriptions is trained, less loss is better."""
        if self._settings.itc or self._settings.itm:
            return float(figures["text_to_image"]["R@1"] + figures["image_to_text"]["R@1"]) / 2
        return -float(figures["lm_loss"])

    def save(self, folder: Path) -> None:
        """Write one folder that transformers' BlipForImageTextRetrieval and BlipForConditionalGeneration both open.

        mmrag opens it in all three roles.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for pattern in _BESIDE_WEIGHTS:
            for path in self._model.checkpoint.path.glob(pattern):
                if path.parent != folder.resolve():
                    shutil.copyfile(path, folder / path.name)
        config = self.network.reader.config.to_dict()
        config["architectures"] = [BlipRetrieval.architecture, BlipCaptioner.architecture]
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        aside = folder / "model.safetensors.partial"
        save_file(self.network.weights(), aside, metadata={"format": "pt"})
        aside.replace(folder / "model.safetensors")


class _Measured(NamedTuple):
    """What is known of up to 32 pairs: vectors, texts of each picture, judgements, nats that tokens cost, tokens."""

    images: Vectors
    texts: Vectors
    counts: npt.NDArray[np.int64]
    judged: Tensor
    spent: float
    tokens: int


def open_blip(start: str, settings: Mapping[str, Any], *, where: str = "settings") -> BlipTask:
    """Open the task; parameters and errors as those of `mmrag.train.tasks.open_task`."""
    chosen = recipe.build(BlipSettings, settings, where=where)
    model = open_model(start)
    if not isinstance(model, BlipRetrieval | BlipCaptioner):
        raise ModelError(
            f"the task blip trains {BlipRetrieval.architecture} and {BlipCaptioner.architecture}, and {start} is "
            "neither; begin with blip-itm-base or blip-caption-base (mmrag models)"
        )
    return BlipTask(model, chosen)
