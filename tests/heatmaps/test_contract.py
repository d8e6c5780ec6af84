"""What every registered method promises, tried on all of them."""

import copy
import gc
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tests.heatmaps.nets import ask, network_for, normalised, parts, picture, smooth
from xseg.errors import UsageError
from xseg.heatmaps import Method, explain_images, methods, require_served

NAMES = [name for name, _ in methods]
MODEL_NAMES = [name for name, cls in methods if cls.needs_model]
DIFFERENTIABLE = [name for name, cls in methods if cls.differentiable]
PAIRS = [(0, 1), (1, 2), (0, 3)]

# Settings under which the expensive methods keep every promise that is tested here.
CHEAP = {
    "gradient-shap": ["samples=2"],
    "integrated-gradients": ["steps=3"],
    "meaningful-perturbation": ["iterations=3"],
    "occlusion": ["window=12", "stride=8"],
    "rise": ["masks=8"],
    "smooth-grad": ["samples=2"],
}


VARIANTS = [
    "agf variant=paper",
    "agf start=logit",
    "agf gradcam=true",
    "clrp others=logits",
    "full-grad variant=agf",
    "integrated-gradients variant=agf steps=3",
    "lrp composite=epsilon-alpha2-beta1-flat",
    "lrp composite=epsilon-gamma-box",
    "lrp composite=published start=one",
    "lrp batch_norm=identity",
    "occlusion score=probability window=12",
    "partial-lrp gradient=true",
    "partial-lrp variant=ours",
    "rap pointwise=full",
    "rap start=one",
    "rise masks=8 score=logit",
    "rollout start_layer=0 discard_ratio=0.5",
    "rollout variant=vit-explain heads=max",
    "score-cam variant=pytorch-grad-cam",
    "smooth-grad variant=agf samples=2",
    "smooth-grad squared=true samples=2",
    "transformer-attribution gradient=false",
    "transformer-attribution precision=double",
    "transformer-attribution start_layer=0 variant=lrp",
    "vit-lrp variant=ours",
]


def create(name):
    """A method by name, cheap, or with the settings that follow the name."""
    name, *settings = name.split()
    return methods.create(name, settings or CHEAP.get(name, ()))


def network(name, classes=("cat", "dog", "horse", "boat"), **config):
    """A network that the method serves."""
    return network_for(create(name), classes, **config)


def hooks(classifier):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in classifier.modules() for kind in kinds)


class FailingError(Exception):
    pass


