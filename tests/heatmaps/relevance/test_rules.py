"""Single rules against dense matrices, and what relevance promises on a whole network: sums, signs, independence."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.heatmaps.nets import ask, deep, normalised, wrap
from tests.heatmaps.relevance.nets import everything, relevance, walker_of, with_statistics
from tests.heatmaps.relevance.oracle_rules import conv_matrix, distribute, transposed_matrix
from xseg.errors import UsageError
from xseg.heatmaps import methods
from xseg.heatmaps.relevance import composites, rules
from xseg.heatmaps.relevance.affine import Affine
from xseg.heatmaps.relevance.composites import RuleSettings
from xseg.heatmaps.relevance.method import grid
from xseg.heatmaps.relevance.rules import Place

RULES = ("zero", "epsilon", "gamma", "z-plus", "alpha-beta", "z-box", "flat", "w-square")
CONSTANTS = {"epsilon": 0.03, "gamma": 0.4, "alpha": 1.7}
LOW, HIGH = -1.5, 1.25
CONVOLUTIONS = [
    {"padding": 1},
    {"stride": 2, "padding": 1},
    {"stride": 3},
    {"groups": 2, "padding": 2},
    {"dilation": 2, "padding": 1},
    {"padding": "same"},
    {"padding": "same", "dilation": 2, "groups": 2},
]
TRANSPOSED = [
    {"stride": 2},
    {"stride": 3, "padding": 1, "output_padding": 2},
    {"groups": 2, "dilation": 2},
    {"stride": 2, "output_padding": 1, "groups": 4},
]


def settings(**changes):
    given = {"stabiliser": CONSTANTS["epsilon"], "published": False, "bias": True, **CONSTANTS}
    return RuleSettings(**{**given, "bounds": lambda x: (torch.full_like(x, LOW), torch.full_like(x, HIGH)), **changes})


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def check(rule, kind, function, matrix, given, options, nonnegative, record_property):
    """One rule at one layer, for two images and three rows of relevance at once, against the oracle for each."""
    x, weight, bias = given
    x = x.abs() if nonnegative else x.clamp(LOW, HIGH)
    layer = Affine.of(kind, function, (x, weight, bias), options)
    y = function(x, weight, bias, **options)
    assert np.allclose(matrix @ x[1].numpy().ravel(), layer(x, weight)[1].numpy().ravel())
    r = random(3, *y.shape, seed=4)
    found = settings().rule(rule)(Place(layer, x, y, nonnegative), r)
    assert found.shape == (3, *x.shape)
    biases = np.repeat(np.zeros(len(y[0])) if bias is None else bias.numpy(), y[0].numel() // len(y[0]))
    errors = []
    for k, n in ((0, 1), (2, 0)):
        vectors = (value.numpy().ravel() for value in (x[n], r[k, n]))
        expected = distribute(rule, matrix, biases, *vectors, low=LOW, high=HIGH, **CONSTANTS)
        errors.append(np.abs(found[k, n].numpy().ravel() - expected).max() / np.abs(expected).max())
    record_property("error", float(max(errors)))
    assert max(errors) < 1e-12


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
def test_convolutions_share_as_their_matrices_do(record_property, rule, options, nonnegative):
    kernel = (2, 4) if options.get("padding") == "same" else (3, 2)
    weight = random(6, 4 // options.get("groups", 1), *kernel, seed=1)
    matrix = conv_matrix(weight.numpy(), (4, 6, 5), **options)
    given = (random(2, 4, 6, 5), weight, random(6, seed=2))
    check(rule, "convolution", functional.conv2d, matrix, given, options, nonnegative, record_property)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("options", TRANSPOSED, ids=str)
def test_transposed_convolutions_share_as_their_matrices_do(record_property, rule, options):
    weight = random(4, 8 // options.get("groups", 1), 3, 2, seed=1)
    matrix = transposed_matrix(weight.numpy(), (4, 4, 3), **options)
    given = (random(2, 4, 4, 3), weight, random(8, seed=2))
    check(rule, "transposed", functional.conv_transpose2d, matrix, given, options, False, record_property)


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_linear_layers_share_as_their_matrices_do(record_property, rule, with_bias, nonnegative):
    weight, bias = random(5, 7, seed=1), random(5, seed=2) if with_bias else None
    given = (random(2, 7), weight, bias)
    check(rule, "dense", functional.linear, weight.numpy(), given, {}, nonnegative, record_property)


@pytest.mark.parametrize("rule", RULES)
def test_a_bias_without_a_share_is_as_none(rule):
    x, weight, bias, r = random(2, 7), random(5, 7, seed=1), random(5, seed=2), random(3, 2, 5, seed=3)
    with_bias, without = (Affine.of("dense", functional.linear, (x, weight, b), {}) for b in (bias, None))
    y, plain = functional.linear(x, weight, bias), functional.linear(x, weight)
    kept = plain if rule == "gamma" else y  # the gamma rule asks for the sign of the output, bias or not
    found = settings(bias=False).rule(rule)(Place(with_bias, x, kept, False), r)
    expected = settings().rule(rule)(Place(without, x, plain, False), r)
    torch.testing.assert_close(found, expected)


def same_everywhere(rule):
    places = {"conv": rule, "dense": rule, "first": rule} if rule != "z-box" else {"conv": "zero", "first": rule}
    return [f"{place}={name}" for place, name in places.items()]


def alternating(classifier):
    """The classifier with weights of alternating sign, so that any two neighbours contribute with both signs."""
    with torch.no_grad():
        for weight in (value for value in classifier.parameters() if value.ndim > 1):
            number = sum(torch.meshgrid(*map(torch.arange, weight.shape), indexing="ij"))
            weight.copy_((weight.abs() + 0.05) * (1 - 2 * (number % 2)))
    return classifier


def lost(classifier, choices):
    """Largest difference between the relevance of a class and its logit, relative to the logit."""
    with torch.no_grad():
        walker = walker_of(classifier, normalised(3).double(), "lrp", ["stabiliser=0", "epsilon=0", *choices])
        logits = walker.tape.logits
        totals = walker.walk(torch.eye(4).double()[:, None] * logits).sum((2, 3, 4)).T
    return ((totals - logits) / logits).abs().max().item()


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_without_the_biases_share_relevance_is_conserved_through_everything(record_property, rule, norm):
    classifier = alternating(everything(nn.Softplus, norm=norm))
    # a batch norm on its own has one contribution an output, which may have the sign that a rule does not look at
    modes = ["identity"] if norm and rule in ("z-plus", "alpha-beta") else ["identity", "folded"]
    for mode in modes:
        error = lost(classifier, ["bias=false", f"batch_norm={mode}", *same_everywhere(rule)])
        record_property("error", float(error))
        assert error < 1e-6
    assert rule == "flat" or lost(classifier, same_everywhere(rule)) > 1e-2


@pytest.mark.parametrize("act", [nn.ReLU, nn.GELU, nn.SiLU, nn.Hardswish])
@pytest.mark.parametrize("rule", ["zero", "epsilon", "gamma", "z-box", "flat", "w-square"])
def test_without_biases_relevance_is_conserved_through_any_activation(record_property, rule, act):
    # what is 0 has no share of a sum, so flat rules are for the layer that reads the image if activations are 0
    places = [f"first={rule}", "conv=zero"] if rule in ("flat", "w-square") else same_everywhere(rule)
    error = lost(everything(act, bias=False), places)
    record_property("error", float(error))
    assert error < 1e-6


@pytest.mark.parametrize("composite", ["epsilon-plus", "epsilon-alpha2-beta1-flat", "epsilon-gamma-box", "z-plus"])
def test_composites_conserve_relevance_without_the_biases_share(composite):
    classifier = alternating(everything(nn.Softplus, norm=True))
    assert lost(classifier, [f"composite={composite}", "bias=false", "batch_norm=identity"]) < 1e-6


def test_without_biases_rule_zero_is_input_times_gradient_through_everything(record_property):
    classifier, images = everything(nn.ReLU, bias=False), normalised(3).double()
    images.requires_grad_()
    hook = classifier.net.squeeze.register_forward_hook(lambda module, inputs, output: output.detach())
    (gradient,) = torch.autograd.grad(classifier(images)[:, 1].sum(), images)
    hook.remove()
    expected = (gradient * images).detach()
    found = relevance(classifier, images.detach(), 1, ["composite=zero", "stabiliser=0"])
    error = ((found - expected).abs().amax() / expected.abs().amax()).item()
    record_property("error", float(error))
    assert error < 1e-9


class Twice(nn.Module):
    """A convolution that is read by a batch norm and by a sum."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 4)

    def forward(self, x):
        x = self.conv(x)
        return self.fc((self.norm(x) + x).mean((2, 3)))


