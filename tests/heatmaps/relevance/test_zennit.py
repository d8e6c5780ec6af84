"""zennit (Anders et al. 2021) as the oracle of every rule and composite, per colour and in float64."""

from functools import partial

import pytest
import torch
from torch import nn

from tests.heatmaps.nets import normalised, wrap
from tests.heatmaps.relevance.nets import relevance, with_statistics
from xseg.device import torchvision_ready

torchvision_ready()

from torchvision.models.efficientnet import EfficientNet, MBConv, MBConvConfig  # noqa: E402
from torchvision.models.resnet import BasicBlock, Bottleneck  # noqa: E402
from torchvision.ops import SqueezeExcitation  # noqa: E402
from zennit import canonizers, composites, rules  # noqa: E402
from zennit.layer import Sum  # noqa: E402
from zennit.torchvision import ResNetBasicBlockCanonizer, ResNetBottleneckCanonizer  # noqa: E402
from zennit.types import Convolution  # noqa: E402

TARGET = 2


def vgg(norm):
    def conv(inputs, outputs):
        layers = [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        return layers if norm else [layers[0], layers[2]]

    features = nn.Sequential(*conv(3, 8), *conv(8, 8), nn.MaxPool2d(2), *conv(8, 12), nn.MaxPool2d(2))
    head = nn.Sequential(nn.Linear(12 * 9, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 4))
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(3), nn.Flatten(), head), "0", "3.3"


def resnet():
    """torchvision's blocks at small widths; the projections of the second and third have stride 2."""

    def project(inputs, outputs):
        return nn.Sequential(nn.Conv2d(inputs, outputs, 1, 2, bias=False), nn.BatchNorm2d(outputs))

    stem = [nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    blocks = [BasicBlock(8, 8), BasicBlock(8, 12, 2, project(8, 12)), Bottleneck(12, 4, 2, project(12, 16))]
    tail = [Bottleneck(16, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)]
    return nn.Sequential(*stem, *blocks, *tail), "7", "10"


def efficientnet():
    """torchvision's EfficientNet, squeeze and excitation, SiLU and all, with four blocks."""
    settings = [(1, 3, 1, 8, 8, 1), (4, 3, 2, 8, 12, 1), (4, 5, 1, 12, 12, 2)]
    blocks = [MBConvConfig(*values, width_mult=1, depth_mult=1) for values in settings]
    return EfficientNet(blocks, 0.2, num_classes=4, last_channel=24), "features", "classifier.1"


def summing(name, module):
    """What replaces `+` in an inverted residual block by a module that zennit can hook."""
    if not (isinstance(module, MBConv) and module.use_res_connect):
        return None

    def forward(self, x):
        return self.canonizer_sum(torch.stack([self.stochastic_depth(self.block(x)), x], dim=-1))

    return {"forward": forward.__get__(module), "canonizer_sum": Sum()}


def make(name):
    net, layer, head = {"vgg": partial(vgg, False), "vgg-bn": partial(vgg, True)}.get(name, globals().get(name))()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-12  # zennit's merged batch norm still divides by sqrt(1 + eps)
    return with_statistics(wrap(net, layer=layer, head=head).double())


def sums():
    return [
        ResNetBasicBlockCanonizer(),
        ResNetBottleneckCanonizer(),
        canonizers.AttributeCanonizer(summing),
    ]


def box(config):
    mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (config.mean, config.std))
    return {"low": -mean / std, "high": (1 - mean) / std}


COMPOSITES = {
    "epsilon-plus": composites.EpsilonPlus,
    "epsilon-alpha2-beta1": composites.EpsilonAlpha2Beta1,
    "epsilon-plus-flat": composites.EpsilonPlusFlat,
    "epsilon-alpha2-beta1-flat": composites.EpsilonAlpha2Beta1Flat,
    "epsilon-gamma-box": composites.EpsilonGammaBox,
}
RULES = {
    "zero": partial(rules.Epsilon, epsilon=1e-300),
    "epsilon": rules.Epsilon,
    "gamma": partial(rules.Gamma, gamma=0.25),
    "z-plus": rules.ZPlus,
    "alpha-beta": partial(rules.AlphaBeta, alpha=2, beta=1),
    "flat": rules.Flat,
    "w-square": rules.WSquare,
}


def by_zennit(classifier, images, composite):
    """(N,3,H,W): one-hot times logit taken back by zennit's hooks."""
    images = images.clone().requires_grad_()
    with composite.context(classifier.net) as net:
        logits = net(images)
        start = torch.zeros_like(logits)
        start[:, TARGET] = logits[:, TARGET].detach()
        return torch.autograd.grad(logits, images, start)[0]


def compare(classifier, composite, settings, record_property):
    images = normalised(2, 33, 40).double()
    expected = by_zennit(classifier, images, composite)
    found = relevance(classifier, images, TARGET, settings)
    assert expected.abs().amax() > 0
    error = ((found - expected).abs().amax((1, 2, 3)) / expected.abs().amax((1, 2, 3))).max().item()
    record_property("error", float(error))
    assert error < 1e-6


@pytest.mark.parametrize("name", ["vgg", "vgg-bn", "resnet", "efficientnet"])
@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("composite", COMPOSITES)
def test_composites_equal_zennits(record_property, name, folded, composite):
    classifier = make(name)
    # gates get no relevance here; zennit lets a module's input have all of it by its rule Pass
    options = {"layer_map": [(SqueezeExcitation, rules.Pass())]}
    options |= box(classifier.config) if composite == "epsilon-gamma-box" else {}
    merging = [canonizers.SequentialMergeBatchNorm()] if folded else []
    theirs = COMPOSITES[composite](canonizers=[*merging, *sums()], **options)
    settings = [f"composite={composite}", f"batch_norm={'folded' if folded else 'identity'}"]
    compare(classifier, theirs, settings, record_property)


@pytest.mark.parametrize("name", ["vgg", "vgg-bn", "resnet", "efficientnet"])
@pytest.mark.parametrize("rule", RULES)
def test_rules_equal_zennits_in_every_layer(record_property, name, rule):
    classifier = make(name)
    own = [(SqueezeExcitation, rules.Pass()), *composites.layer_map_base()]
    own += [(Convolution, RULES[rule]()), (nn.Linear, RULES[rule]())]
    theirs = composites.LayerMapComposite(own, canonizers=[canonizers.SequentialMergeBatchNorm(), *sums()])
    compare(classifier, theirs, [f"{place}={rule}" for place in ("conv", "dense", "first")], record_property)


@pytest.mark.parametrize("name", ["vgg-bn", "resnet"])
def test_the_z_box_equals_zennits_between_any_bounds(record_property, name):
    classifier = make(name)
    images = normalised(2, 33, 40).double()
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    first = [(Convolution, rules.ZBox(low, high))]
    rest = [*composites.layer_map_base(), (Convolution, rules.ZPlus()), (nn.Linear, rules.Epsilon())]
    theirs = composites.SpecialFirstLayerMapComposite(
        rest, first, canonizers=[canonizers.SequentialMergeBatchNorm(), *sums()]
    )
    compare(classifier, theirs, ["first=z-box", "bounds=image"], record_property)
