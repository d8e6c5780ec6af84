import pytest
import torch
from torch import nn

from tests.classifier.nets import CLASSES, MODEL
from xseg.classifier import capture, create
from xseg.errors import UsageError


@pytest.fixture
def classifier():
    return create(MODEL, CLASSES, weights="none", options={"dropout": 0.0}).eval()


def hooks(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in module.modules())


@pytest.mark.parametrize("grad", [False, True])
def test_a_later_in_place_relu_does_not_change_what_was_captured(classifier, grad):
    images = torch.randn(2, 3, 16, 16)
    with capture(classifier, ["0.1", "0"], grad=grad) as features:
        classifier(images)
    assert (features["0.1"] < 0).any()
    torch.testing.assert_close(features["0.1"].relu(), features["0"])
    assert features["0"].requires_grad == grad


def test_gradients_reach_several_captured_layers(classifier):
    images = torch.randn(2, 3, 16, 16)
    with capture(classifier, ["0", "1"], grad=True) as features:
        logits = classifier(images)
    early, late = torch.autograd.grad(logits[:, 1].sum(), [features["0"], features["1"]])
    assert early.abs().sum() > 0
    # Global average pooling followed by a linear head: the gradient is w / (h w) everywhere.
    expected = classifier.head.weight[1].view(1, -1, 1, 1).expand_as(late) / 16
    torch.testing.assert_close(late, expected)


def test_the_graph_starts_at_the_captured_layer_where_nothing_below_needs_gradients(classifier):
    classifier.requires_grad_(False)
    with capture(classifier, ["1"], grad=True) as features:
        logits = classifier(torch.randn(1, 3, 16, 16))
    assert features["1"].is_leaf
    assert torch.autograd.grad(logits[0, 0], features["1"])[0].abs().sum() > 0


def test_capturing_does_not_change_the_logits(classifier):
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        plain = classifier(images)
        with capture(classifier, ["0.1", "1"]):
            assert torch.equal(classifier(images), plain)


def test_hooks_are_gone_afterwards_even_after_an_error(classifier):
    with capture(classifier, ["0", "1"]):
        assert hooks(classifier) == 2
    assert hooks(classifier) == 0
    with pytest.raises(RuntimeError), capture(classifier, ["0", "1"]):
        classifier(torch.zeros(1, 4, 16, 16))
    assert hooks(classifier) == 0
    with pytest.raises(UsageError), capture(classifier, ["0", "nowhere"]):
        pass
    assert hooks(classifier) == 0


def test_an_unknown_path_is_told_with_near_misses():
    with pytest.raises(UsageError) as caught, capture(create("resnet10t", CLASSES, weights="none"), ["layer5"]):
        pass
    assert "--layer layer5" in caught.value.problem
    assert "layer4" in caught.value.hint


def test_a_graph_cannot_be_asked_for_without_gradients(classifier):
    with torch.no_grad(), pytest.raises(ValueError, match="no_grad"), capture(classifier, ["0"], grad=True):
        classifier(torch.zeros(1, 3, 16, 16))


def test_an_output_that_is_not_a_tensor_is_a_usage_error():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    net = nn.Sequential(Pair())
    with pytest.raises(UsageError, match="tuple"), capture(net, ["0"]):
        net(torch.zeros(1))
