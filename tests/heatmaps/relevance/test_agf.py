"""The pieces of AGF against float64 re-derivations, and what it does where the published code has no answer."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from tests.heatmaps.nets import ask, normalised, pooled, wrap
from tests.heatmaps.relevance.nets import everything, walker_of
from xseg.errors import UsageError
from xseg.heatmaps import methods
from xseg.heatmaps.relevance.agf import AgfWalker, contrast
from xseg.heatmaps.relevance.factorization import foreground


def contrast_by_hand(logits, target):
    away = logits - logits[target]
    values = logits[target] * np.exp(-0.5 * (away / np.abs(away).max()) ** 2)
    return np.exp(values) / np.exp(values).sum()


def test_the_contrast_is_equation_18():
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).double() * 4
    target = torch.tensor([[0, 1, 2, 3, 4], [6, 6, 5, 0, 0]])
    found = contrast(logits, target)
    assert found.shape == target.shape
    for k, n in np.ndindex(2, 5):
        assert found[k, n] == pytest.approx(contrast_by_hand(logits[n].numpy(), target[k, n])[target[k, n]], rel=1e-12)


def test_the_contrast_of_equal_logits_and_of_one_class_is_finite():
    logits = torch.full((1, 4), 3.0, dtype=torch.float64, requires_grad=True)
    value = contrast(logits, torch.tensor([[1]]))
    assert value.item() == 0.25
    assert not torch.autograd.grad(value.sum(), logits)[0].any()
    single = torch.tensor([[-2.5]], dtype=torch.float64, requires_grad=True)
    value = contrast(single, torch.tensor([[0]]))
    assert value.item() == -2.5
    assert torch.autograd.grad(value.sum(), single)[0].item() == 1


def test_a_negative_logit_turns_what_speaks_for_a_rival_around():
    values = contrast_by_hand(np.array([-3.0, 5, -6]), 0)
    assert values.round(2).tolist() == [0.18, 0.59, 0.22]  # the trap: the class itself has the least of all
    found = contrast(torch.tensor([[-3.0, 5, -6]], dtype=torch.float64), torch.tensor([[0]]))
    assert found.item() == pytest.approx(values[0])

    slopes = []
    for shift in (0, 6):
        logits = torch.tensor([[-1.0, -3, -5]], dtype=torch.float64) + shift
        logits.requires_grad_()
        slopes.append(
            torch.autograd.grad(contrast(logits, torch.tensor([[0]])).sum(), logits)[0][0, :2].sign().tolist()
        )
    assert slopes == [[1, 1], [1, -1]]


def test_the_logit_as_a_start_asks_for_the_class_alone():
    for bias in (-20, 20):
        classifier, images = pooled().double(), normalised(1).double()
        with torch.no_grad():
            classifier.net.fc.bias.fill_(bias)
            features = classifier.net.features(images).mean((2, 3))[0]
        expected = features * classifier.net.fc.weight[1].detach()
        torch.testing.assert_close(starts_of(classifier, images, ["start=logit"]), expected)
        assert (starts_of(classifier, images, []) - expected).abs().max() > 0.1 * expected.abs().max()


def starts_of(classifier, images, settings):
    """Attribution (6,) of class 1 at the last layer's input."""
    seen = []

    class Seen(AgfWalker):
        def walk(self, start, number=None):
            seen.append(start)
            return super().walk(start, number)

    walker = walker_of(classifier, images.clone().requires_grad_(), "agf", settings)
    walker.__class__ = Seen
    walker.attribute(torch.ones(1, len(images), dtype=torch.long), False)
    return seen[0][0, 0].detach()


