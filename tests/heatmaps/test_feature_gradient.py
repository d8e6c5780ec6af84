from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.heatmaps import oracle_maps as oracle
from tests.heatmaps.fixture_nets import RESNET_NAMES, fixture
from tests.heatmaps.nets import Forwards, ask, convolutional, deep, normalised, pooled, state_of, wrap
from xseg.classifier import capture
from xseg.errors import UsageError
from xseg.heatmaps import methods
from xseg.heatmaps.views import resize_maps

PAIRS = [(1, 1), (0, 3), (1, 0), (2, 2), (1, 3)]


@pytest.mark.parametrize("make", [pooled, convolutional])
def test_grad_cam_is_cam_over_the_area_where_a_mean_and_a_linear_head_follow(make):
    classifier, query = make(), ask(normalised(3), PAIRS)
    cam = methods.create("cam")(classifier, query)
    grad_cam = methods.create("grad-cam")(classifier, query)
    torch.testing.assert_close(grad_cam * cam[0].numel(), cam, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(32, 40), (35, 49)])
def test_grad_cam_equals_the_hand_derived_gradient_of_a_deeper_head(shape):
    classifier, images = deep(), normalised(3, *shape)
    found = methods.create("grad-cam", ["relu=false"])(classifier, ask(images, PAIRS)).numpy()
    for (image, target), grad_cam in zip(PAIRS, found, strict=True):
        maps, gradient = oracle.deep_gradient(state_of(classifier), images[image].double().numpy(), target)
        expected = (gradient.mean((1, 2))[:, None, None] * maps).sum(0)
        np.testing.assert_allclose(grad_cam, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("shape", [(32, 40), (35, 49)])
def test_layer_cam_equals_the_hand_derived_gradient_of_a_deeper_head(shape):
    classifier, images = deep(), normalised(3, *shape)
    found = methods.create("layer-cam")(classifier, ask(images, PAIRS)).numpy()
    for (image, target), layer_cam in zip(PAIRS, found, strict=True):
        maps, gradient = oracle.deep_gradient(state_of(classifier), images[image].double().numpy(), target)
        expected = np.maximum((np.maximum(gradient, 0) * maps).sum(0), 0)
        np.testing.assert_allclose(layer_cam, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("shape", [(32, 40), (35, 49)])
def test_hires_cam_equals_the_hand_derived_gradient_of_a_deeper_head(shape):
    classifier, images = deep(), normalised(3, *shape)
    found = methods.create("hires-cam", ["relu=false"])(classifier, ask(images, PAIRS)).numpy()
    for (image, target), hires_cam in zip(PAIRS, found, strict=True):
        maps, gradient = oracle.deep_gradient(state_of(classifier), images[image].double().numpy(), target)
        np.testing.assert_allclose(hires_cam, (gradient * maps).sum(0), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("make", [pooled, convolutional])
def test_hires_cam_sums_to_the_logit_without_its_bias_where_a_linear_layer_follows(make):
    classifier, images = make(), normalised(3)
    found = methods.create("hires-cam", ["relu=false"])(classifier, ask(images, PAIRS))
    bias = classifier.net.fc.bias if classifier.net.fc.bias is not None else torch.zeros(4)
    expected = [(classifier(images)[image, target] - bias[target]).item() for image, target in PAIRS]
    np.testing.assert_allclose(found.sum((1, 2)), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("epsilon", [1e-6, 1e-9, 0])
@pytest.mark.parametrize("relu", [True, False])
def test_grad_cam_plus_plus_equals_the_published_formula(relu, epsilon):
    classifier, images = deep(), normalised(3, 35, 49)
    settings = [f"relu={relu}", *([] if epsilon == 1e-6 else [f"epsilon={epsilon}"])]
    found = methods.create("grad-cam++", settings)(classifier, ask(images, PAIRS)).numpy()
    for (image, target), row in zip(PAIRS, found, strict=True):
        maps, gradient = oracle.deep_gradient(state_of(classifier), images[image].double().numpy(), target)
        expected = np.zeros(maps.shape[1:])
        for features, slope in zip(maps, gradient, strict=True):
            weight = 0.0
            for g in slope[slope > 0]:
                weight += g * g**2 / (2 * g**2 + features.sum() * g**3 + epsilon)
            expected += weight * features
        np.testing.assert_allclose(row, np.maximum(expected, 0) if relu else expected, atol=1e-6, rtol=1e-4)


def test_without_epsilon_the_weights_of_grad_cam_plus_plus_do_not_depend_on_the_resolution():
    classifier, query = pooled().double(), ask(normalised(3).double(), PAIRS)
    with capture(classifier, [classifier.config.layer]) as found:
        classifier(query.images)
    features = found[classifier.config.layer][query.image]
    head = classifier.head.weight.detach()[query.target].relu()
    weights = head / (2 + head * features.mean((2, 3)))
    expected = torch.einsum("pc,pchw->phw", weights, features)
    maps = methods.create("grad-cam++", ["relu=false", "epsilon=0"])(classifier, query)
    torch.testing.assert_close(maps, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("epsilon", ["-1", "inf", "nan"])
def test_an_epsilon_that_is_no_fraction_is_refused(epsilon):
    with pytest.raises(UsageError, match="--set epsilon"):
        methods.create("grad-cam++", [f"epsilon={epsilon}"])


@pytest.mark.parametrize("value", [-2.000001, -2.0, -1.5, -3.0])
def test_a_vanishing_denominator_of_grad_cam_plus_plus_is_kept_from_zero(value):
    parts = OrderedDict(
        features=nn.Conv2d(3, 1, 1), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(1, 1)
    )
    classifier = wrap(nn.Sequential(parts), ["cat"]).double()
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.zero_()
        classifier.net.features.bias.fill_(value)
        classifier.net.fc.weight.fill_(1)  # so g = 1, S = value and the denominator is 2 + value + 1e-6
    query = ask(torch.zeros(1, 3, 1, 1, dtype=torch.float64), [(0, 0)])
    below = 2 + value + 1e-6
    expected = value / (below if abs(below) > 1e-6 else 1e-6)
    found = methods.create("grad-cam++", ["relu=false"])(classifier, query)
    np.testing.assert_allclose(found.item(), expected, rtol=1e-6)


def test_twenty_classes_cost_a_fifth_of_a_forward_pass_more():
    images = normalised(2, 96, 96)
    classifier = pooled([f"class{k}" for k in range(20)])
    with FlopCounterMode(display=False) as forward:
        classifier(images)
    for name in ("grad-cam", "grad-cam++", "hires-cam", "layer-cam"):
        with FlopCounterMode(display=False) as counted:
            methods.create(name)(classifier, ask(images, [(i, k) for k in range(20) for i in range(2)]))
        assert counted.get_total_flops() <= 1.2 * forward.get_total_flops()


@pytest.mark.parametrize("name", ["agf_vgg", "agf_vgg_bn", *RESNET_NAMES])
def test_grad_cam_equals_the_published_baseline(shared, record_property, name):
    classifier, arrays = fixture(shared, name)
    images, targets = torch.from_numpy(arrays["input"]).double(), arrays["targets"].tolist()
    maps = methods.create("grad-cam")(classifier, ask(images, [(i, k) for k in targets for i in range(2)]))
    maps = maps / maps.amax((1, 2), keepdim=True)  # the published code scales before it resizes
    found = resize_maps(maps, images.shape[2:]).reshape(arrays["map/gradcam_baseline"].shape).numpy()
    error = np.abs(found - arrays["map/gradcam_baseline"]).max()
    record_property("error", float(error))
    assert error < 1e-12


@pytest.mark.parametrize("name", ["grad-cam", "layer-cam"])
def test_a_layer_before_an_in_place_operation_keeps_its_own_output(name):
    classifier, images = pooled(), normalised(1)
    found = methods.create(name, ["relu=false"])(classifier, ask(images, [(0, 1)], layer="features.0"))
    net = classifier.net
    values = net.features[0](images).detach().requires_grad_()
    hidden = torch.relu(net.features[2](torch.relu(values)))
    (gradient,) = torch.autograd.grad(net.fc(hidden.mean((2, 3)))[0, 1], values)
    weight = gradient.mean((2, 3), keepdim=True) if name == "grad-cam" else gradient.relu()
    torch.testing.assert_close(found, (weight * values.detach()).sum(1), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    "name", ["cam", "grad-cam", "grad-cam++", "hires-cam", "layer-cam", "full-grad", "input-x-gradient"]
)
def test_twenty_classes_take_one_forward_pass(name):
    classifier = pooled([f"class{k}" for k in range(20)])
    query = ask(normalised(2), [(i, k) for k in range(20) for i in range(2)])
    with Forwards(classifier) as whole, Forwards(classifier.net.features[0]) as first:
        methods.create(name)(classifier, query)
    assert (whole.count, first.count) == (1, 1)


def test_nothing_below_the_target_layer_is_differentiated(monkeypatch):
    classifier, asked = pooled(), []
    real = torch.autograd.grad

    def spy(outputs, inputs, *args, **kwargs):
        asked.append(inputs)
        return real(outputs, inputs, *args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", spy)
    methods.create("grad-cam")(classifier, ask(normalised(1), [(0, 0)]))
    assert [[leaf.grad_fn for leaf in leaves] for leaves in asked] == [[None]]


def test_a_layer_without_places_is_refused_with_its_shape():
    classifier = deep()
    reason = methods.create("grad-cam").serves(classifier, "fc1")
    assert "fc1 (Linear)" in reason
    assert "(1, 7)" in reason
    assert "input-x-gradient" in reason
    with pytest.raises(UsageError, match="fc1"):
        methods.create("layer-cam")(classifier, ask(normalised(1), [(0, 0)], layer="fc1"))


def test_a_layer_that_is_never_run_is_refused():
    classifier = pooled()
    classifier.net.pool.spare = torch.nn.ReLU()
    for name in ("cam", "grad-cam"):
        with pytest.raises(UsageError, match=r"pool\.spare"):
            methods.create(name)(classifier, ask(normalised(1), [(0, 0)], layer="pool.spare"))
