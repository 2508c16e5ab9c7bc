"""What a frozen part of a network sees in pictures: computed once for a few views of each, and kept on disk."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmrag.models.preprocess import Preprocessing
from mmrag.roles import Pixels
from mmrag.sources.image import read_image
from mmrag.sources.pairs import Pair
from mmrag.train.augmentation import Augmentation
from mmrag.train.loader import picture_group

AT_ONCE = 64


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
        self._rows: dict[int, int] = {}
        self.stored: npt.NDArray[np.float16] = np.empty((0, count), dtype=np.float16)

    def fill(self, pairs: Sequence[Pair]) -> None:
        """Compute all views of all pictures, float16, about as large as the network's output."""
        self._rows = {picture_group(pair): row for row, pair in enumerate(pairs)}
        stored: npt.NDArray[np.float16] | None = None
        for begin, view, pixels in self._pixels(pairs):
            computed = self._compute(torch.from_numpy(pixels)).to(torch.float16).numpy()
            if stored is None:
                shape = (len(pairs), self._count, *computed.shape[1:])
                stored = np.lib.format.open_memmap(self._folder() / "views.npy", "w+", np.float16, shape)
            stored[begin : begin + len(computed), view] = computed
        if stored is not None:
            self.stored = stored

    def _folder(self) -> Path:
        """Make a folder that goes when this does."""
        folder = Path(tempfile.mkdtemp(prefix="mmrag-views-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder

    def row(self, pair: Pair) -> int:
        """Give the row of a picture that `fill` has seen."""
        return self._rows[picture_group(pair)]

    def _pixels(self, pairs: Sequence[Pair]) -> Iterator[tuple[int, int, Pixels]]:
        """Yield the first row, the view and the pixels of every batch; the next one is always under way."""
        batches = [(begin, view) for begin in range(0, len(pairs), AT_ONCE) for view in range(self._count)]
        with ThreadPoolExecutor(self._threads) as pool:
            coming = None
            for begin, view in [*batches, (0, -1)]:
                waiting, coming = coming, None
                if view >= 0:
                    rows = range(begin, min(begin + AT_ONCE, len(pairs)))
                    coming = begin, view, [pool.submit(self._look, pairs[row], row, view) for row in rows]
                if waiting:
                    yield waiting[0], waiting[1], np.stack([future.result() for future in waiting[2]])

    def _look(self, pair: Pair, row: int, view: int) -> Pixels:
        size = (self._preprocessing.width, self._preprocessing.height)
        if not view:
            return self._preprocessing(read_image(pair.image, at_least=max(size)))
        rng = np.random.default_rng((self._seed, row, view))
        return self._preprocessing(self._augmentation(read_image(pair.image), size, rng))