def residual_regions(features, phi, paper):
    """F before ReLU by least squares: W minimises |H - R W|^2 + |W|^2, or without the ridge in the paper's form."""
    squashed = 1 / (1 + np.exp(-(1 if paper else 10) * features / (features.max() + 1e-9)))
    h = squashed.reshape(len(features), -1)
    inside, outside = phi.ravel() > 0, (phi.ravel() <= 0 if paper else phi.ravel() < 0)
    zero = np.zeros(len(features))
    means = [h[:, where].mean(1) if where.any() else zero for where in (outside, inside)]
    r = np.stack(means, 1)
    if paper:
        weights = np.linalg.lstsq(r, h, rcond=None)[0]
    else:
        weights = np.linalg.lstsq(np.vstack([r, np.eye(2)]), np.vstack([h, np.zeros((2, h.shape[1]))]), rcond=None)[0]
    return (weights.clip(min=0)[1] - weights.clip(min=0)[0]).clip(min=0).reshape(phi.shape)


@pytest.mark.parametrize("paper", [False, True])
def test_the_factorization_is_a_least_squares_fit(paper):
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(2, 3, 6, 4, 5, generator=generator).double()
    phi = torch.randn(2, 3, 1, 4, 5, generator=generator).double()
    phi[:, :, :, :2, :2] = 0  # in neither region, or, in the paper, in the background
    for given in (features, features[:1]):  # one row for both classes, as the layer's input has
        found = foreground(given, phi, paper)
        for k, n in np.ndindex(2, 3):
            expected = residual_regions(given[min(k, len(given) - 1), n].numpy(), phi[k, n, 0].numpy(), paper)
            np.testing.assert_allclose(found[k, n, 0].numpy(), expected, atol=1e-8, rtol=0)
        assert found.max() > 0


@pytest.mark.parametrize("paper", [False, True])
@pytest.mark.parametrize("sign", [-1, 0, 1])
def test_the_factorization_is_finite_where_a_region_is_empty(paper, sign):
    features = torch.randn(1, 2, 6, 4, 5, generator=torch.Generator().manual_seed(2))
    phi = torch.full((1, 2, 1, 4, 5), float(sign))
    assert torch.isfinite(foreground(features, phi, paper)).all()
    assert torch.isfinite(foreground(torch.zeros_like(features), phi, paper)).all()


def shifted(monkeypatch, classifier, settings=()):
    """What enters and what leaves the shift of Definition 2, layer by layer."""
    seen, original = [], AgfWalker._shifted

    def spy(self, relevance, residual):
        seen.append((relevance, residual, original(self, relevance, residual)))
        return seen[-1][2]

    monkeypatch.setattr(AgfWalker, "_shifted", spy)
    methods.create("agf", settings)(classifier, ask(normalised(2).double(), [(0, 1), (1, 2)]))
    assert seen
    return seen


def with_dead_channel():
    classifier = pooled().double()
    with torch.no_grad():
        classifier.net.features[0].bias[0] = -100
    return classifier


@pytest.mark.parametrize("settings", [[], ["variant=paper"], ["no_fx=true", "no_m=true"], ["gradcam=true"]])
def test_the_shift_takes_away_what_the_residual_adds(monkeypatch, settings):
    paper = "variant=paper" in settings
    for relevance, residual, found in shifted(monkeypatch, with_dead_channel(), settings):
        lost = relevance == 0
        assert lost.any()
        assert residual[lost].any()  # the code leaves it out there, the text has it everywhere
        added = residual if paper else residual * ~lost
        # the text shifts everywhere by the share of a place that has relevance, and so takes too much away
        share = added.sum((2, 3, 4)) / (~lost).sum((2, 3, 4))
        excess = share * lost.sum((2, 3, 4)) if paper else 0
        torch.testing.assert_close(found.sum((2, 3, 4)), relevance.sum((2, 3, 4)) - excess)
        torch.testing.assert_close(found + share[..., None, None, None] * (~lost | paper), relevance + added)
        assert bool(found[lost].any()) == paper


def test_the_ablations_and_variants_differ():
    query = ask(normalised(2).double(), [(0, 1), (1, 2)])
    flags = ("no_a", "no_fx", "no_fdx", "no_m", "no_reg", "gradcam")
    settings = [[], ["variant=paper"], ["start=logit"], *([f"{flag}=true"] for flag in flags)]
    maps = [methods.create("agf", setting)(pooled().double(), query) for setting in settings]
    for i, first in enumerate(maps):
        assert torch.isfinite(first).all()
        for second in maps[:i]:
            assert (first - second).abs().max() > 1e-6


