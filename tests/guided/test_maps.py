"""Heatmaps as functions of weights: gradients, weight tying, and the same in several turns."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.guided.nets import CLASSES, plain, residual
from xseg.guided.losses import cross_entropy
from xseg.guided.maps import guided_maps
from xseg.heatmaps.registry import Query, methods

LOGITS = len(CLASSES) + 1
# Not so close to a pole that finite differences could not be taken.
MILD = ["epsilon=0.05", "stabiliser=0.05"]
HEATMAPS = [
    ("lrp", ["composite=epsilon", *MILD]),
    ("lrp", MILD),
    ("agf", []),
    ("grad-cam", []),
    ("cam", ["relu=false"]),
    ("input-x-gradient", []),
]


def question(images, logits=LOGITS):
    count = len(images)
    image, target = torch.arange(count).repeat_interleave(logits), torch.arange(logits).repeat(count)
    return Query(images, image, target, tuple(map(str, range(count))))


def pictures(count=2, side=16, seed=1):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loss_of(classifier, method, images, at_once=0):
    maps = guided_maps(classifier.full, method, question(images), at_once=at_once, size=tuple(images.shape[2:]))
    target = torch.randint(-1, LOGITS, (len(images), *images.shape[2:]), generator=torch.Generator().manual_seed(3))
    scaled = maps / maps.detach().abs().amax()
    return cross_entropy(scaled.unflatten(0, (-1, LOGITS)) * 3, target), maps


@pytest.mark.parametrize(("name", "settings"), HEATMAPS, ids=str)
def test_the_loss_moves_each_kind_of_layer_as_finite_differences_say(name, settings, record_property):
    """Every layer on its own, in a random direction: convolution, batch norm, residual sum, pools, linear."""
    classifier = residual(activation=nn.Softplus).double()
    method, images = methods.create(name, settings), pictures()
    top = loss_of(classifier, method, images)[1].detach().abs().amax()

    def value():
        maps = guided_maps(classifier.full, method, question(images), at_once=0, size=(16, 16))
        target = torch.randint(-1, LOGITS, (2, 16, 16), generator=torch.Generator().manual_seed(3))
        return cross_entropy((maps / top).unflatten(0, (-1, LOGITS)) * 3, target)

    parameters = dict(classifier.net.named_parameters())
    found = torch.autograd.grad(value(), list(parameters.values()), allow_unused=True)
    generator, worst, moved = torch.Generator().manual_seed(0), 0.0, set()
    for (path, parameter), gradient in zip(parameters.items(), found, strict=True):
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        values = []
        for step in (1e-6, -2e-6, 1e-6):
            with torch.no_grad():
                parameter.add_(step * direction)
                values.append(float(value().detach()))
        expected = (values[0] - values[1]) / 2e-6
        slope = 0.0 if gradient is None else float((gradient * direction).sum())
        worst = max(worst, abs(slope - expected) / max(abs(expected), 1e-2))
        moved |= {path} if abs(slope) > 1e-9 else set()
    record_property("error", worst)
    assert worst < 1e-4
    assert {"stem.weight", "norm.weight", "main.0.weight", "main.1.weight", "side.weight", "fc.weight"} <= moved


@pytest.mark.parametrize(("name", "settings"), HEATMAPS, ids=str)
@pytest.mark.parametrize("at_once", [1, 3])
def test_a_few_classes_at_a_time_give_the_same_maps_and_the_same_gradient(name, settings, at_once):
    classifier, method, images = residual().double(), methods.create(name, settings), pictures()
    parameters = list(classifier.net.parameters())
    loss, maps = loss_of(classifier, method, images)
    expected = torch.autograd.grad(loss, parameters, allow_unused=True)
    turned, same = loss_of(classifier, method, images, at_once)
    torch.testing.assert_close(same, maps, rtol=1e-9, atol=1e-12)
    found = torch.autograd.grad(turned, parameters, allow_unused=True)
    for one, other in zip(found, expected, strict=True):
        zero = torch.zeros(())
        torch.testing.assert_close(zero if one is None else one, zero if other is None else other, rtol=1e-6, atol=1e-9)
    assert all(parameter.requires_grad for parameter in parameters)
    assert not classifier.training


def test_images_that_nothing_is_asked_about_are_not_run():
    classifier, method, images = residual().double(), methods.create("grad-cam"), pictures(4)
    seen = []
    handle = classifier.net.stem.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    query = Query(images, torch.tensor([2, 2]), torch.tensor([0, 1]), tuple("abcd"))
    maps = guided_maps(classifier.full, method, query, at_once=0, size=(16, 16))
    handle.remove()
    assert set(seen) == {1}
    alone = Query(images[2:3], torch.tensor([0, 0]), torch.tensor([0, 1]), ("c",))
    torch.testing.assert_close(maps, guided_maps(classifier.full, method, alone, at_once=0, size=(16, 16)))


class TiedAutoEncoder(nn.Module):
    """LRP written down as Yu et al. 2024 draw it: the classifier, then a decoder of transposed layers.

    Each transposed layer has the weights of its counterpart, and reads what that had read through a skip connection.
    """

    def __init__(self, net, epsilon):
        super().__init__()
        self.encoder, self.epsilon = net, epsilon

    def divide(self, r, y):
        return r / (y + self.epsilon * torch.where(y < 0, -1.0, 1.0))

    def forward(self, x0, k):
        net = self.encoder
        y1 = net.conv1(x0)
        x1 = y1.relu()
        x2, where = functional.max_pool2d(x1, 2, return_indices=True)
        y2 = net.conv2(x2)
        x3 = y2.relu().flatten(1)
        logits = net.fc(x3)

        r = torch.zeros_like(logits)
        r[:, k] = logits[:, k]
        r = x3 * functional.linear(self.divide(r, logits), net.fc.weight.T)
        r = self.divide(r.unflatten(1, y2.shape[1:]), y2)
        r = x2 * functional.conv_transpose2d(r, net.conv2.weight, stride=2, padding=1, output_padding=1)
        r = functional.max_unpool2d(r, where, 2, output_size=x1.shape[2:])
        r = x0 * functional.conv_transpose2d(self.divide(r, y1), net.conv1.weight, padding=1)
        return r.sum(1)


def test_the_unrolled_tied_auto_encoder_is_the_lrp_heatmap_in_value_and_in_gradient():
    classifier, images = plain().double(), pictures()
    unrolled = TiedAutoEncoder(classifier.net, 1e-6)
    method = methods.create("lrp", ["composite=epsilon", "epsilon=1e-6"])
    query = question(images)
    maps = guided_maps(classifier.full, method, query, at_once=0, size=(16, 16)).unflatten(0, (2, LOGITS))
    scale = float(maps.detach().abs().max())
    for k in range(LOGITS):
        torch.testing.assert_close(unrolled(images, k), maps[:, k], rtol=1e-6, atol=1e-6 * scale)
    weights = [classifier.net.conv1.weight, classifier.net.conv2.weight, classifier.net.fc.weight]
    upstream = torch.randn(maps.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    found = torch.autograd.grad((maps * upstream).sum(), weights)
    stacked = torch.stack([unrolled(images, k) for k in range(LOGITS)], 1)
    expected = torch.autograd.grad((stacked * upstream).sum(), weights)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6 * float(other.abs().max()))


def test_in_single_precision_the_heatmap_of_the_auto_encoder_is_the_same_to_a_millionth():
    classifier, images = plain(), pictures().float()
    maps = guided_maps(classifier.full, methods.create("lrp", ["composite=epsilon", "epsilon=0.01"]), question(images),
                       at_once=0, size=(16, 16)).unflatten(0, (2, LOGITS))  # fmt: skip
    unrolled, scale = TiedAutoEncoder(classifier.net, 0.01), float(maps.detach().abs().max())
    for k in range(LOGITS):
        torch.testing.assert_close(unrolled(images, k), maps[:, k], rtol=0, atol=1e-6 * scale)


@pytest.mark.parametrize(
    "move", [lambda c: c.double(), copy.deepcopy, lambda c: c.to(memory_format=torch.channels_last)]
)
def test_decoder_and_encoder_share_one_copy_of_the_weights_wherever_the_network_goes(move):
    before = plain()
    keys = list(before.net.state_dict())
    classifier = move(before)
    assert list(classifier.net.state_dict()) == keys
    assert len({p.data_ptr() for p in classifier.net.parameters()}) == len(keys)
    images = pictures().to(next(classifier.parameters()).dtype)
    method = methods.create("lrp", ["composite=epsilon"])

    def maps():
        return guided_maps(classifier.full, method, question(images), at_once=0, size=(16, 16)).detach()

    first, logits = maps(), classifier(images).detach()
    with torch.no_grad():
        classifier.net.conv1.weight.mul_(-0.5)
    assert not torch.allclose(classifier(images).detach(), logits)
    unrolled = TiedAutoEncoder(classifier.net, 1e-6)
    scale = float(maps().abs().max())
    torch.testing.assert_close(
        maps().unflatten(0, (2, LOGITS))[:, 1], unrolled(images, 1).detach(), rtol=0, atol=1e-4 * scale
    )
    assert not torch.allclose(maps(), first)
