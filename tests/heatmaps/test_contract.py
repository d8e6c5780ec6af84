"""What every registered method promises, tried on all of them."""

import copy

import numpy as np
import pytest
import torch

from tests.heatmaps.nets import ask, normalised, picture, pooled
from xseg.heatmaps import Method, explain_images, methods, require_served

NAMES = [name for name, _ in methods]
MODEL_NAMES = [name for name, cls in methods if cls.needs_model]
PAIRS = [(0, 1), (1, 2), (0, 3)]


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
    require_served(methods.create(name), pooled())
    maps = methods.create(name)(pooled(), ask(normalised(2), PAIRS))
    assert maps.dtype == torch.float32
    assert maps.ndim == 3
    assert len(maps) == len(PAIRS)
    assert not maps.requires_grad
    assert torch.isfinite(maps).all()
    assert maps.abs().sum() > 0
    if not methods.create(name).is_signed:
        assert maps.min() >= 0


@pytest.mark.parametrize("name", NAMES)
def test_maps_differ_between_classes_exactly_where_class_specific(name):
    maps = methods.create(name)(pooled(), ask(normalised(2), PAIRS))
    assert torch.equal(maps[0], maps[2]) is not methods.get(name).class_specific


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dead", ["activations", "head", "image"])
def test_maps_are_finite_on_dead_networks_and_pictures(name, dead):
    classifier, images = pooled(), normalised(2)
    with torch.no_grad():
        if dead == "activations":
            classifier.net.features[2].weight.zero_()
            classifier.net.features[2].bias.fill_(-1)
        elif dead == "head":
            classifier.net.fc.weight.zero_()
            classifier.net.fc.bias.zero_()
        else:
            images.zero_()
    maps = methods.create(name)(classifier, ask(images, PAIRS))
    assert torch.isfinite(maps).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [True, False])
def test_the_classifier_is_left_as_it_was(name, training):
    classifier = pooled().train(training)
    classifier.net.drop.train(not training)
    classifier.net.fc.bias.requires_grad_(False)
    before = copy.deepcopy(classifier.state_dict())
    query = ask(normalised(2), PAIRS)
    method = methods.create(name)
    images = query.images.clone()
    evaluated = method(classifier, query)
    explain_images(classifier, method, [picture()], [(1,)], ["a"], flip=True)
    method.serves(classifier)
    assert all(torch.equal(value, before[key]) for key, value in classifier.state_dict().items())
    assert classifier.training == classifier.net.fc.training == training
    assert classifier.net.drop.training != training
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert [k for k, p in classifier.named_parameters() if not p.requires_grad] == ["net.fc.bias"]
    assert torch.equal(query.images, images)
    assert query.images.grad is None
    assert hooks(classifier) == 0
    torch.testing.assert_close(evaluated, method(classifier.eval(), query))  # dropout was off


@pytest.mark.parametrize("name", NAMES)
def test_maps_are_the_same_again_under_a_seed(name):
    query = ask(normalised(2), PAIRS, seed=5)
    first = methods.create(name)(pooled(), query)
    torch.rand(3)
    assert torch.equal(first, methods.create(name)(pooled(), query))


@pytest.mark.parametrize("name", NAMES)
def test_the_callers_gradient_mode_does_not_matter(name):
    query = ask(normalised(2), PAIRS)
    expected = methods.create(name)(pooled(), query)
    with torch.no_grad():
        assert torch.equal(expected, methods.create(name)(pooled(), query))
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", MODEL_NAMES)
@pytest.mark.parametrize("place", ["features.0", "fc"])
def test_hooks_and_modes_are_put_back_after_an_exception(name, place):
    classifier = pooled().train()

    def fail(*_):
        raise FailingError

    handle = classifier.net.get_submodule(place).register_forward_pre_hook(fail)
    with pytest.raises(FailingError):
        methods.create(name)(classifier, ask(normalised(2), PAIRS))
    with pytest.raises(FailingError):
        explain_images(classifier, methods.create(name), [picture()], [(1,)], ["a"])
    handle.remove()
    assert hooks(classifier) == 0
    assert classifier.training
    assert all(parameter.requires_grad for parameter in classifier.parameters())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", NAMES)
def test_questions_may_come_in_any_order_and_twice(name):
    classifier, images = pooled(), normalised(3)
    pairs = [(2, 0), (0, 1), (2, 3), (0, 1), (1, 1), (2, 0)]
    together = methods.create(name)(classifier, ask(images, pairs))
    for row, pair in zip(together, pairs, strict=True):
        alone = methods.create(name)(classifier, ask(images, [pair]))[0]
        np.testing.assert_allclose(row, alone, atol=1e-6, rtol=1e-5)
