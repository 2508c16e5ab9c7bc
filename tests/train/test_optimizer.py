from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

import numpy as np  # noqa: E402
from torch import nn  # noqa: E402

from mmrag.errors import InputError, ModelError  # noqa: E402
from mmrag.train.average import Average, fill, named_tensors  # noqa: E402
from mmrag.train.optimizer import make_optimizer, rate_share, set_rates  # noqa: E402
from mmrag.train.recipe import OptimizerPart  # noqa: E402
from mmrag.train.step import checkpoint_gradients, train_mode  # noqa: E402
from mmrag.train.task import Layer  # noqa: E402


def network():
    torch.manual_seed(0)
    return nn.ModuleDict({"stem": nn.Linear(2, 3), "block": nn.LayerNorm(3), "head": nn.Linear(3, 1)})


def layers(parts):
    return [
        Layer("head", parts["head"], fresh=True),
        Layer("block", parts["block"], 1),
        Layer("stem", parts["stem"], 2),
    ]


def test_rates_fall_towards_the_input_and_fresh_layers_have_their_own():
    parts = network()
    settings = OptimizerPart(learning_rate=1e-3, fresh_learning_rate=1e-2, layer_decay=0.5, weight_decay=0.1)
    optimizer = make_optimizer(parts, layers(parts), settings)
    rates = {
        id(one): (group["highest"], group["weight_decay"])
        for group in optimizer.param_groups
        for one in group["params"]
    }
    names = {name: rates[id(one)] for name, one in parts.named_parameters()}
    assert names == {
        "head.weight": (1e-2, 0.1),
        "head.bias": (1e-2, 0.0),
        "block.weight": (5e-4, 0.0),
        "block.bias": (5e-4, 0.0),
        "stem.weight": (2.5e-4, 0.1),
        "stem.bias": (2.5e-4, 0.0),
    }
    set_rates(optimizer, 0.5)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(5e-3)


def test_what_no_layer_names_stays_and_what_two_name_is_trained_once():
    parts = network()
    optimizer = make_optimizer(parts, [Layer("head", parts["head"]), Layer("again", parts["head"])], OptimizerPart())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2
    assert [name for name, one in parts.named_parameters() if one.requires_grad] == ["head.weight", "head.bias"]


def test_nothing_to_train_is_refused():
    with pytest.raises(InputError, match="every part is frozen"):
        make_optimizer(network(), [], OptimizerPart())


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", "constant"])
def test_rates_rise_and_then_do_as_their_name_says(schedule):
    shares = [rate_share(step, 100, warmup=0.2, schedule=schedule) for step in range(101)]
    assert np.all(np.diff(shares[:20]) > 0)
    assert shares[20] == 1
    assert shares[0] > 0
    assert shares[60] == pytest.approx(1.0 if schedule == "constant" else 0.5)
    assert shares[100] == pytest.approx(1.0 if schedule == "constant" else 0.0)
    assert rate_share(0, 1, warmup=0.0, schedule=schedule) == 1


def test_an_average_follows_weights_and_buffers():
    net = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    average = Average(net, [Layer("all", net)], share=0.75, tower_share=1.0)
    before = {name: tensor.clone() for name, tensor in named_tensors(net).items()}
    with torch.no_grad():
        for tensor in named_tensors(net).values():
            tensor += 4
    average.update(1000)
    candidate = average.candidate()
    assert "1.running_mean" in candidate
    assert "1.num_batches_tracked" not in candidate
    for name, tensor in candidate.items():
        torch.testing.assert_close(tensor, before[name] + 1)
    with average.in_place(candidate):
        torch.testing.assert_close(net[0].weight.data, before["0.weight"] + 1)
    torch.testing.assert_close(net[0].weight.data, before["0.weight"] + 4)


def test_in_its_first_steps_an_average_follows_faster():
    net = nn.Linear(1, 1)
    average = Average(net, [Layer("all", net)], share=0.99, tower_share=1.0)
    before = net.weight.item()
    with torch.no_grad():
        net.weight += 11
    average.update(1)
    assert average.candidate()["weight"].item() == pytest.approx(before + 10)


def test_a_shared_tensor_is_one():
    net = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    net["b"].weight = net["a"].weight
    assert list(named_tensors(net)) == ["a.weight", "a.bias", "b.bias"]


def test_weights_of_another_network_are_refused():
    net = nn.Linear(2, 2)
    with pytest.raises(ModelError, match="'bias' is in one of the two only"):
        fill(named_tensors(net), {"weight": net.weight}, where="the file")
    with pytest.raises(ModelError, match=r"weight is \(1, 2\) and should be \(2, 2\)"):
        fill(named_tensors(net), {"weight": net.weight[:1], "bias": net.bias}, where="the file")


def test_frozen_parts_do_not_drop_or_move_their_norms():
    net = nn.ModuleDict(
        {
            "frozen": nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5)),
            "trained": nn.Linear(2, 2),
            "drop": nn.Dropout(0.5),
        }
    )
    net["frozen"].requires_grad_(False)
    train_mode(net)
    assert not any(module.training for module in net["frozen"].modules())
    assert net["trained"].training
    assert net["drop"].training


def test_activations_are_computed_again_the_way_the_network_knows():
    asked = []

    class Transformers(nn.Linear):
        def gradient_checkpointing_enable(self, options):
            asked.append(options)

    class Timm(nn.Linear):
        def set_grad_checkpointing(self, on):
            asked.append(on)

    checkpoint_gradients(nn.Sequential(Transformers(1, 1), Timm(1, 1)))
    assert asked == [{"use_reentrant": False}, True]


@pytest.mark.parametrize("again", [False, True])
def test_a_real_tower_computes_its_layers_again_with_the_same_gradients(again):
    transformers = pytest.importorskip("transformers", reason="needs the torch extra")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPVisionConfig(**sizes, image_size=8, patch_size=4)
    torch.manual_seed(0)
    tower = transformers.CLIPVisionModel(config)
    plain = copy.deepcopy(tower)
    if again:
        checkpoint_gradients(tower)
    calls = []
    mlps = [module for name, module in tower.named_modules() if name.endswith("mlp")]
    for mlp in mlps:
        mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    pixels = torch.randn(2, 3, 8, 8)
    for network in (tower, plain):
        network.train()
        network(pixels).pooler_output.square().sum().backward()
    assert len(mlps) == 2
    assert len(calls) == (4 if again else 2)
    for one, other in zip(tower.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
