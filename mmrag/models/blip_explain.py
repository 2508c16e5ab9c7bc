"""Why BLIP thinks that a text matches a picture: gradient-weighted cross-attention.

As ALBEF's and BLIP's authors look into their networks (Li et al. 2021, section 4 and figure 4; LAVIS's
``compute_gradcam``), after Grad-CAM (Selvaraju et al. 2017): in one layer, what each token pays attention to in the
picture, times how much the logit of "match" would gain by it where it would, over the mean of the heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmrag.models.network import import_torch

if TYPE_CHECKING:
    from torch import Tensor

_DEPTH = 2 / 3
"""The eighth of BERT-base's twelve layers is the one that ALBEF's and BLIP's authors show."""


def explained_layer(layers: int) -> int:
    """Choose the layer that is looked into: the 8th of 12, and as deep in others; counted from 0."""
    return max(0, round(layers * _DEPTH) - 1)


def token_relevance(network: Any, ids: Sequence[int], states: Tensor) -> Tensor:
    """Tell how relevant each patch of a picture is for each token's share in a match.

    Parameters
    ----------
    network : BlipForImageTextRetrieval
        That nobody else runs meanwhile.
    ids : sequence of int
        Tokens of the text, special ones included.
    states : tensor ``(patches + 1, picture's width)``
        The picture's last hidden states.

    Returns
    -------
    float tensor ``(tokens, patches)``
        Not negative; only those of one text and picture compare.
    """
    torch = import_torch()
    encoder, seen = network.text_encoder, []
    layers = encoder.encoder.layer
    attention = layers[explained_layer(len(layers))].crossattention.self

    def follow(_: Any, __: Any, weights: Tensor) -> Tensor:
        seen.append(weights.detach().requires_grad_())  # (1, heads, tokens, patches + 1)
        return seen[0]

    hook = attention.dropout.register_forward_hook(follow)  # the weights, as they are used
    try:
        with torch.inference_mode(mode=False), torch.enable_grad():
            tokens = torch.tensor([list(ids)], device=states.device)
            hidden = encoder(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                encoder_hidden_states=states[None],
                encoder_attention_mask=torch.ones((1, len(states)), dtype=torch.long, device=states.device),
            ).last_hidden_state
            match = network.itm_head(hidden[:, 0])[:, 1].sum()
            (gains,) = torch.autograd.grad(match, seen)
    finally:
        hook.remove()
    relevance: Tensor = (seen[0].detach() * gains.clamp(min=0))[0].mean(dim=0)[:, 1:]  # without the picture's [CLS]
    return relevance
