"""What BLIP says of why a picture matches: against differences of its own logit, and on attention that was planted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from mmrag.errors import InputError, ModelError
from mmrag.models.blip_explain import explained_layer, token_relevance
from mmrag.models.registry import load_matcher
from tests.models.tiny_blip import make_retrieval


@pytest.fixture
def blip(tmp_path):
    return load_matcher(make_retrieval(tmp_path))


def pictures(blip):
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    return Image.fromarray(noise), blip.features([Image.fromarray(noise)])[0]


@pytest.mark.parametrize(("layers", "expected"), [(12, 7), (3, 1), (6, 3), (24, 15), (1, 0)])
def test_the_eighth_of_twelve(layers, expected):
    assert explained_layer(layers) == expected


def logit_with(network, ids, states, change):
    """The logit of "match" when the explained layer's weights are changed; the slow and plain way."""
    layer = network.text_encoder.encoder.layer[explained_layer(len(network.text_encoder.encoder.layer))]
    kept = []

    def add(module, given, weights):
        kept.append(weights)
        return weights + change

    hook = layer.crossattention.self.dropout.register_forward_hook(add)
    with torch.no_grad():
        tokens = torch.tensor([ids])
        mask = torch.ones(1, len(states), dtype=torch.long)
        hidden = network.text_encoder(
            input_ids=tokens, encoder_hidden_states=states[None], encoder_attention_mask=mask
        ).last_hidden_state
        logit = network.itm_head(hidden[:, 0])[0, 1].item()
    hook.remove()
    return logit, kept[0]


def test_relevance_is_attention_times_what_the_logit_gains_by_it(blip):
    network = blip.network.double()
    ids = blip.with_first(blip.ids(["two dogs in deep snow"]), blip.first)[0]
    states = torch.from_numpy(pictures(blip)[1]).double()
    found = token_relevance(network, ids, states)
    _, weights = logit_with(network, ids, states, torch.zeros(()))
    gains = torch.zeros_like(weights)
    step = 1e-5
    for place in np.ndindex(*weights.shape):
        change = torch.zeros_like(weights)
        change[place] = step
        gains[place] = logit_with(network, ids, states, change)[0] - logit_with(network, ids, states, -change)[0]
    expected = (weights * (gains / (2 * step)).clamp(min=0)).mean(dim=1)[0, :, 1:]
    assert found.shape == (len(ids), 9)
    assert expected.std() > 1e-4
    assert torch.allclose(found, expected, atol=1e-6 * float(expected.max()) + 1e-9)


def test_attention_that_was_planted_is_found(blip):
    """In the explained layer, tokens look at one kind of patch, and what they see there speaks for a match."""
    network = blip.network
    attention = network.text_encoder.encoder.layer[1].crossattention.self
    seen = torch.nn.functional.normalize(torch.randn(32, generator=torch.Generator().manual_seed(1)), dim=0)
    states = torch.zeros(10, 32)
    right = [2, 5, 8]  # the right column of a grid of 3 × 3
    states[[1 + cell for cell in right]] = seen
    with torch.no_grad():
        attention.query.weight.zero_()
        attention.query.bias.copy_(attention.key.weight @ seen)
        attention.value.bias.zero_()
        attention.value.weight.mul_(0.01)
    ids = blip.with_first(blip.ids(["two dogs"]), blip.first)[0]
    for sign in (1, -1):
        with torch.no_grad():
            attention.value.weight.mul_(sign)
        relevance = token_relevance(network, ids, states)
        heat = relevance.mean(dim=0).numpy()
        assert np.allclose(np.delete(heat, right), 0, atol=1e-9)
        assert heat[right].min() > 0 or not heat.any()
    assert relevance.any()  # with one of the two signs, every head gains by it or none does


def test_a_heat_for_each_token(blip):
    image, _ = pictures(blip)
    told = blip.explain_match("two dogs in deep snow", image)
    assert told.tokens == ("two", "dogs", "in", "deep", "snow")
    assert told.heats.shape == (5, 3, 3)
    assert (told.heats >= 0).all()
    assert np.allclose(told.whole, told.heats.mean(axis=0))
    assert np.std(told.heats) > 0
    again = blip.explain_match("two dogs in deep snow", image)
    assert np.array_equal(told.heats, again.heats)


def test_it_judges_as_before_afterwards(blip):
    image, features = pictures(blip)
    before = blip.match(["two dogs"], features[None]).logits
    blip.explain_match("two dogs", image)
    assert np.array_equal(blip.match(["two dogs"], features[None]).logits, before)


def test_nothing_to_explain(blip):
    with pytest.raises(InputError, match="has no token to explain"):
        blip.explain_match(" ", pictures(blip)[0])


def test_a_matcher_that_cannot_tell():
    with pytest.raises(ModelError, match="toy does not tell why a picture matches; a matcher of the family blip does"):
        load_matcher("judge:1").explain_match("unheard of", Image.new("RGB", (8, 8)))