def full_updates(monkeypatch, classifier):
    """Paths of the layers that get the full update, and of those that get only C."""
    full, plain = [], []
    methods_ = {"_full": full, "affine": plain}
    for name, paths in methods_.items():
        original = getattr(AgfWalker, name)

        def spy(self, step, place, r, original=original, paths=paths):
            paths.append(step.path)
            return original(self, step, place, r)

        monkeypatch.setattr(AgfWalker, name, spy)
    methods.create("agf")(classifier, ask(normalised(1).double(), [(0, 1)]))
    return full, [path for path in plain if path not in full]


class Inverted(nn.Module):
    """Expand, depthwise, project, add: a block of MobileNet, or with a large kernel first one of ConvNeXt."""

    def __init__(self, kernels, groups):
        super().__init__()
        widths = [6, 12, 12, 6] if groups[1] > 1 else [6, 6, 12, 6]
        layers = OrderedDict()
        for i, (kernel, group) in enumerate(zip(kernels, groups, strict=True)):
            conv = nn.Conv2d(widths[i], widths[i + 1], kernel, padding=kernel // 2, groups=group)
            layers[f"conv{i}"], layers[f"act{i}"] = conv, nn.SiLU() if i < 2 else nn.BatchNorm2d(6)
        self.branch = nn.Sequential(layers)

    def forward(self, x):
        return x + self.branch(x)


def net_of(block):
    parts = {
        "stem": nn.Conv2d(3, 6, 3),
        "block": block,
        "features": nn.Conv2d(6, 8, 3),
        "pool": nn.AdaptiveAvgPool2d(1),
    }
    net = nn.Sequential(OrderedDict(**parts, flat=nn.Flatten(), fc=nn.Linear(8, 4)))
    return wrap(net).double()


def test_in_a_mobilenet_block_only_the_depthwise_convolution_gets_the_full_update(monkeypatch):
    full, plain = full_updates(monkeypatch, net_of(Inverted((1, 3, 1), (1, 12, 1))))
    assert full == ["features", "block.branch.conv1"]
    assert plain == ["block.branch.conv2", "block.branch.conv0", "stem"]


def test_in_a_convnext_block_only_the_depthwise_convolution_gets_the_full_update(monkeypatch):
    full, plain = full_updates(monkeypatch, net_of(Inverted((7, 1, 1), (6, 1, 1))))
    assert full == ["features", "block.branch.conv0"]
    assert plain == ["block.branch.conv2", "block.branch.conv1", "stem"]


def test_the_last_convolution_of_a_branch_gets_no_full_update_whatever_its_kernel(monkeypatch):
    full, plain = full_updates(monkeypatch, net_of(Inverted((1, 3, 3), (1, 1, 1))))
    assert full == ["features", "block.branch.conv1"]
    assert "block.branch.conv2" in plain


def test_a_depthwise_convolution_of_one_place_is_spatial_and_a_dense_one_is_not(monkeypatch):
    full, _ = full_updates(monkeypatch, net_of(Inverted((1, 1, 1), (1, 12, 1))))
    assert full == ["features", "block.branch.conv1"]


@pytest.mark.parametrize("settings", [[], ["variant=paper"], ["gradcam=true"], ["start=logit"]])
def test_maps_are_at_most_one_for_each_colour_and_signed(settings):
    classifier, images = everything(nn.ReLU, norm=True), normalised(3).double()
    maps = methods.create("agf", settings)(classifier, ask(images, [(i, k) for i in range(3) for k in range(4)]))
    assert maps.max() <= 3
    assert maps.min() < 0
    assert torch.isfinite(maps).all()


@pytest.mark.parametrize("setting", ["variant=text", "start=one", "no_a=perhaps", "no_b=true"])
def test_settings_that_mean_nothing_are_refused(setting):
    with pytest.raises(UsageError, match=f"--set {setting}"):
        methods.create("agf", [setting])