def test_a_batch_norm_is_not_folded_into_a_convolution_that_something_else_reads():
    classifier = with_statistics(wrap(Twice(), layer="conv").double())
    exact = ["composite=zero", "stabiliser=0"]
    assert lost(classifier, ["bias=false", *exact]) < 1e-9
    with torch.no_grad():
        walker = walker_of(classifier, normalised(1).double(), "lrp", exact)
    assert [step.kind for step in walker.tape.steps] == ["convolution", "scale", "sum", "average", "dense"]


def plain(norm=False):
    """Convolutions, ReLUs, a max-pool, a mean, two linear layers."""

    def conv(inputs, outputs):
        return [nn.Conv2d(inputs, outputs, 3), *([nn.BatchNorm2d(outputs)] if norm else []), nn.ReLU()]

    features = nn.Sequential(*conv(3, 8), nn.MaxPool2d(2), *conv(8, 6))
    parts = {"features": features, "pool": nn.AdaptiveAvgPool2d(3), "flat": nn.Flatten(), "one": nn.Linear(54, 9)}
    net = nn.Sequential(OrderedDict(**parts, act=nn.ReLU(), fc=nn.Linear(9, 4)))
    return with_statistics(wrap(net).double())


def test_z_plus_gives_nothing_negative_for_a_positive_start():
    query = ask(normalised(3).double(), [(i, k) for i in range(3) for k in range(4)])
    for settings_ in (["composite=z-plus"], ["composite=z-plus", "first=flat"], ["composite=z-plus", "first=z-box"]):
        maps = methods.create("lrp", [*settings_, "start=one"])(plain(norm=True), query)
        assert maps.min() >= 0
        assert maps.amax((1, 2)).min() > 0
    assert methods.create("lrp", ["composite=alpha-beta", "start=one"])(plain(norm=True), query).min() < 0


