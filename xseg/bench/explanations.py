"""Cases about explanations: costs in the network's own passes and ratios to peers, on networks with random weights."""

import importlib.util
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import torch
from torch import Tensor

from xseg.bench.measure import Case
from xseg.classifier.model import Classifier, create
from xseg.heatmaps import Query, methods

SIDE = 224
NETWORKS = ("vgg19", "resnet50")
TRANSFORMER = "timm:vit_base_patch16_224"
_CLOSE = 1e-3  # of a map's largest value: float32 against float64 through fifty layers


def explanation_cases() -> Iterator[Case]:
    """Costs against the network's own passes, then ratios to zennit and captum where they are installed."""
    for classes in (1, 4):
        yield _cost(TRANSFORMER, "attention-gradient-rollout", (), classes, forward_backward(TRANSFORMER), "f+b")
    for method, classes in (("raw-attention", 1), ("rollout", 1), ("attention-grad-cam", 4)):
        yield _cost(TRANSFORMER, method, (), classes, forward(TRANSFORMER), "f")
    for network in NETWORKS:
        yield _cost(network, "lrp", ("composite=z-plus",), 1, forward_backward(network), "f+b")
        yield _cost(network, "lrp", ("composite=epsilon-plus",), 4, forward_backward(network), "f+b")
        yield _cost(network, "agf", ("start=logit",), 1, forward_backward(network), "f+b")
        yield _cost(network, "grad-cam", (), 20, forward(network), "f")
        yield path_case(network)
        if importlib.util.find_spec("zennit"):
            yield zennit_case(network, 1)
            yield zennit_case(network, 4)
        if importlib.util.find_spec("captum"):
            yield captum_case(network)
    yield transformer_case("transformer-attribution", 1)
    yield transformer_case("transformer-attribution", 4)
    yield transformer_case("partial-lrp", 1)
    yield transformer_case("vit-lrp", 1)


def _cost(
    network: str, method: str, settings: tuple[str, ...], classes: int, passes: Callable[[], Tensor], unit: str
) -> Case:
    """The cost of a method in the network's own passes; the gate is the same in float64."""
    plural = "class" if classes == 1 else "classes"
    return Case(
        f"{method} {' '.join(settings)} {network} {SIDE}, {classes} {plural}, in units of {unit}",
        passes,
        lambda: _explain(random_network(network), method, settings, classes),
        _CLOSE,
        expected=lambda: _explain(random_network(network, double=True), method, settings, classes),
        unit=unit,
    )


def transformer_case(method: str, classes: int) -> Case:
    """The cost of relevance through a transformer; the gate is the same in other company, of one class more.

    Float64 is no gate: where the terms of a residual sum cancel, what each of them gets depends on the last bits of
    the forward pass, and a network of this size has such places.
    """
    network = TRANSFORMER
    return Case(
        f"{method} {network} {SIDE}, {classes} {'class' if classes == 1 else 'classes'}, in units of f+b",
        forward_backward(network),
        lambda: _explain(random_network(network), method, (), classes),
        _CLOSE,
        expected=lambda: _explain(random_network(network), method, (), classes + 1)[:classes],
        unit="f+b",
    )


def zennit_case(network: str, classes: int) -> Case:
    """LRP EpsilonPlus of several classes, against zennit, which is given each class as an image of its own."""
    from xseg.device import torchvision_ready

    torchvision_ready()
    from zennit.attribution import Gradient
    from zennit.composites import EpsilonPlus
    from zennit.torchvision import ResNetCanonizer, VGGCanonizer

    def peer() -> Tensor:
        classifier = random_network(network)
        composite = EpsilonPlus(canonizers=[VGGCanonizer() if network.startswith("vgg") else ResNetCanonizer()])
        images = _images(classifier).repeat(classes, 1, 1, 1)
        with Gradient(classifier.net, composite) as attributor:
            start = torch.eye(len(classifier.config.classes))[_targets(classes)]
            return scaled(attributor(images, start)[1].sum(1))

    return Case(
        f"lrp epsilon-plus {network} {SIDE}, {classes} {'class' if classes == 1 else 'classes'}, against zennit",
        peer,
        lambda: _explain(random_network(network), "lrp", ("composite=epsilon-plus", "start=one"), classes),
        _CLOSE,
    )


def captum_case(network: str, steps: int = 4) -> Case:
    """Integrated gradients, against captum."""
    from captum.attr import IntegratedGradients

    def peer() -> Tensor:
        classifier = random_network(network)
        images = _images(classifier)
        attributed = IntegratedGradients(classifier).attribute(
            images, torch.zeros_like(images), target=int(_targets(1)[0]), n_steps=steps, internal_batch_size=1
        )
        return scaled(attributed.sum(1))

    settings = (f"steps={steps}", "baseline=zero")
    return Case(
        f"integrated-gradients steps={steps} {network} {SIDE}, against captum",
        peer,
        lambda: _explain(random_network(network), "integrated-gradients", settings, 1),
        _CLOSE,
    )


def path_case(network: str, steps: int = 4) -> Case:
    """Integrated gradients, in units of the passes they are made of, which the reference runs one by one."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)

    def passes() -> Tensor:
        classifier = random_network(network)
        images = _images(classifier)
        total = torch.zeros_like(images)
        for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
            leaf = (images * float(node)).requires_grad_()
            total += float(weight) * torch.autograd.grad(classifier(leaf)[0, int(_targets(1)[0])], leaf)[0]
        return scaled((images * total).sum(1))

    return Case(
        f"integrated-gradients steps={steps} {network} {SIDE}, in units of {steps} (f+b)",
        passes,
        lambda: _explain(random_network(network), "integrated-gradients", (f"steps={steps}", "baseline=zero"), 1),
        _CLOSE,
        unit=f"{steps} (f+b)",
    )


def forward(network: str) -> Callable[[], Tensor]:
    """One forward pass without gradients."""

    def run() -> Tensor:
        classifier = random_network(network)
        with torch.no_grad():
            return classifier(_images(classifier))

    return run


def forward_backward(network: str) -> Callable[[], Tensor]:
    """A forward and a backward pass to the image with frozen parameters."""

    def run() -> Tensor:
        classifier = random_network(network)
        leaf = _images(classifier).requires_grad_()
        return torch.autograd.grad(classifier(leaf)[0, int(_targets(1)[0])], leaf)[0]

    return run


@cache
def random_network(name: str, double: bool = False) -> Classifier:
    """A network of torchvision, or of timm after "timm:", with random weights, frozen; in float64 if `double`."""
    classes = [str(number) for number in range(1000)]
    classifier = create(name if ":" in name else f"torchvision:{name}", classes, weights="none").eval()
    if double:
        return classifier.double()
    for parameter in classifier.parameters():
        parameter.requires_grad_(False)
    return classifier


def _images(classifier: Classifier) -> Tensor:
    noise = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return noise.to(next(classifier.parameters()).dtype)


def _targets(classes: int) -> Tensor:
    return torch.arange(classes) * 7


def _explain(classifier: Classifier, method: str, settings: tuple[str, ...], classes: int) -> Tensor:
    query = Query(_images(classifier), torch.zeros(classes, dtype=torch.long), _targets(classes), ("noise",))
    return scaled(methods.create(method, settings)(classifier, query))


def scaled(maps: Tensor) -> Tensor:
    """Each map over its largest absolute value, so that one tolerance fits all."""
    size = maps.abs().amax((1, 2), keepdim=True)
    return maps / torch.where(size == 0, 1, size)
