"""Pretrained parts that training leaves as they are."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmrag.errors import InputError, ItemError
from mmrag.models.preprocess import Preprocessing
from mmrag.sources.image import read_image
from mmrag.sources.pairs import Pair
from mmrag.train.augmentation import Augmentation
from mmrag.train.loader import picture_group
from mmrag.train.task import Batch
from mmrag.train.vector_file import VectorFile

logger = logging.getLogger("mmrag")

PICTURES_AT_ONCE = 16


class Frozen:
    """A network without gradients and without dropout, which is in no checkpoint of a run.

    It stands beside what is trained and not in it, so that averages and checkpoints do not hold it once more.

    Parameters
    ----------
    network : nn.Module
        Is changed: its parameters need no gradients any more.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network: Any = network.requires_grad_(False).eval()

    def on(self, device: torch.device) -> Any:
        """Give the network, where the batch is."""
        self.network.to(device)
        return self.network


class FrozenVision:
    """A frozen image tower: pictures are prepared for it, and seen; those that are never augmented, once.

    Parameters
    ----------
    tower : nn.Module
        Takes ``pixel_values`` and gives a ``last_hidden_state``, as transformers' towers do.
    preprocessing : Preprocessing
        What it expects of a picture.
    augmentation : Augmentation or None
        How pictures change between epochs; None shows them as they are.
    cache_bytes : int
        How much of what it sees may be kept on disk, in half precision; nothing is kept of augmented pictures.
    """

    def __init__(
        self,
        tower: nn.Module,
        preprocessing: Preprocessing,
        *,
        augmentation: Augmentation | None = None,
        cache_bytes: int = 0,
    ) -> None:
        self._frozen = Frozen(tower)
        self._preprocessing = preprocessing
        self._augmentation = augmentation
        self._room = 0 if augmentation else cache_bytes
        self._kept = VectorFile()
        self._shape: tuple[int, ...] = ()

    @property
    def tower(self) -> Any:
        """The network."""
        return self._frozen.network

    def keep(self, pairs: Sequence[Pair], device: torch.device) -> None:
        """See as many pictures as there is room for, once for all epochs; what cannot be read is left out."""
        for batch in self.batches(pairs) if self._room else ():
            states = self.see(self.collate(batch), device).half().cpu().numpy()
            if states.nbytes > self._room:
                break
            self._room -= states.nbytes
            self._shape = states.shape[1:]
            self._kept.add([sample["group"] for sample in batch], states)
        if self._kept:
            logger.info("what the image tower sees of %d pictures is kept on disk", len(self._kept))

    def prepare(self, pair: Pair, rng: np.random.Generator | None = None) -> dict[str, Any]:
        """Turn a picture into what `collate` takes: its group, and pixels or what was seen of it before.

        Parameters
        ----------
        pair : Pair
            Whose picture is wanted.
        rng : numpy Generator or None
            Decides how the picture is augmented; None shows it as it is.

        Raises
        ------
        ItemError
            If it cannot be read.
        """
        group = picture_group(pair)
        if group in self._kept:
            return {"group": group, "states": self._kept[group].reshape(self._shape)}
        size = (self._preprocessing.width, self._preprocessing.height)
        augmentation = self._augmentation if rng else None
        image = read_image(pair.image, at_least=None if augmentation else max(size))
        if augmentation and rng:
            image = augmentation(image, size, rng)
        return {"group": group, "pixels": self._preprocessing(image)}

    def batches(self, pairs: Sequence[Pair]) -> Iterator[list[dict[str, Any]]]:
        """Prepare all pictures as they are, some at a time, each with its "pair"; what cannot be read is left out.

        Raises
        ------
        InputError
            If none can be read.
        """
        found = False

        def prepared(row: int) -> dict[str, Any] | None:
            try:
                pair = pairs[row]
                return self.prepare(pair) | {"pair": pair}
            except ItemError as error:
                logger.warning("pair %d: %s; left out", row, error)
                return None

        with ThreadPoolExecutor() as threads:
            for start in range(0, len(pairs), PICTURES_AT_ONCE):
                rows = range(start, min(start + PICTURES_AT_ONCE, len(pairs)))
                samples = [sample for sample in threads.map(prepared, rows) if sample]
                if samples:
                    found = True
                    yield samples
        if not found:
            raise InputError(f"none of {len(pairs)} pictures can be read; the log names the reason for each")

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """Lay n pictures out as ``groups`` ``(n,)``, the ``pixels`` and ``states`` there are, and their ``order``."""
        batch: Batch = {"groups": torch.tensor([sample["group"] for sample in samples])}
        order: list[int] = []
        for kind in ("pixels", "states"):
            rows = [row for row, sample in enumerate(samples) if kind in sample]
            if rows:
                batch[kind] = torch.from_numpy(np.stack([samples[row][kind] for row in rows]))
            order += rows
        return batch | {"order": torch.tensor(order)}

    @torch.no_grad()
    def see(self, batch: Batch, device: torch.device) -> Tensor:
        """Give the tower's last hidden states ``(n, patches, width)`` of a batch's pictures."""
        parts = []
        if "pixels" in batch:
            parts.append(self._frozen.on(device)(pixel_values=batch["pixels"].to(device)).last_hidden_state)
        if "states" in batch:
            parts.append(batch["states"].to(device))
        states: Tensor = torch.cat([part.float() for part in parts])
        return states[batch["order"].argsort()]
