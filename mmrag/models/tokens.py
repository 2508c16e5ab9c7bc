"""Tokenizers, and tokens as the arrays that text towers take."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mmrag.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

Tokens = npt.NDArray[np.int64]

logger = logging.getLogger("mmrag")


def read_tokenizer(folder: Path, max_tokens: int) -> Tokenizer:
    """Load ``tokenizer.json`` so that it cuts at `max_tokens` and fills up to the longest of a batch.

    What it fills up with is the token that the hub's files name, or else 0.

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
    tokenizer.enable_padding(pad_id=_named_pad_id(tokenizer, folder / "tokenizer_config.json"))
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def pad_id(tokenizer: Tokenizer) -> int:
    """Tell which token fills up short texts."""
    return int(tokenizer.padding["pad_id"]) if tokenizer.padding else 0


def _named_pad_id(tokenizer: Tokenizer, config: Path) -> int:
    if tokenizer.padding:
        return pad_id(tokenizer)
    for name in (_named_pad(config), "<pad>", "[PAD]", "<|endoftext|>"):
        found = tokenizer.token_to_id(name)
        if found is not None:
            return int(found)
    return 0


def _named_pad(path: Path) -> str:
    """Read the padding token of a hub's tokenizer_config.json: SigLIP pads with its end token, though it has <pad>."""
    if not path.is_file():
        return ""
    try:
        token: Any = json.loads(path.read_text(encoding="utf-8")).get("pad_token")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{path} is damaged: {error}") from error
    return str(token["content"]) if isinstance(token, dict) else token or ""


def warn_of_cuts(texts: Sequence[str], encodings: Sequence[Encoding], max_tokens: int) -> None:
    """Name, in the log, each text of which only the first tokens are read."""
    for text, encoding in zip(texts, encodings, strict=True):
        if encoding.overflowing:
            logger.warning(
                "only the first %d tokens are read of a text of %d characters: %.40s…", max_tokens, len(text), text
            )


def laid_out(encodings: Sequence[Encoding], *, length: int | None = None, pad_id: int = 0) -> dict[str, Tokens]:
    """Lay encodings out as the arrays that text towers take, each int64 ``(n, t)``.

    Parameters
    ----------
    encodings : sequence of Encoding
        As a tokenizer gives them, padded or not.
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
        mask[row, : len(encoding.ids)] = encoding.attention_mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
