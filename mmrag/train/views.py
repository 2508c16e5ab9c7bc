"""What a frozen part of a network sees in pictures: computed once for a few views of each, and kept on disk."""

from __future__ import annotations

import logging
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmrag.errors import InputError, ItemError
from mmrag.models.preprocess import Preprocessing
from mmrag.roles import Pixels
from mmrag.sources.image import read_image
from mmrag.sources.pairs import Pair
from mmrag.train.augmentation import Augmentation
from mmrag.train.loader import picture_group

logger = logging.getLogger("mmrag")

AT_ONCE = 64


class _Looked(NamedTuple):
    """A picture that could be read: where it is among the pairs, its group, its pair's texts, a view's pixels."""

    row: int
    group: int
    texts: tuple[str, ...]
    pixels: Pixels


class Views:
    """Views of pictures, as a frozen network gives them; the first view of each picture is the picture as it is.

    Parameters
    ----------
    compute : callable
        ``(n, 3, height, width)`` → ``(n, …)``, without gradients.
    preprocessing : Preprocessing
        What the network expects of a picture.
    count : int
        How many views of each.
    augmentation : Augmentation
        How the others differ from the first.
    seed : int
        Decides how.
    threads : int
        How many decode pictures.

    Attributes
    ----------
    stored : float16 ``(pairs, count, …)``
        What the network gives; nothing in the rows of pictures that cannot be read.
    texts : dict of int to tuple of str
        By row, the texts of the pairs whose pictures can be read.
    """

    def __init__(
        self,
        compute: Callable[[Tensor], Tensor],
        preprocessing: Preprocessing,
        *,
        count: int = 1,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        threads: int = 2,
    ) -> None:
        self._compute = compute
        self._preprocessing = preprocessing
        self._count = count
        self._augmentation = augmentation or Augmentation()
        self._seed = seed
        self._threads = threads
        self._rows: dict[int, int] = {}  # by what a picture holds: names may come twice, in two files
        self.texts: dict[int, tuple[str, ...]] = {}
        self.stored: npt.NDArray[np.float16] = np.empty((0, count), dtype=np.float16)

    def fill(self, pairs: Sequence[Pair]) -> None:
        """Compute all views of all pictures, about as large as the network's output.

        What cannot be read is left out, with a warning.

        Raises
        ------
        InputError
            If no picture can be read.
        """
        stored: npt.NDArray[np.float16] | None = None
        for view, looked in self._looked(pairs):
            given = torch.from_numpy(np.stack([one.pixels for one in looked]))
            computed = self._compute(given).to(torch.float16).cpu().numpy()
            if stored is None:
                shape = (len(pairs), self._count, *computed.shape[1:])
                stored = np.lib.format.open_memmap(self._folder() / "views.npy", "w+", np.float16, shape)
            stored[[one.row for one in looked], view] = computed
            for one in looked:
                self._rows.setdefault(one.group, one.row)
                self.texts[one.row] = one.texts
        if stored is None:
            raise InputError(f"none of {len(pairs)} pictures can be read; the log names the reason for each")
        self.stored = stored

    def _folder(self) -> Path:
        """Make a folder that goes when this does."""
        folder = Path(tempfile.mkdtemp(prefix="mmrag-views-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder

    def row(self, pair: Pair) -> int:
        """Give the row of a picture that `fill` has seen; equal pictures have one.

        Raises
        ------
        ItemError
            If it could not be read.
        """
        row = self._rows.get(picture_group(pair))
        if row is None:
            raise ItemError("could not be read when the frozen part of the network looked at all pictures")
        return row

    def _looked(self, pairs: Sequence[Pair]) -> Iterator[tuple[int, list[_Looked]]]:
        """Yield the view and the pictures of every batch; the next one is always under way."""
        batches = [(begin, view) for begin in range(0, len(pairs), AT_ONCE) for view in range(self._count)]
        with ThreadPoolExecutor(self._threads) as pool:
            coming: tuple[int, list[Future[_Looked | None]]] | None = None
            for begin, view in [*batches, (0, -1)]:
                waiting, coming = coming, None
                if view >= 0:
                    rows = range(begin, min(begin + AT_ONCE, len(pairs)))
                    coming = view, [pool.submit(self._look, pairs, row, view) for row in rows]
                looked = [one for one in (future.result() for future in waiting[1]) if one] if waiting else []
                if waiting and looked:
                    yield waiting[0], looked

    def _look(self, pairs: Sequence[Pair], row: int, view: int) -> _Looked | None:
        try:
            pair = pairs[row]
            return _Looked(row, picture_group(pair), pair.texts, self._pixels(pair, row, view))
        except ItemError as error:
            if not view:
                logger.warning("pair %d cannot be read: %s; left out", row, error)
            return None

    def _pixels(self, pair: Pair, row: int, view: int) -> Pixels:
        size = (self._preprocessing.width, self._preprocessing.height)
        if not view:
            return self._preprocessing(read_image(pair.image, at_least=max(size)))
        rng = np.random.default_rng((self._seed, row, view))
        return self._preprocessing(self._augmentation(read_image(pair.image), size, rng))