def test_the_methods_are_there():
    assert {"cam", "grad-cam", "layer-cam", "input-x-gradient", "random", "centre-prior"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_says_what_it_is(name):
    cls = methods.get(name)
    assert issubclass(cls, Method)
    assert all(isinstance(getattr(cls, flag), bool) for flag in ("signed", "class_specific", "needs_model"))
    assert cls.summary
    assert "\n" not in cls.summary
    assert cls.source
    assert methods.create(name).is_signed == cls.signed


@pytest.mark.parametrize("name", NAMES)
def test_maps_are_finite_float32_one_per_question(name):
    require_served(create(name), network(name))
    maps = create(name)(network(name), ask(normalised(2), PAIRS))
    assert maps.dtype == torch.float32
    assert maps.ndim == 3
    assert len(maps) == len(PAIRS)
    assert not maps.requires_grad
    assert torch.isfinite(maps).all()
    assert maps.abs().sum() > 0
    if not create(name).is_signed:
        assert maps.min() >= 0


@pytest.mark.parametrize("name", NAMES)
def test_maps_differ_between_classes_exactly_where_class_specific(name):
    maps = create(name)(network(name), ask(normalised(2), PAIRS))
    assert torch.equal(maps[0], maps[2]) is not methods.get(name).class_specific


def spoil(classifier, images, how):
    """Make the network or the pictures as unhelpful as they can be."""
    fc, conv, *_ = parts(classifier)
    with torch.no_grad():
        if how == "no activation":
            conv.weight.zero_()
            conv.bias.fill_(-1)
        elif how == "constant activations":
            conv.weight.zero_()
            conv.bias.fill_(1)
        elif how == "no head":
            fc.weight.zero_()
            fc.bias.zero_()
        elif how == "equal logits":
            fc.weight.copy_(fc.weight[:1].clone().expand_as(fc.weight))
            fc.bias.fill_(0.3)
        elif how == "negative logits":
            fc.weight.copy_(-fc.weight.abs())
            fc.bias.fill_(-30)
        elif how == "saturated":
            fc.bias.copy_(torch.tensor([200.0, -200.0, 0.0, 200.0]))
        elif how == "blank image":
            images.zero_()
        else:
            images.mul_(1e4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize(
    "how",
    [
        "no activation",
        "constant activations",
        "no head",
        "equal logits",
        "negative logits",
        "saturated",
        "blank image",
        "huge image",
    ],
)
def test_maps_are_finite_on_adversarial_networks_and_pictures(name, activation, how):
    classifier, images = network(name, activation=activation), normalised(2)
    spoil(classifier, images, how)
    if how == "negative logits":
        assert classifier(images).max() < 0
    maps = create(name)(classifier, ask(images, PAIRS))
    assert torch.isfinite(maps).all()
    if not create(name).is_signed:
        assert maps.min() >= 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_one_class_is_enough(name, activation):
    classifier = network(name, ("cat",), activation=activation)
    require_served(create(name), classifier)
    maps = create(name)(classifier, ask(normalised(2), [(0, 0), (1, 0)]))
    assert len(maps) == 2
    assert torch.isfinite(maps).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [True, False])
def test_the_classifier_is_left_as_it_was(name, training):
    classifier = network(name).train(training)
    head, _, drop, _ = parts(classifier)
    drop.train(not training)
    head.bias.requires_grad_(False)
    before = copy.deepcopy(classifier.state_dict())
    query = ask(normalised(2), PAIRS)
    method = create(name)
    images = query.images.clone()
    evaluated = method(classifier, query)
    explain_images(classifier, method, [picture()], [(1,)], ["a"], flip=True)
    method.serves(classifier)
    assert all(torch.equal(value, before[key]) for key, value in classifier.state_dict().items())
    assert classifier.training == head.training == training
    assert drop.training != training
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert [p is head.bias for p in classifier.parameters() if not p.requires_grad] == [True]
    assert torch.equal(query.images, images)
    assert query.images.grad is None
    assert hooks(classifier) == 0
    torch.testing.assert_close(evaluated, method(classifier.eval(), query))  # dropout was off


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_no_tensor_waits_for_python_to_look_for_circles(name, graph):
    """A graph that refers to itself stays in memory for hundreds of images more."""
    method, classifier = create(name), network(name)
    if graph and not method.differentiable:
        pytest.skip("its maps cannot be differentiated")
    query = ask(normalised(2), PAIRS, create_graph=graph)
    method(classifier, query)  # what is done but once
    gc.collect()
    gc.disable()
    try:
        maps = method(classifier, query)
        if maps.requires_grad:
            maps.sum().backward()
        del maps
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        held = [tuple(thing.shape) for thing in gc.garbage if isinstance(thing, torch.Tensor)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not held


@pytest.mark.parametrize("name", NAMES)
def test_maps_are_the_same_again_under_a_seed(name):
    query = ask(normalised(2), PAIRS, seed=5)
    first = create(name)(network(name), query)
    torch.rand(3)
    assert torch.equal(first, create(name)(network(name), query))


@pytest.mark.parametrize("name", NAMES)
def test_the_callers_gradient_mode_does_not_matter(name):
    query = ask(normalised(2), PAIRS)
    expected = create(name)(network(name), query)
    with torch.no_grad():
        assert torch.equal(expected, create(name)(network(name), query))
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", MODEL_NAMES)
@pytest.mark.parametrize("place", ["early", "head"])
def test_hooks_and_modes_are_put_back_after_an_exception(name, place):
    classifier = network(name).train()

    def fail(*_):
        raise FailingError

    head, _, _, path = parts(classifier)
    module = head if place == "head" else classifier.net.get_submodule(path)
    handle = module.register_forward_pre_hook(fail)
    with pytest.raises(FailingError):
        create(name)(classifier, ask(normalised(2), PAIRS))
    with pytest.raises(FailingError):
        explain_images(classifier, create(name), [picture()], [(1,)], ["a"])
    handle.remove()
    assert hooks(classifier) == 0
    assert classifier.training
    assert all(parameter.requires_grad for parameter in classifier.parameters())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", NAMES)
def test_questions_may_come_in_any_order_and_twice(name):
    classifier, images = network(name), normalised(3)
    pairs = [(2, 0), (0, 1), (2, 3), (0, 1), (1, 1), (2, 0)]
    together = create(name)(classifier, ask(images, pairs))
    for row, pair in zip(together, pairs, strict=True):
        alone = create(name)(classifier, ask(images, [pair]))[0]
        np.testing.assert_allclose(row, alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_other_images_of_the_batch_do_not_matter(name):
    classifier, images = network(name), normalised(3)
    pairs = [(0, 1), (1, 2), (0, 3), (2, 1)]
    together = create(name)(classifier, ask(images, pairs, seed=3))
    for row, (image, target) in zip(together, pairs, strict=True):
        query = ask(images[image : image + 1], [(0, target)], ids=(f"image{image}",), seed=3)
        np.testing.assert_allclose(row, create(name)(classifier, query)[0], atol=1e-5 * row.abs().max(), rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(24, 56), (57, 24), (33, 32)])
def test_rectangular_images_give_maps_that_cover_them(name, shape):
    query = ask(normalised(2, *shape), PAIRS)
    maps = create(name)(network(name), query)
    assert torch.isfinite(maps).all()
    if methods.get(name).needs_model:
        assert tuple(maps.shape[1:]) in {shape, tuple(-(-side // 4) for side in shape)}
        (found,) = explain_images(network(name), create(name), [picture(*shape)], [(1, 3)], ["a"])
        assert found.maps.shape == (2, *shape)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_maps_turn_with_the_picture_and_the_network(name):
    upright, turned = network(name).double(), network(name).double()
    with torch.no_grad():
        for module, other in zip(upright.modules(), turned.modules(), strict=True):
            if isinstance(module, nn.Conv2d):
                other.weight.copy_(module.weight.mT)
        if hasattr(turned.net, "pos_embed"):
            grid = upright.net.pos_embed[:, 1:].unflatten(1, (8, 8))
            turned.net.pos_embed[:, 1:] = grid.transpose(1, 2).flatten(1, 2)
    images = normalised(2, 24, 40).double()
    maps = create(name)(upright, ask(images, PAIRS))
    if not torch.equal(maps, create(name)(upright, ask(images, PAIRS, seed=1))):
        pytest.skip("its random draws do not turn with the picture")
    found = create(name)(turned, ask(images.mT.contiguous(), PAIRS)).mT
    exact = 1e-4 if hasattr(turned.net, "pos_embed") else 1e-6  # timm stretches these in single precision
    torch.testing.assert_close(found, maps, atol=exact * maps.abs().max().item(), rtol=0)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_double_precision_in_is_double_precision_out(name):
    method, query = create(name), ask(normalised(2), PAIRS)
    single = method(network(name), query)
    double = method(network(name).double(), ask(normalised(2).double(), PAIRS))
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(single.double(), double, atol=1e-3 * double.abs().max().item(), rtol=0)


@pytest.mark.parametrize("name", [*MODEL_NAMES, *VARIANTS])
def test_mixed_precision_gives_single_precision_maps_close_to_the_plain_ones(name):
    query = ask(normalised(2), PAIRS)
    plain = create(name)(network(name), query)
    with torch.autocast("cpu", torch.float16):
        found = create(name)(network(name), query)
    assert found.dtype == torch.float32
    for one, other in zip(found, plain, strict=True):
        assert np.corrcoef(one.flatten(), other.flatten())[0, 1] > 0.99


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_too_are_finite_and_answer_each_question_as_alone(name):
    query = ask(normalised(2), PAIRS)
    require_served(create(name), network(name))
    maps = create(name)(network(name), query)
    assert maps.dtype == torch.float32
    assert torch.isfinite(maps).all()
    assert maps.abs().sum() > 0
    assert create(name).is_signed or maps.min() >= 0
    # in double precision, since the paper's factorization without a ridge is ill-conditioned
    classifier, images = network(name).double(), query.images.double()
    maps = create(name)(classifier, replace(query, images=images))
    for number, (image, target) in enumerate(PAIRS):
        alone = replace(ask(images[image : image + 1], [(0, target)]), ids=query.ids[image : image + 1])
        (found,) = create(name)(classifier, alone)
        torch.testing.assert_close(found, maps[number], atol=1e-6 * maps[number].abs().max().item(), rtol=0)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_maps_are_functions_of_pictures_and_weights_with_the_right_gradients(name):
    method = create(name)
    classifier = (smooth() if method.serves(smooth()) is None else network(name)).double()
    before = [parameter.requires_grad for parameter in classifier.parameters()]
    images = normalised(2, 8, 12).double().requires_grad_()

    def maps(*_):
        return method(classifier, ask(images, [(0, 1), (1, 0), (0, 3)], create_graph=True))

    head, conv, *_ = parts(classifier)
    given = (images, head.weight, conv.weight)
    found = maps()
    assert found.requires_grad
    expected = method(classifier, ask(images.detach(), [(0, 1), (1, 0), (0, 3)]))
    torch.testing.assert_close(found.detach(), expected, atol=1e-12, rtol=1e-9)
    assert torch.autograd.gradcheck(maps, given, fast_mode=True)
    assert [parameter.requires_grad for parameter in classifier.parameters()] == before
    assert hooks(classifier) == 0
    assert images.grad is None


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(DIFFERENTIABLE)))
def test_maps_that_cannot_be_differentiated_are_refused_with_those_that_can(name):
    with pytest.raises(UsageError, match=f"the maps of {name} cannot be differentiated; those of .*cam") as found:
        create(name)(network(name), ask(normalised(1), [(0, 0)], create_graph=True))
    assert all(able in str(found.value) for able in DIFFERENTIABLE)


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_is_refused_where_none_is_looked_at(name):
    method, query = methods.create(name, CHEAP.get(name, [])), ask(normalised(1), [(0, 1)], layer="features")
    if method.at_layer:
        require_served(method, network(name), "features")
        assert len(method(network(name), query)) == 1
        return
    with pytest.raises(UsageError, match="--layer features: this method looks at no single layer"):
        require_served(method, network(name), "features")
    with pytest.raises(UsageError, match="--layer features: this method looks at no single layer"):
        method(network(name), query)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_a_network_in_double_precision_is_served(name):
    require_served(methods.create(name, CHEAP.get(name, [])), network(name).double())
