"""How BLIPs are asked for words: checked options, chance, and a question for each picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mmrag.errors import InputError
from mmrag.models.network import import_torch
from mmrag.models.writing import check_writing


def writing(beams: int, max_tokens: int, nucleus: float | None = None) -> dict[str, Any]:
    """Say in transformers' words how to write; parameters as those of `Generator.caption`.

    Raises
    ------
    InputError
        If nothing can be written so.
    """
    check_writing(beams, max_tokens, nucleus)
    if nucleus is None:
        return {"num_beams": beams, "do_sample": False, "max_new_tokens": max_tokens}
    return {"num_beams": 1, "do_sample": True, "top_p": nucleus, "top_k": 0, "max_new_tokens": max_tokens}


def check_questions(images: Sequence[Any], questions: Sequence[str]) -> None:
    """Check that each picture has its question.

    Raises
    ------
    InputError
        If there are more or fewer, or one string.
    """
    if isinstance(questions, str) or len(images) != len(questions):
        raise InputError(f"give one question for each of the {len(images)} pictures, in a list, not {questions!r:.60}")


@contextmanager
def seeded(seed: int | None, device: str) -> Iterator[None]:
    """Let `seed` decide what is sampled, and leave everybody else's chance alone."""
    torch = import_torch()
    devices = [torch.cuda.current_device()] if device == "cuda" else []
    with torch.random.fork_rng(devices, enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        yield
