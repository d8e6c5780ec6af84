"""Integrated gradients, GradientSHAP and SmoothGrad against Captum, the published code's maps and their own laws."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from captum.attr import GradientShap, IntegratedGradients, NoiseTunnel, Saliency
from scipy import ndimage
from torch import nn

from tests.heatmaps.fixture_nets import fixture
from tests.heatmaps.nets import CLASSES, Forwards, ask, normalised, pooled, smooth, wrap
from xseg.classifier import Classifier, ClassifierConfig
from xseg.device import torchvision_ready
from xseg.errors import UsageError
from xseg.heatmaps import noise_gradient, path_gradient
from xseg.heatmaps.baselines import baseline_images, gaussian_blur
from xseg.heatmaps.layers import evaluating
from xseg.heatmaps.noise_gradient import SmoothGrad, noise_deviation, noisy_gradients
from xseg.heatmaps.path_gradient import PathDraw, expected_gradients, quadrature
from xseg.heatmaps.sampling import normal

NETS = ["agf_vgg", "agf_vgg_bn", "agf_resnet_basic", "agf_resnet_bottleneck", "efficientnet"]
FIXTURES = NETS[:4]
ALL = [
    path_gradient.IntegratedGradients(steps=3),
    path_gradient.IntegratedGradients(steps=2, rule="trapezoid", baseline="blur", chunk=1),
    path_gradient.IntegratedGradients(steps=3, variant="agf"),
    path_gradient.GradientShap(samples=3, noise=0.1, baselines="black,mean,blur"),
    SmoothGrad(samples=3),
    SmoothGrad(samples=3, variant="agf", noise=0.5, absolute=False),
    SmoothGrad(samples=3, squared=True),
]


def subject(shared, name):
    """A classifier in float64, two images and questions about them."""
    if name != "efficientnet":
        classifier, arrays = fixture(shared, name)
        images = torch.from_numpy(arrays["input"]).double()
    else:
        torchvision_ready()
        import timm

        torch.manual_seed(0)
        net = timm.create_model("test_efficientnet", num_classes=5)
        classifier = Classifier(ClassifierConfig("timm:test_efficientnet", tuple("abcde")), net).double().eval()
        images = normalised(2, 64, 48).double()
    return classifier, ask(images, [(0, 1), (1, 4), (0, 3)])


def relative(found, expected):
    expected = torch.as_tensor(expected)
    return ((found - expected).abs().max() / expected.abs().max()).item()


def captum_maps(attribute, query, **kwargs):
    maps = [
        attribute(query.images[i : i + 1], target=k, **kwargs).sum(1)
        for i, k in zip(query.image.tolist(), query.target.tolist(), strict=True)
    ]
    return torch.cat(maps).detach()


def logits_of(classifier, query, images):
    with torch.no_grad(), evaluating(classifier):
        return classifier(images.expand_as(query.images))[query.image, query.target]


@pytest.mark.parametrize("name", NETS)
def test_integrated_gradients_equal_captums(shared, name, record_property):
    classifier, query = subject(shared, name)
    black = classifier.normalise(torch.zeros_like(query.images[:1]))
    expected = captum_maps(IntegratedGradients(classifier).attribute, query, baselines=black, n_steps=11)
    error = relative(path_gradient.IntegratedGradients(steps=11)(classifier, query), expected)
    record_property("error", float(error))
    assert error < 1e-6  # Captum's step sizes are single precision


def test_the_default_is_captums_default():
    classifier, query = smooth().double(), ask(normalised(1, 16, 12).double(), [(0, 1)])
    expected = captum_maps(IntegratedGradients(classifier).attribute, query)  # 50 steps, Gauss-Legendre, zero
    assert relative(path_gradient.IntegratedGradients(baseline="zero")(classifier, query), expected) < 1e-6


@pytest.mark.parametrize("name", FIXTURES)
def test_integrated_gradients_equal_the_published_codes(shared, name, record_property):
    classifier, arrays = fixture(shared, name)
    images = torch.from_numpy(arrays["input"]).double()
    method = path_gradient.IntegratedGradients(variant="agf")
    maps = method(classifier, ask(images, [(i, int(k)) for k in arrays["targets"] for i in range(2)]))
    error = relative(maps.view(2, 2, 1, *images.shape[2:]), arrays["map/intgrad"])
    record_property("error", float(error))
    assert error < 1e-2  # the first point is the zero image, where rounding decides between equal maxima
    assert not method.is_signed


@pytest.mark.parametrize("baseline", ["black", "white", "zero", "mean", "blur"])
@pytest.mark.parametrize("rule", ["gauss-legendre", "trapezoid", "midpoint"])
def test_integrated_gradients_are_complete(baseline, rule):
    classifier = smooth().double()
    query = ask(normalised(2, 20, 28).double(), [(0, 1), (1, 2), (1, 0)])
    steps = 12 if rule == "gauss-legendre" else 120
    maps = path_gradient.IntegratedGradients(steps=steps, rule=rule, baseline=baseline, chunk=7)(classifier, query)
    start = baseline_images(classifier, query.images, baseline)
    expected = logits_of(classifier, query, query.images) - logits_of(classifier, query, start)
    torch.testing.assert_close(maps.sum((1, 2)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["agf_vgg_bn", "agf_resnet_bottleneck", "efficientnet"])
def test_integrated_gradients_are_complete_on_networks_with_kinks(shared, name):
    classifier, query = subject(shared, name)
    maps = path_gradient.IntegratedGradients(steps=120, rule="midpoint", chunk=12)(classifier, query)
    black = classifier.normalise(torch.zeros_like(query.images))
    expected = logits_of(classifier, query, query.images) - logits_of(classifier, query, black)
    torch.testing.assert_close(maps.sum((1, 2)), expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("rule", ["gauss-legendre", "trapezoid", "midpoint"])
def test_quadrature_integrates(rule):
    places, weights = np.array(quadrature(rule, 6)).T
    assert len(places) == 6
    np.testing.assert_allclose(weights.sum(), 1)
    np.testing.assert_allclose((weights * places).sum(), 0.5)
    np.testing.assert_allclose((weights * places**3).sum(), 0.25, atol=1e-12 if rule == "gauss-legendre" else 0.02)
    with pytest.raises(ValueError, match="simpson"):
        quadrature("simpson", 3)


def test_gradient_shap_equals_captums_with_its_draws(shared, monkeypatch, record_property):
    drawn = {"normal": [], "uniform": [], "choice": []}

    def record(module, name):
        draw = getattr(module, name)

        def recording(*args):
            drawn[name].append(draw(*args))
            return drawn[name][-1]

        monkeypatch.setattr(module, name, recording)

    errors = []
    for name in NETS:
        classifier, query = subject(shared, name)
        query = replace(query, image=query.image[:2], target=query.target[:2])
        options = torch.randn(3, *query.images.shape[1:], dtype=torch.float64)
        with monkeypatch.context():
            for module, function in ((torch, "normal"), (np.random, "uniform"), (np.random, "choice")):
                record(module, function)
            attribute = GradientShap(classifier).attribute
            expected = attribute(query.images, options, n_samples=6, stdevs=0.2, target=query.target).sum(1).detach()
            noise, place, choice = (drawn[key][-1] for key in ("normal", "uniform", "choice"))
            monkeypatch.undo()
        noise, place = noise.double().view(2, 6, *query.images.shape[1:]), torch.from_numpy(place).view(2, 6)
        choice = torch.as_tensor(choice).view(2, 6)
        draw = [PathDraw(place[:, s].view(-1, 1, 1, 1), options[choice[:, s]], noise[:, s]) for s in range(6)]
        errors.append(relative(expected_gradients(classifier, query, draw.__getitem__, 6, 4).sum(1), expected))
    record_property("error", float(max(errors)))
    assert max(errors) < 1e-9


def linear():
    return wrap(nn.Sequential(nn.Flatten(), nn.Linear(3 * 5 * 6, len(CLASSES)))).double()


def test_on_a_linear_network_every_draw_is_the_whole_answer():
    classifier, query = linear(), ask(normalised(2, 5, 6).double(), [(0, 1), (1, 2)])
    weight = classifier.net[1].weight.detach().view(-1, 3, 5, 6)[query.target]
    black = classifier.normalise(torch.zeros_like(query.images))
    expected = ((query.images - black) * weight).sum(1)
    for method in (
        path_gradient.GradientShap(samples=3, baselines="black"),
        path_gradient.IntegratedGradients(steps=2),
    ):
        torch.testing.assert_close(method(classifier, query), expected)
    torch.testing.assert_close(SmoothGrad(samples=2)(classifier, query), weight.abs().sum(1))
    torch.testing.assert_close(SmoothGrad(samples=2, squared=True)(classifier, query), weight.square().sum(1))
    torch.testing.assert_close(SmoothGrad(samples=2, absolute=False)(classifier, query), weight.sum(1))


def test_gradient_shap_draws_places_and_baselines_evenly():
    classifier, query = linear(), ask(normalised(2, 5, 6).double(), [(0, 1), (1, 1)])
    ends = [baseline_images(classifier, query.images, name) for name in ("white", "black")]
    white, black = (logits_of(classifier, query, end) for end in ends)
    share = path_gradient.GradientShap(samples=400)(classifier, query).sum((1, 2))
    share = (logits_of(classifier, query, query.images) - share - black) / (white - black)
    assert ((share - 0.5).abs() < 0.1).all()  # four standard errors
    assert share[0] != share[1]
    curved = smooth().double()
    query = ask(normalised(1, 12, 12).double(), [(0, 1)])
    expected = path_gradient.IntegratedGradients()(curved, query)
    assert relative(path_gradient.GradientShap(samples=400, baselines="black")(curved, query), expected) < 0.1


@pytest.mark.parametrize("name", FIXTURES)
def test_smooth_gradients_equal_the_published_codes_with_its_noise(shared, name, record_property):
    classifier, arrays = fixture(shared, name)
    images = torch.from_numpy(arrays["input"]).double()
    query = ask(images, [(i, int(k)) for k in arrays["targets"] for i in range(2)])
    deviation = noise_deviation(images, "agf", 4.0)
    np.testing.assert_allclose(deviation.flatten(), arrays["smoothgrad/std"], rtol=1e-6)
    noise = torch.from_numpy(arrays["smoothgrad/noise"]).double()
    maps = noisy_gradients(classifier, query, lambda i: deviation * noise[:, i], 4, 3).abs().sum(1)
    error = relative(maps.view(2, 2, 1, *images.shape[2:]), arrays["map/smoothgrad"])
    record_property("error", float(error))
    assert error < 1e-6


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("squared", [False, True])
def test_smooth_gradients_equal_captums_with_our_noise(shared, monkeypatch, name, squared):
    classifier, query = subject(shared, name)
    query = replace(query, image=query.image[:2], target=query.target[:2])
    method = SmoothGrad(samples=4, squared=squared)
    noise = torch.stack([normal(query, "smooth-grad", i) for i in range(4)], 1)
    noise = noise * noise_deviation(query.images, "paper", 0.15)[:, None]
    monkeypatch.setattr(torch, "normal", lambda *_: noise.flatten(0, 1))
    kind = "smoothgrad_sq" if squared else "smoothgrad"
    gradient = NoiseTunnel(Saliency(classifier)).attribute(
        query.images, kind, nt_samples=4, target=query.target, abs=False
    )
    assert relative(method(classifier, query), gradient.abs().sum(1)) < 1e-9


def test_the_variants_of_smooth_grad():
    images = torch.zeros(3, 3, 4, 4, dtype=torch.float64)
    images[0, 1, 2, 3], images[1, 0, 0, 0] = 4.0, -2.0
    assert noise_deviation(images, "paper", 0.15).flatten().tolist() == [0.6, 0.3, 0.0]
    assert noise_deviation(images, "agf", 4.0).flatten().tolist() == [1.0, 4.0, 0.0]
    classifier, query = smooth(), ask(normalised(1, 8, 8), [(0, 0)])
    for variant, samples in (("paper", 50), ("official", 100), ("agf", 50)):
        maps = SmoothGrad(variant=variant)(classifier, query)
        assert torch.equal(maps, SmoothGrad(variant=variant, samples=samples)(classifier, query))
    assert not SmoothGrad().is_signed
    assert SmoothGrad(absolute=False).is_signed


@pytest.mark.parametrize("method", ALL, ids=repr)
def test_maps_depend_on_neither_batch_nor_chunk(method):
    classifier, images = pooled().double(), normalised(3, 17, 22).double()
    pairs = [(2, 0), (0, 1), (2, 3), (0, 1)]
    together = method(classifier, ask(images, pairs, seed=3))
    torch.testing.assert_close(replace(method, chunk=2)(classifier, ask(images, pairs, seed=3)), together)
    for row, (image, target) in zip(together, pairs, strict=True):
        query = ask(images[image : image + 1], [(0, target)], ids=(f"image{image}",), seed=3)
        torch.testing.assert_close(method(classifier, query)[0], row)


@pytest.mark.parametrize("method", [ALL[3], ALL[4]], ids=repr)
def test_draws_follow_seed_and_image(method):
    classifier, images = pooled(), normalised(1).expand(2, -1, -1, -1).contiguous()
    first = method(classifier, ask(images, [(0, 1), (1, 1)], seed=3))
    assert torch.equal(first, method(classifier, ask(images, [(0, 1), (1, 1)], seed=3)))
    assert not torch.allclose(first, method(classifier, ask(images, [(0, 1), (1, 1)], seed=4)))
    assert not torch.allclose(first[0], first[1])


@pytest.mark.parametrize("method", ALL, ids=repr)
def test_classes_share_the_forward_passes(method):
    classifier = pooled()
    with Forwards(classifier.net) as forwards:
        replace(method, chunk=1)(classifier, ask(normalised(2), [(0, 1), (1, 2), (0, 3), (0, 0)]))
    points = getattr(method, "samples", None) or method.steps + (method.variant == "agf")
    assert forwards.count == points


@pytest.mark.parametrize("method", ALL, ids=repr)
def test_maps_are_differentiable_in_images_and_parameters(method):
    classifier, images = smooth().double(), normalised(1, 6, 5, seed=2).double()
    images.requires_grad_()
    ids, weight = ("a",), classifier.net.features[0].weight

    def maps(pixels, _):
        return method(classifier, ask(pixels, [(0, 1), (0, 2)], ids=ids, create_graph=True))

    assert torch.autograd.gradcheck(maps, (images, weight), fast_mode=True)
    plain = method(classifier, ask(images, [(0, 1), (0, 2)], ids=ids))
    assert not plain.requires_grad
    torch.testing.assert_close(plain, maps(images, weight).detach())
    alone = method(classifier, ask(images.detach(), [(0, 1)], ids=ids, create_graph=True))
    assert torch.autograd.grad(alone.sum(), weight)[0].abs().sum() > 0


def test_baselines():
    classifier, images = pooled(), normalised(2, 40, 33).double()
    mean, std = (torch.tensor(getattr(classifier.config, key), dtype=torch.float64) for key in ("mean", "std"))
    for name, level in (("black", 0), ("white", 1)):
        found = baseline_images(classifier, images, name)
        torch.testing.assert_close(found, ((level - mean) / std).view(1, 3, 1, 1).expand_as(images))
    assert not baseline_images(classifier, images, "zero").any()
    torch.testing.assert_close(baseline_images(classifier, images, "mean")[1, 2, 3, 4], images[1, 2].mean())
    blurred = ndimage.gaussian_filter(images.numpy(), (0, 0, 33 * 0.05, 33 * 0.05), mode="mirror", truncate=3)
    np.testing.assert_allclose(baseline_images(classifier, images, "blur"), blurred, atol=1e-12)
    for name in ("black", "white", "zero", "mean", "blur"):
        assert baseline_images(classifier, images.half(), name).dtype == torch.float16
    with pytest.raises(ValueError, match="grey"):
        baseline_images(classifier, images, "grey")
    assert torch.equal(gaussian_blur(torch.ones(1, 1, 1, 1), 0.05), torch.ones(1, 1, 1, 1))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("IntegratedGradients", {"steps": 0}),
        ("IntegratedGradients", {"chunk": 0}),
        ("IntegratedGradients", {"steps": 1, "rule": "trapezoid"}),
        ("IntegratedGradients", {"variant": "agf", "rule": "midpoint"}),
        ("IntegratedGradients", {"variant": "agf", "baseline": "black"}),
        ("GradientShap", {"samples": 0}),
        ("GradientShap", {"noise": -1.0}),
        ("GradientShap", {"baselines": "black,grey"}),
        ("SmoothGrad", {"samples": 0}),
        ("SmoothGrad", {"noise": float("nan")}),
        ("SmoothGrad", {"squared": True, "absolute": False}),
    ],
)
def test_parameters_without_sense_are_refused(name, wrong):
    with pytest.raises(UsageError, match=f"--set {list(wrong)[-1]}|--set steps"):
        getattr(noise_gradient if name == "SmoothGrad" else path_gradient, name)(**wrong)
