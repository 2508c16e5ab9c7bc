"""Tokenizers, and tokens as the arrays that text towers take."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mmrag.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

logger = logging.getLogger("mmrag")

Tokens = npt.NDArray[np.int64]

_COUNTED_AT_ONCE = 256
"""So many texts are padded to the longest of them at a time."""

_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


def read_tokenizer(
    folder: Path,
    max_tokens: int,
    *,
    lower_case: bool = False,
    name: str = "tokenizer.json",
    own_limit: bool = False,
) -> Tokenizer:
    """Load a tokenizer so that it cuts at `max_tokens` and fills up to the longest of a batch.

    What it fills up with is the token that the hub's files name, or else 0.

    Parameters
    ----------
    folder : path
        Where it lies.
    max_tokens : int
        The longest text, special tokens counted.
    lower_case : bool
        Make texts lower-case, if the file does not say so itself.
    name : str
        Of its file.
    own_limit : bool
        Whether it cuts earlier if its file says so.

    Raises
    ------
    ModelError
        If the file is missing or damaged.
    """
    from tokenizers import Tokenizer

    path = folder / name
    if not path.is_file():
        raise ModelError(f"{folder} has no {name}")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise ModelError(f"{path} is damaged: {error}") from error
    if own_limit and tokenizer.truncation:
        max_tokens = min(max_tokens, int(tokenizer.truncation["max_length"]))
    named = _named_pad_id(tokenizer, folder / "tokenizer_config.json")
    return settle(tokenizer, max_tokens, pad_id=named, lower_case=lower_case)


def settle(tokenizer: Tokenizer, max_tokens: int, *, pad_id: int, lower_case: bool) -> Tokenizer:
    """Let a tokenizer cut, fill up and make texts lower-case as `read_tokenizer` describes; gives it back."""
    tokenizer.enable_padding(pad_id=pad_id)
    tokenizer.enable_truncation(max_tokens)
    if lower_case and not _lowers(tokenizer):
        from tokenizers import normalizers

        rest = [tokenizer.normalizer] if tokenizer.normalizer else []
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *rest])
    return tokenizer


def _lowers(tokenizer: Tokenizer) -> bool:
    return tokenizer.normalizer is not None and "A" not in tokenizer.normalizer.normalize_str("A")


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Encoding]:
    """Tokenize texts; of those that are cut, the log tells."""
    encodings: list[Encoding] = tokenizer.encode_batch(list(texts))
    for text, encoding in zip(texts, encodings, strict=True):
        if encoding.overflowing:
            tell_cut(text, len(encoding.ids))
    return encodings


def count(tokenizer: Tokenizer, texts: Sequence[str]) -> list[int]:
    """Count the tokens of texts if they were not cut, special ones included and what only fills up left out."""
    counts: list[int] = []
    for start in range(0, len(texts), _COUNTED_AT_ONCE):
        counts += map(_uncut_length, tokenizer.encode_batch(list(texts[start : start + _COUNTED_AT_ONCE])))
    return counts


def _uncut_length(encoding: Encoding) -> int:
    """Add what was cut off, in pieces that have special tokens of their own."""
    cut_off = sum(one.special_tokens_mask.count(0) for one in encoding.overflowing)
    return encoding.attention_mask.count(1) + cut_off


def has_han(text: str) -> bool:
    """Tell whether a text has a Chinese character."""
    return _HAN.search(text) is not None


def tell_cut(text: str, tokens: int) -> None:
    """Tell the log that of a text only so many tokens are read."""
    logger.warning("only the first %d tokens are read of a text of %d characters: %.40s…", tokens, len(text), text)


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
