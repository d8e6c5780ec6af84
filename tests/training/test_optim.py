import pytest
import torch
from torch import nn

from xseg.errors import UsageError
from xseg.training.optim import OptimSettings, make_optimizer, parameter_groups, psa_settings


@pytest.fixture
def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def by_name(net, settings):
    return {
        group["name"]: (group["base_lr"], group["weight_decay"]) for group in parameter_groups(net, ["3"], settings)
    }


def test_biases_learn_twice_as_fast_new_layers_ten_times_and_only_weights_decay(net):
    assert by_name(net, OptimSettings(lr=0.1, weight_decay=5e-4)) == {
        "backbone weights": (0.1, 5e-4),
        "backbone vectors": (0.1, 0.0),
        "backbone biases": (0.2, 0.0),
        "new weights": (pytest.approx(1.0), 5e-4),
        "new biases": (pytest.approx(2.0), 0.0),
    }
    assert by_name(net, OptimSettings("adamw", lr=0.1))["backbone biases"] == (0.1, 0.0)


def test_every_parameter_that_needs_a_gradient_is_in_exactly_one_group(net):
    net[0].bias.requires_grad_(False)
    grouped = [p for group in parameter_groups(net, ["3"], OptimSettings()) for p in group["params"]]
    needed = [p for p in net.parameters() if p.requires_grad]
    assert sorted(map(id, grouped)) == sorted(map(id, needed))


def test_a_path_is_not_mistaken_for_a_longer_one():
    net = nn.ModuleDict({"head": nn.Linear(2, 2), "head_drop": nn.Linear(2, 2)})
    names = [(g["name"], len(g["params"])) for g in parameter_groups(net, ["head"], OptimSettings())]
    assert names == [("backbone biases", 1), ("backbone weights", 1), ("new biases", 1), ("new weights", 1)]


def test_sgd_takes_the_steps_of_its_definition():
    weight = nn.Linear(2, 1, bias=False)
    weight.weight.data = torch.tensor([[1.0, -2.0]])
    optimizer = make_optimizer(weight, [], OptimSettings(lr=0.1, momentum=0.9, weight_decay=0.5))
    w, velocity = torch.tensor([[1.0, -2.0]], dtype=torch.float64), 0.0
    for _ in range(3):
        optimizer.zero_grad()
        weight(torch.tensor([[3.0, 4.0]])).sum().backward()
        optimizer.step()
        velocity = 0.9 * velocity + torch.tensor([[3.0, 4.0]], dtype=torch.float64) + 0.5 * w
        w = w - 0.1 * velocity
    torch.testing.assert_close(weight.weight.detach().double(), w, rtol=1e-6, atol=1e-6)


def test_the_psa_preset_has_the_momentum_that_its_code_really_uses(net):
    settings = psa_settings(weight_decay=1e-4)
    assert settings.momentum == settings.weight_decay == 1e-4
    assert {group["momentum"] for group in make_optimizer(net, [], settings).param_groups} == {1e-4}


def test_nothing_left_to_train_is_a_usage_error(net):
    with pytest.raises(UsageError, match="frozen"):
        make_optimizer(net.requires_grad_(False), [], OptimSettings())