def test_questions_make_a_table_of_classes_by_images():
    table, row = grid(ask(normalised(3), [(2, 1), (0, 3), (2, 0), (2, 2)]))
    assert table.tolist() == [[3, 0, 1], [3, 0, 0], [3, 0, 2]]  # an image with fewer repeats its last, or asks for 0
    assert row.tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize("name", ["lrp", "clrp", "sglrp", "rap", "agf"])
def test_classes_and_images_together_are_as_each_alone(name):
    classifier, images = everything(nn.SiLU, norm=True), normalised(3).double()
    classes = [(i, k) for i in range(3) for k in (3, 0, 2, 1, 3, 0, 1, 2, 0, 2)]  # more rows than go back at once
    together = methods.create(name)(classifier, ask(images, classes))
    for row, (image, target) in list(zip(together, classes, strict=True))[::3]:
        (alone,) = methods.create(name)(classifier, ask(images[image : image + 1], [(0, target)]))
        torch.testing.assert_close(row, alone, atol=1e-9 * alone.abs().max().item(), rtol=0)


def folded_by_hand(classifier):
    """The same function with each batch norm's factor and shift written into the convolution before it."""
    features = classifier.net.features
    with torch.no_grad():
        for conv, norm in zip(features, list(features)[1:], strict=False):
            if isinstance(norm, nn.BatchNorm2d):
                factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
                conv.weight.mul_(factor[:, None, None, None])
                conv.bias.copy_((conv.bias - norm.running_mean) * factor + norm.bias)
    classifier.net.features = nn.Sequential(*(m for m in features if not isinstance(m, nn.BatchNorm2d)))
    return classifier


@pytest.mark.parametrize("composite", ["epsilon-plus", "epsilon-alpha2-beta1", "epsilon-gamma-box", "epsilon"])
def test_a_folded_batch_norm_is_part_of_its_convolution(composite):
    images = normalised(2).double()
    found = relevance(plain(norm=True), images, 1, [f"composite={composite}"])
    expected = relevance(folded_by_hand(plain(norm=True)), images, 1, [f"composite={composite}"])
    torch.testing.assert_close(found, expected, atol=1e-10 * expected.abs().max().item(), rtol=0)
    identity = relevance(plain(norm=True), images, 1, [f"composite={composite}", "batch_norm=identity"])
    assert (identity - expected).abs().max() > 1e-3 * expected.abs().max()


