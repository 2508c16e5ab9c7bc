"""Files and items → results, with the decoders beside the encoders."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice, repeat
from typing import TYPE_CHECKING, TypeVar

from mmrag.ingest.ahead import ahead
from mmrag.machine import usable_cores

if TYPE_CHECKING:
    from mmrag.ingest.load import Loaded, Loader, Source

R = TypeVar("R")

_BATCHES_AHEAD = 4
"""So many batches of preprocessed pictures wait for the encoder: with 16 at 260 × 260 pixels, 52 MB."""


def in_batches(
    loader: Loader,
    sources: Iterable[Source],
    encode: Callable[[list[Loaded]], list[R]],
    *,
    seconds: float,
    total: int | None = None,
) -> Generator[R]:
    """Load sources and encode them, in their order: each core decodes or encodes, whatever is wanted.

    They are taken as they are needed, and a few results are ahead of what was taken, however many there are.

    Parameters
    ----------
    encode : callable
        Gives a result for each of at most as many as the encoder takes at once; runs in several threads.
    seconds : float
        How long one source may take to load; what takes longer is loaded as a failure.
    total : int or None
        How many sources there are, if that is known.
    """
    streams, batch = loader.encoder.streams, loader.encoder.batch
    loading = ahead(
        loader.load,
        sources,
        threads=usable_cores(),
        depth=_BATCHES_AHEAD * batch,
        seconds=seconds,
        instead=loader.fail,
    )
    with closing(loading) as loaded, ThreadPoolExecutor(streams, thread_name_prefix="mmrag-encode") as pool:
        running: deque[Future[list[R]]] = deque()
        try:
            for size in repeat(batch) if total is None else batch_sizes(total, batch, streams):
                some = list(islice(loaded, size))
                if not some:
                    break
                running.append(pool.submit(encode, some))
                if len(running) > streams:
                    yield from running.popleft().result()
            while running:
                yield from running.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def batch_sizes(total: int, batch: int, streams: int) -> Iterator[int]:
    """Cut a total into batches, the same number for each stream; the last are smaller, so that all end together."""
    rounds, rest = divmod(total, batch * streams)
    yield from [batch] * (rounds * streams)
    for stream in range(streams):
        share = (rest + stream) // streams
        if share:
            yield share
