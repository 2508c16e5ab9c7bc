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


def pad_id(tokenizer: Tokenizer) -> int:
    """Find the token that fills up short texts; 0 where the tokenizer names none."""
    for name in ("<pad>", "[PAD]", "<|endoftext|>"):
        found = tokenizer.token_to_id(name)
        if found is not None:
            return int(found)
    return 0


def laid_out(encodings: Sequence[Encoding], *, length: int | None = None, pad_id: int = 0) -> dict[str, Tokens]:
    """Lay encodings out as the arrays that text towers take, each int64 ``(n, t)``.

    Parameters
    ----------
    encodings : sequence of Encoding
        Not padded.
    length : int or None
        t; by default the length of the longest.
    pad_id : int
        What fills up the shorter ones.

    Returns
    -------
    dict
        "input_ids", "attention_mask" (1 where there is a token) and "token_type_ids" (all 0).
    """
    length = length or max(len(encoding.ids) for encoding in encodings)
    ids = np.full((len(encodings), length), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, encoding in enumerate(encodings):
        ids[row, : len(encoding.ids)] = encoding.ids
        mask[row, : len(encoding.ids)] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
