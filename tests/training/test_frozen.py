import pytest
import torch

from tests.classifier.nets import tiny
from xseg.errors import UsageError
from xseg.training.frozen import frozen


def state(net):
    return {key: value.clone() for key, value in net.state_dict().items()}


def train_a_little(net):
    net.train()
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.randn(4, 3, 16, 16)).square().sum().backward()
        optimizer.step()


def changed(net, before):
    return {key for key, value in net.state_dict().items() if not torch.equal(value, before[key])}


def test_a_frozen_part_keeps_weights_and_statistics_while_the_rest_learns():
    net = tiny(3)
    before = state(net)
    with frozen(net, ["0"]):
        train_a_little(net)
    found = changed(net, before)
    assert found == {key for key in before if not key.startswith("0.")}


def test_frozen_statistics_do_not_move_but_scale_and_shift_learn():
    net = tiny(3)
    before = state(net)
    with frozen(net, batch_norm=True):
        train_a_little(net)
    found = changed(net, before)
    assert not any("running" in key or "tracked" in key for key in found)
    assert {"0.1.weight", "0.1.bias", "0.0.weight"} <= found


def test_a_frozen_scale_and_shift_do_not_learn():
    net = tiny(3)
    before = state(net)
    with frozen(net, batch_norm=True, affine=True):
        train_a_little(net)
    assert not any(key.startswith(("0.1.", "1.1.")) for key in changed(net, before))


def test_norms_of_a_part_that_is_new_go_on_learning():
    net = tiny(3)
    before = state(net)
    with frozen(net, batch_norm=True, affine=True, fresh=["1"]):
        train_a_little(net)
    found = changed(net, before)
    assert {"1.1.running_mean", "1.1.weight"} <= found
    assert not any(key.startswith("0.1.") for key in found)


def test_train_of_any_parent_leaves_frozen_modules_in_eval_mode():
    net = tiny(3)
    with frozen(net, ["1"], batch_norm=True) as still:
        torch.nn.Sequential(net).train()
        assert net.training
        assert net[4].training
        assert not net[0][1].training
        assert not any(module.training for module in net[1].modules())
        assert set(still) == {*net[1].modules(), net[0][1]}


def test_everything_is_as_before_afterwards_even_after_an_error():
    net = tiny(3).train()
    net[0][0].bias.requires_grad_(False)
    needed = [p.requires_grad for p in net.parameters()]
    with pytest.raises(RuntimeError), frozen(net, ["0"], batch_norm=True, affine=True):
        raise RuntimeError
    assert [p.requires_grad for p in net.parameters()] == needed
    net.eval().train()
    assert all(module.training for module in net.modules())


def test_an_unknown_path_is_a_usage_error_and_freezes_nothing():
    net = tiny(3)
    with pytest.raises(UsageError), frozen(net, ["0", "nowhere"]):
        pass
    assert all(p.requires_grad for p in net.parameters())
