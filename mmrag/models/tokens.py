"""Tokenizers, and tokens as the arrays that text towers take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mmrag.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

Tokens = npt.NDArray[np.int64]


def read_tokenizer(folder: Path, max_tokens: int) -> Tokenizer:
    """Load ``tokenizer.json`` so that it cuts at `max_tokens` and does not pad.

    Raises
    ------
    ModelError
        If the file is missing or damaged.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelError(f"{folder} has no tokenizer.json")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise ModelError(f"{path} is damaged: {error}") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def padded(encodings: Sequence[Encoding]) -> tuple[Tokens, Tokens]:
    """Lay encodings out as token ids and attention mask, each int64 ``(n, t)``, t being the longest one's length."""
    longest = max(len(encoding.ids) for encoding in encodings)
    ids = np.zeros((len(encodings), longest), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, encoding in enumerate(encodings):
        ids[row, : len(encoding.ids)] = encoding.ids
        mask[row, : len(encoding.ids)] = 1
    return ids, mask
