"""How to train: every choice in one frozen dataclass."""

from __future__ import annotations

from dataclasses import dataclass, field

from mmrag.errors import InputError
from mmrag.train.data import Augmentation
from mmrag.train.losses import OBJECTIVES

STAGES = 9


@dataclass(frozen=True)
class TrainRecipe:
    """How to train; the defaults are those of the built-in model.

    Attributes
    ----------
    objective : str
        A name in `mmrag.train.losses.OBJECTIVES`.
    frozen_stages : int from 0 to 9
        How many of the image tower's stages, from the pixels on, stay as they are; 9 trains the head alone.
    train_text : bool
        Whether the text tower is trained too. Frozen, texts stay comparable with texts as they were.
    augmentation : Augmentation or None
        How pictures change between epochs; None shows them as they are.
    concepts : int
        Made-up pairs in every step (`mmrag.train.concepts`). They need a start that brings a
        classifier, and a frozen text tower; otherwise there are none.
    batch_size, epochs : int
        Pairs per step, and how often each picture is seen.
    learning_rate, tower_learning_rate : float
        Highest rates, of the head and of the towers.
    warmup : float from 0 to 1
        Share of the steps in which the rates rise; in the rest they fall to zero along a cosine.
    weight_decay : float
        Of matrices and filters; biases and norms are not decayed.
    temperature : float
        Where the learned temperature begins.
    label_smoothing : float from 0 to 1
        Share of the target spread over the batch.
    average : float from 0 to 1
        The weights that are kept are a moving average; this share of it stays in every step.
    tower_share : float from 0 to 1
        How far towards where training took them the towers that are kept lie: 0 is where they started, 1 all
        the way. In between, a model knows more of what the pairs do not show (https://arxiv.org/abs/2109.01903).
    seed : int
        Decides everything that is random.
    """

    objective: str = "info_nce"
    frozen_stages: int = 5
    train_text: bool = False
    augmentation: Augmentation | None = field(default_factory=Augmentation)
    concepts: int = 128
    batch_size: int = 192
    epochs: int = 8
    learning_rate: float = 1e-3
    tower_learning_rate: float = 2e-4
    warmup: float = 0.15
    weight_decay: float = 0.05
    temperature: float = 0.07
    label_smoothing: float = 0.05
    average: float = 0.97
    tower_share: float = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        checks = {
            f"objective must be one of {', '.join(OBJECTIVES)}, not {self.objective!r}": self.objective in OBJECTIVES,
            f"frozen_stages must be from 0 to {STAGES}, not {self.frozen_stages}": 0 <= self.frozen_stages <= STAGES,
            "batch_size and epochs must be at least 1": min(self.batch_size, self.epochs) >= 1,
            "concepts, weight_decay and seed must not be negative": min(self.concepts, self.weight_decay, self.seed)
            >= 0,
            "learning rates and temperature must be above 0": min(
                self.learning_rate, self.tower_learning_rate, self.temperature
            )
            > 0,
            f"tower_share must be from 0 to 1, not {self.tower_share}": 0 <= self.tower_share <= 1,
            "warmup, label_smoothing and average must be at least 0 and below 1": all(
                0 <= share < 1 for share in (self.warmup, self.label_smoothing, self.average)
            ),
        }
        for message, holds in checks.items():
            if not holds:
                raise InputError(message)
