from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.heatmaps.fixture_nets import NAMES, RESNET_NAMES, fixture
from tests.heatmaps.nets import Forwards, ask, body, deep, normalised, pooled, wrap
from tests.heatmaps.relevance.test_zoo import UNet
from xseg.device import torchvision_ready
from xseg.heatmaps import methods
from xseg.heatmaps.full_gradient import rebuilt_logits

PUBLISHED = ("agf_vgg", "agf_vgg_bn", *RESNET_NAMES)


@pytest.mark.parametrize("name", PUBLISHED)
def test_agf_equals_the_published_baseline(shared, record_property, name):
    classifier, arrays = fixture(shared, name)
    images, targets = torch.from_numpy(arrays["input"]).double(), arrays["targets"].tolist()
    found = methods.create("full-grad", ["variant=agf"])(
        classifier, ask(images, [(i, k) for k in targets for i in (0, 1)])
    )
    expected = arrays["map/fullgrad"]
    error = np.abs(found.reshape(expected.shape).numpy() - expected).max() / expected.max()
    record_property("error", float(error))
    assert error < 1e-12


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fold", [False, True])
def test_all_terms_sum_to_the_logit(shared, record_property, name, fold):
    classifier, arrays = fixture(shared, name)
    images = torch.from_numpy(arrays["input"]).double()
    found = rebuilt_logits(classifier, ask(images, [(i, k) for i in range(2) for k in range(5)]), fold)
    error = np.abs(found.reshape(2, 5).numpy() - arrays["logits"]).max()
    record_property("error", float(error))
    assert error < 1e-12


def official(net, image, target):
    """The authors' computation for one image (1,3,H,W), by hooks on the modules that have a bias of their own."""
    outputs, biases, hooks = [], [], []

    def keep(module, _, output):
        bias = module.bias
        if isinstance(module, nn.BatchNorm2d):
            bias = bias - module.running_mean * module.weight / torch.sqrt(module.running_var + module.eps)
        outputs.append(output)
        biases.append(bias.detach())

    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d) and module.bias is not None:
            hooks.append(module.register_forward_hook(keep))
    image = image.clone().requires_grad_()
    first, *gradients = torch.autograd.grad(net(image)[0, target], [image, *outputs])
    for hook in hooks:
        hook.remove()
    total = torch.zeros(image.shape[2:], dtype=image.dtype)
    for term in [first * image.detach(), *(g * b.view(1, -1, 1, 1) for g, b in zip(gradients, biases, strict=True))]:
        values = term.abs() - term.abs().min()
        values = values / (values.max() + 1e-6)
        total += functional.interpolate(values, image.shape[2:], mode="bilinear", align_corners=True).sum((0, 1))
    return total


@pytest.mark.parametrize("name", PUBLISHED)
def test_official_equals_the_authors_computation_for_each_image(shared, name):
    classifier, arrays = fixture(shared, name)
    images = torch.from_numpy(arrays["input"]).double()
    pairs = [(1, 0), (0, 3), (1, 4)]
    found = methods.create("full-grad")(classifier, ask(images, pairs))
    for (image, target), row in zip(pairs, found, strict=True):
        torch.testing.assert_close(row, official(classifier.net, images[image : image + 1], target), atol=1e-12, rtol=0)


class Fused(nn.Module):
    """timm's batch norm with activation, an in-place ReLU, a functional sum, and one convolution that runs twice."""

    def __init__(self):
        from timm.layers import BatchNormAct2d

        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2, 1)
        self.norm = BatchNormAct2d(6)
        self.twice = nn.Conv2d(6, 6, 3, 1, 1, groups=2)
        self.relu = nn.ReLU(inplace=True)
        self.spare = nn.Conv2d(6, 6, 1)
        self.features = nn.MaxPool2d(2)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        x = self.norm(self.stem(x))
        for _ in range(2):
            x = x + self.relu(self.twice(x))
        self.spare(x)
        return self.fc(functional.leaky_relu_(self.features(x) - 0).mean((2, 3)))