def test_a_batch_norm_after_a_transposed_convolution_is_folded_into_it():
    def upwards(groups):
        layers = OrderedDict(
            down=nn.Conv2d(3, 6, 2, 2),
            up=nn.ConvTranspose2d(6, 6, 2, 2, groups=groups),
            norm=nn.BatchNorm2d(6),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            fc=nn.Linear(6, 4),
        )
        return with_statistics(wrap(nn.Sequential(layers), layer="up").double())

    for groups in (1, 2):
        classifier, images = upwards(groups), normalised(2).double()
        found = relevance(classifier, images, 1, ["composite=epsilon"])
        up, norm = classifier.net.up, classifier.net.norm
        factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        with torch.no_grad():
            for channel in range(6):
                inputs = slice(None) if groups == 1 else slice(channel // 3 * 3, channel // 3 * 3 + 3)
                up.weight[inputs, channel % (6 // groups)] *= factor[channel]
            up.bias.copy_((up.bias - norm.running_mean) * factor + norm.bias)
        classifier.net.norm = nn.Identity()
        torch.testing.assert_close(found, relevance(classifier, images, 1, ["composite=epsilon"]))


def test_relevance_passes_an_identical_batch_norm_as_if_it_were_not_there(record_property):
    parts = {"features": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), "flat": nn.Flatten()}
    classifier = with_statistics(wrap(nn.Sequential(OrderedDict(**parts, fc=nn.Linear(36, 4)))).double())
    image, net = normalised(1, 5, 5).double(), classifier.net
    with torch.no_grad():
        x, hidden, logits = (v.numpy().ravel() for v in (image, net.flat(net.features(image)), net(image)))
    head, bias = net.fc.weight.detach().numpy(), net.fc.bias.detach().numpy()
    constants = {"epsilon": 1e-6, "gamma": 0, "alpha": 1, "low": 0, "high": 0}
    at_head = distribute("epsilon", head, bias, hidden, logits * np.eye(4)[3], **constants)
    conv = net.features[0]
    matrix, shift = conv_matrix(conv.weight.detach().numpy(), (3, 5, 5)), conv.bias.detach().numpy().repeat(9)
    expected = distribute("z-plus", matrix, shift, x, at_head, **constants)
    found = relevance(classifier, image, 3, ["batch_norm=identity"]).numpy().ravel()
    error = np.abs(found - expected).max() / np.abs(expected).max()
    record_property("error", float(error))
    assert error < 1e-12


@pytest.mark.parametrize("setting", ["composite=none", "conv=epsilon-plus", "batch_norm=no", "alpha=0.5", "gamma=-1",
                                     "epsilon=nan", "stabiliser=inf", "bounds=black", "start=two"])  # fmt: skip
def test_settings_that_mean_nothing_are_refused(setting):
    with pytest.raises(UsageError, match=f"--set {setting}"):
        methods.create("lrp", [setting])


@pytest.mark.parametrize(("name", "settings"), [
    *(("lrp", [f"dense={rule}"]) for rule in ("zero", "epsilon", "gamma", "z-plus", "alpha-beta", "flat", "w-square")),
    ("clrp", []), ("agf", []),
])  # fmt: skip
def test_a_large_linear_layer_in_blocks_gives_the_same(monkeypatch, name, settings):
    query = ask(normalised(2).double(), [(0, 1), (1, 2), (0, 3)])
    classifier, method = deep().double(), methods.create(name, settings)
    whole = method(classifier, query)
    monkeypatch.setattr(rules, "_BLOCK", 2 * classifier.net.fc.weight.shape[1])
    cut = []
    plain = rules.blocks_of
    for module in (rules, composites):
        monkeypatch.setattr(module, "blocks_of", lambda *given: cut.append(list(plain(*given))) or cut[-1])
    found = method(classifier, query)
    assert max(map(len, cut)) > 1
    torch.testing.assert_close(found, whole, atol=1e-12 * whole.abs().max().item(), rtol=1e-9)
