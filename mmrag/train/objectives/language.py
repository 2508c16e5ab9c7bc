"""Writing: the next token of a caption (LM), and tokens that were hidden (MLM)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = -100
"""A label that nothing is asked about."""


def lm(logits: Tensor, ids: Tensor, mask: Tensor, *, prompt: int = 0, label_smoothing: float = 0.1) -> Tensor:
    """Predict each token of a caption from those before it: cross-entropy, in nats.

    The language modeling loss of BLIP (https://arxiv.org/abs/2201.12086, section 3.2).

    Parameters
    ----------
    logits : ``(n, t, vocabulary)``
        What is said at token i is about token i + 1.
    ids, mask : int64 ``(n, t)``
        The tokens; 1 where there is one and 0 where there is padding.
    prompt : int
        How many tokens at the start, the first included, are given and not to be predicted.
    label_smoothing : float from 0 to 1
        Share of the target spread over the vocabulary.

    Returns
    -------
    scalar
        Mean over the tokens that are to be predicted; 0 if there are none.
    """
    asked = mask.bool().clone()
    asked[:, : max(1, prompt)] = False
    labels = ids.masked_fill(~asked, IGNORED)
    return _cross_entropy(logits[:, :-1], labels[:, 1:], label_smoothing)


def mlm(logits: Tensor, labels: Tensor) -> Tensor:
    """Tell what was hidden: cross-entropy over the tokens that have a label, in nats (ALBEF, equation 7).

    Parameters
    ----------
    logits : ``(n, t, vocabulary)``
        What is said at token i is about token i.
    labels : int64 ``(n, t)``
        From `hide_tokens`.
    """
    return _cross_entropy(logits, labels, 0.0)


def hide_tokens(
    ids: Tensor,
    can_hide: Tensor,
    *,
    mask_id: int,
    vocabulary: int,
    share: float = 0.15,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Hide some tokens: 80 % become [MASK], 10 % any other, 10 % stay (BERT, https://arxiv.org/abs/1810.04805).

    Parameters
    ----------
    ids : int64 ``(n, t)``
        The tokens.
    can_hide : bool ``(n, t)``
        Which may be hidden: neither padding nor special tokens.
    mask_id, vocabulary : int
        The number of [MASK], and how many tokens there are to put in its place.
    share : float from 0 to 1
        How many of the tokens that may be are asked about.
    generator : torch.Generator or None
        On the device of `ids`; the only source of chance.

    Returns
    -------
    ids, labels : int64 ``(n, t)``
        What is shown, and what was there; the label is `IGNORED` where nothing is asked.
    """
    asked = can_hide & (torch.rand(ids.shape, generator=generator, device=ids.device) < share)
    lot = torch.rand(ids.shape, generator=generator, device=ids.device)
    others = torch.randint(vocabulary, ids.shape, generator=generator, device=ids.device)
    shown = torch.where(asked & (lot < 0.8), mask_id, ids)
    shown = torch.where(asked & (lot >= 0.8) & (lot < 0.9), others, shown)
    return shown, ids.masked_fill(~asked, IGNORED)


def _cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    summed = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, label_smoothing=label_smoothing, reduction="sum"
    )
    # by hand, because torch's mean over no tokens is not a number
    return summed / (labels != IGNORED).sum().clamp(min=1)