@pytest.mark.parametrize("fold", [False, True])
def test_fused_reused_and_in_place_layers_are_all_counted(fold):
    torchvision_ready()
    classifier = wrap(Fused()).double()
    generator = torch.Generator().manual_seed(1)
    classifier.net.norm.running_mean.copy_(torch.randn(6, generator=generator))
    classifier.net.norm.running_var.copy_(torch.rand(6, generator=generator) + 0.5)
    images = normalised(2, 17, 24).double()
    found = rebuilt_logits(classifier, ask(images, [(1, 0), (0, 2), (1, 3)]), fold)
    logits = classifier(images).detach()
    torch.testing.assert_close(found, torch.stack([logits[1, 0], logits[0, 2], logits[1, 3]]), atol=1e-12, rtol=0)


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("up", ["transposed", "nearest"])
def test_up_sampling_keeps_the_sum(up, fold):
    classifier = wrap(UNet(up)).double()
    images = normalised(2, 32, 48).double()
    found = rebuilt_logits(classifier, ask(images, [(0, 1), (1, 3)]), fold)
    logits = classifier(images).detach()
    torch.testing.assert_close(found, logits[[0, 1], [1, 3]], atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("inplace", [False, True])
def test_a_batch_norm_after_a_relu_is_not_folded_into_what_is_before_it(inplace):
    layers = [nn.Conv2d(3, 6, 3), nn.ReLU(inplace), nn.BatchNorm2d(6)]
    parts = OrderedDict(
        features=nn.Sequential(*layers), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(6, 4)
    )
    classifier = wrap(nn.Sequential(parts)).double()
    images = normalised(1).double()
    found = rebuilt_logits(classifier, ask(images, [(0, 2)]), fold=True)
    torch.testing.assert_close(found, classifier(images).detach()[:, 2], atol=1e-12, rtol=0)


def test_a_smooth_activation_breaks_the_sum_but_not_the_map():
    classifier = deep().double()
    query = ask(normalised(1).double(), [(0, 1)])
    exact = rebuilt_logits(classifier, query)
    torch.testing.assert_close(exact[0], classifier(query.images)[0, 1].detach(), atol=1e-12, rtol=0)
    classifier.net.features[1] = nn.SiLU()
    assert (rebuilt_logits(classifier, query) - classifier(query.images)[0, 1]).abs() > 1e-3
    maps = methods.create("full-grad")(classifier, query)
    assert torch.isfinite(maps).all()
    assert maps.max() > 0


def test_layers_over_something_else_than_the_images_are_left_out():
    class Windows(nn.Module):
        def forward(self, x):
            count, width = len(x), x.shape[1]
            x = x.reshape(count * 2, width, -1, x.shape[3])
            return self.mix(x).reshape(count, width, -1, x.shape[3])

    windows = Windows()
    windows.mix = nn.Conv2d(6, 6, 1)
    parts = OrderedDict(features=body(), windows=windows, pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten())
    classifier = wrap(nn.Sequential(OrderedDict(**parts, fc=nn.Linear(6, 4)))).double()
    images = normalised(2).double()
    (found,) = methods.create("full-grad")(classifier, ask(images, [(1, 2)]))
    (alone,) = methods.create("full-grad")(classifier, ask(images[1:], [(0, 2)]))
    torch.testing.assert_close(found, alone)


def test_a_map_is_the_sum_of_as_many_layers_as_have_places():
    classifier = pooled().double()
    query = ask(normalised(1).double(), [(0, 1)])
    with_biases = methods.create("full-grad", ["variant=agf"])(classifier, query)
    with torch.no_grad():
        kept = classifier.net.features[0].bias.clone()
        classifier.net.fc.bias.fill_(7)
    torch.testing.assert_close(methods.create("full-grad", ["variant=agf"])(classifier, query), with_biases)
    with torch.no_grad():
        classifier.net.features[0].bias.zero_()
    with Forwards(classifier) as passes:
        without = methods.create("full-grad", ["variant=agf"])(classifier, query)
    assert passes.count == 1
    assert kept.abs().min() > 0
    assert (with_biases - without).abs().max() > 0.1
