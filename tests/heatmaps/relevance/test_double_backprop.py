"""Maps are functions of images and weights: losses on them have the right gradients, in every layer."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

import xseg.heatmaps.relevance
from tests.heatmaps.nets import ask, normalised
from tests.heatmaps.relevance.nets import everything
from xseg.heatmaps import methods
from xseg.heatmaps.relevance.affine import Affine

SOURCES = sorted(Path(xseg.heatmaps.relevance.__file__).parent.glob("*.py"))
# Not so close to a pole that finite differences could not be taken.
MILD = ["epsilon=0.05", "stabiliser=0.05"]
CASES = [
    ("lrp", MILD),
    ("lrp", ["composite=epsilon-alpha2-beta1-flat", "batch_norm=identity", *MILD]),
    ("lrp", ["composite=epsilon-gamma-box", *MILD]),
    ("lrp", ["composite=epsilon", "bias=false", *MILD]),
    ("lrp", ["composite=published"]),
    ("clrp", ["composite=z-plus", *MILD]),
    ("sglrp", ["composite=z-plus", *MILD]),
    ("rap", []),
    ("agf", []),
    ("agf", ["start=logit", "variant=paper"]),
]
PAIRS = [(0, 1), (1, 3), (0, 2)]


def network():
    classifier = everything(nn.Softplus, norm=True)
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.mul_(0.5)
    return classifier


@pytest.mark.parametrize(("name", "settings"), CASES, ids=str)
def test_maps_pass_a_gradient_check(name, settings):
    classifier, method = network(), methods.create(name, settings)
    images = normalised(2, 16, 16).double().requires_grad_()
    net = classifier.net
    given = (
        images,
        net.stem.weight,
        net.norm.weight,
        net.up.weight,
        net.joined.bias,
        net.squeeze[1].weight,
        net.fc.weight,
    )

    def maps(*_):
        return method(classifier, ask(images, PAIRS, create_graph=True))

    assert torch.autograd.gradcheck(maps, given, fast_mode=True, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(("name", "settings"), CASES, ids=str)
def test_a_loss_on_maps_moves_every_layer_as_finite_differences_say(record_property, name, settings):
    classifier, method, images = network(), methods.create(name, settings), normalised(2, 16, 16).double()
    parameters = dict(classifier.named_parameters())

    def loss(create_graph=True):
        maps = method(classifier, ask(images, PAIRS, create_graph=create_graph))
        return (maps / maps.detach().abs().max() - 0.5).square().mean() if create_graph else maps

    found = torch.autograd.grad(loss(), list(parameters.values()), allow_unused=True)
    still = [path for path, g in zip(parameters, found, strict=True) if g is None or not g.abs().max() > 0]
    # a logit's gradient, which is what AGF then starts from, has no share of the last bias
    assert still == (["net.fc.bias"] if settings[:1] == ["start=logit"] else [])

    top = loss(create_graph=False).abs().max()
    generator, errors = torch.Generator().manual_seed(1), []
    for _ in range(4):
        directions = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters.values()]
        values = []
        for step in (1e-6, -2e-6):  # there, and to the other side
            with torch.no_grad():
                for parameter, direction in zip(parameters.values(), directions, strict=True):
                    parameter.add_(step * direction)
            values.append((loss(create_graph=False) / top - 0.5).square().mean())
        with torch.no_grad():
            for parameter, direction in zip(parameters.values(), directions, strict=True):
                parameter.add_(1e-6 * direction)
        expected = (values[0] - values[1]) / 2e-6
        slope = sum((g * d).sum() for g, d in zip(found, directions, strict=True) if g is not None)
        errors.append(((slope - expected).abs() / expected.abs().clamp(min=1e-3)).item())
    record_property("error", float(max(errors)))
    assert max(errors) < 1e-3


def test_maps_without_a_graph_are_the_same():
    classifier, images = network(), normalised(2, 16, 16).double()
    for name, settings in CASES:
        method = methods.create(name, settings)
        with_graph = method(classifier, ask(images, PAIRS, create_graph=True))
        assert with_graph.requires_grad
        found = method(classifier, ask(images, PAIRS))
        assert not found.requires_grad
        torch.testing.assert_close(with_graph.detach(), found, rtol=1e-9, atol=1e-12)


def test_the_engine_cuts_no_graph_and_writes_into_no_tensor():
    assert len(SOURCES) > 8
    for source in SOURCES:
        # without a graph the images are cut off from the caller's; with one they are not
        text = source.read_text().replace("images if graph else images.detach()", "images")
        assert not re.search(r"\.detach\(|\.data\b|\.item\(|\.numpy\(", text), source
        assert not re.findall(r"\.[a-z]\w*[a-z0-9]_\(|\w [-*/]= ", text), source


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2, "padding": 1}, {"groups": 4, "padding": 1}, {"dilation": 2, "padding": (2, 1)}, {"groups": 2}],
    ids=str,
)
def test_the_transpose_of_a_convolution_is_differentiated_as_a_matrix_is(options, last):
    groups = options.get("groups", 1)
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 4 // groups, 3, 3, generator=random, dtype=torch.float64)
    x = torch.zeros(2, 4, 7, 6, dtype=torch.float64)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    layer = Affine("convolution", functional.conv2d, weight, None, options)
    r = torch.randn(3, *layer(x, weight).shape, generator=random, dtype=torch.float64)
    unit = torch.eye(x[:1].numel(), dtype=torch.float64).view(-1, *x.shape[1:])

    def by_matrix(r, weight):
        matrix = layer(unit, weight).flatten(1)  # row i: what input i adds to the outputs
        return (r.flatten(2) @ matrix.T).view(len(r), *x.shape)

    given = r.requires_grad_(), weight.requires_grad_()
    slope = torch.randn(3, *x.shape, generator=random, dtype=torch.float64)
    ours, theirs = layer.transpose(r, weight, x), by_matrix(r, weight)
    torch.testing.assert_close(ours, theirs)
    for found, wanted in zip(
        torch.autograd.grad(ours, given, slope), torch.autograd.grad(theirs, given, slope), strict=True
    ):
        torch.testing.assert_close(found, wanted)
    assert torch.autograd.gradgradcheck(lambda r, weight: layer.transpose(r, weight, x), given, fast_mode=True)
