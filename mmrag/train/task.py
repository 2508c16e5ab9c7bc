"""What a training trains: the one interface between the loop and everything that can be trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from mmrag.sources.pairs import Pair

Batch = dict[str, Any]
Losses = dict[str, Tensor]
Figures = dict[str, Any]


@dataclass(frozen=True)
class Moment:
    """Where a run is.

    Attributes
    ----------
    step, steps : int
        How many steps of the optimizer were done, and how many there will be.
    epoch, epochs : int
        The same in epochs; the first epoch is 1.
    """

    step: int
    steps: int
    epoch: int
    epochs: int

    @property
    def share(self) -> float:
        """How much of the run is done, from 0 to 1."""
        return self.step / max(1, self.steps)


class Layer(NamedTuple):
    """A part of a network whose parameters share a learning rate.

    `depth` counts from the output: 0 is trained at the full rate, each step towards the input at `layer_decay`
    times the rate of the one after it.
    """

    name: str
    module: nn.Module
    depth: int = 0
    fresh: bool = False  # begins without pretrained weights, and may have a rate of its own


class Task(ABC):
    """A network, how pairs become its batches, what is minimised, how it is measured, what is written.

    The loop owns everything else: order, devices, precision, optimizer, checkpoints, logs.

    Attributes
    ----------
    network : nn.Module
        Holds every parameter and buffer that a checkpoint must restore: momentum encoders and queues too.
    """

    network: nn.Module

    @abstractmethod
    def prepare(self, pair: Pair, rng: np.random.Generator) -> Mapping[str, Any]:
        """Turn one pair into one sample: decoded, augmented, one of its texts chosen. Called from several threads.

        Parameters
        ----------
        pair : Pair
            As the source gives it.
        rng : numpy Generator
            The only source of chance: seeded by run, epoch and row, whichever thread asks.

        Raises
        ------
        ItemError
            If the picture cannot be read; the loop counts it and takes another pair in its place.
        """

    @abstractmethod
    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """Lay n samples out as a batch; the loop moves its tensors to the device.

        ``batch["groups"]``, int64 ``(n,)``, is the same for samples of the same picture.
        """

    @abstractmethod
    def losses(self, batch: Batch, moment: Moment) -> Losses:
        """Compute what is minimised, under ``"loss"``, a scalar; other scalars are logged beside it."""

    @abstractmethod
    def layers(self) -> Sequence[Layer]:
        """Name the parts that are trained. What no part holds stays as it is."""

    @abstractmethod
    def measure(self, pairs: Sequence[Pair]) -> Figures:
        """Measure on pairs that are held out; the loop has put the averaged weights in place."""

    @abstractmethod
    def score(self, figures: Figures) -> float:
        """Give what decides which epoch is kept; higher is better."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write a model folder that `mmrag.models.registry` opens, or that the next stage starts from."""

    def meet(self, pairs: Sequence[Pair]) -> None:  # noqa: B027
        """Read the pairs before anything asks for the network: it may depend on their words, as a vocabulary does."""

    def begin(self, pairs: Sequence[Pair]) -> None:  # noqa: B027
        """Look at the pairs before the first step: a frozen tower computes its vectors once here."""

    def after_step(self, moment: Moment) -> None:  # noqa: B027
        """Follow a step of the optimizer: momentum encoders, queues, a bound on the temperature."""

    def logged(self) -> dict[str, float]:
        """Give what is worth a column in the log beside the losses, such as the temperature."""
        return {}


class ContrastiveTask(Task):
    """A task whose loss is a function of two sets of vectors alone, so that the batch may be larger than memory."""

    @abstractmethod
    def embed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Embed a batch into picture vectors and text vectors, each ``(n, d)`` of unit length."""

    @abstractmethod
    def contrast(self, image_vectors: Tensor, text_vectors: Tensor, batch: Batch, moment: Moment) -> Losses:
        """Compute the losses from the vectors; gathers those of other processes."""

    def losses(self, batch: Batch, moment: Moment) -> Losses:
        """Embed and contrast in one go."""
        return self.contrast(*self.embed(batch), batch, moment)
