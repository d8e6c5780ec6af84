"""Losses on heatmaps, against their definitions taken pixel by pixel in float64, and what must always hold."""

import numpy as np
import pytest
import torch

from tests.guided import oracle_losses as oracle
from xseg.guided import losses

ONE_CLASS = sorted(losses.LOCALISATION)
RANDOM = np.random.default_rng


def some_maps(seed, count=3, side=5):
    random = RANDOM(seed)
    maps = random.normal(0, 1, (count, side, side + 1))
    return maps, random.random(maps.shape) < 0.4, random.random(maps.shape) < 0.8


def some_images(seed, classes=4):
    random = RANDOM(seed)
    return random.normal(0, 2, (3, classes, 5, 6)), random.integers(-1, classes, (3, 5, 6))


@pytest.mark.parametrize("name", losses.SEGMENTATION)
@pytest.mark.parametrize("seed", range(3))
def test_losses_of_all_classes_are_what_their_definitions_say(name, seed):
    logits, target = some_images(seed)
    found = losses.SEGMENTATION[name](torch.tensor(logits), torch.tensor(target))
    assert float(found) == pytest.approx(getattr(oracle, name.replace("-", "_"))(logits, target), rel=1e-12)


@pytest.mark.parametrize("name", ONE_CLASS)
@pytest.mark.parametrize("seed", range(3))
def test_losses_of_one_class_are_what_their_definitions_say(name, seed):
    maps, inside, known = some_maps(seed)
    found = losses.LOCALISATION[name](*map(torch.tensor, (maps, inside, known)))
    expected = [getattr(oracle, name)(*one) for one in zip(maps, inside, known, strict=True)]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("how", ["none", "max", "rms"])
def test_maps_are_normalised_as_said_and_their_argmax_stays(how):
    maps, _ = some_images(1)
    maps[1] = 0
    found = losses.normalised(torch.tensor(maps), how, 0.7).numpy()
    np.testing.assert_allclose(found, oracle.normalised(maps, how, 0.7), rtol=1e-12)
    assert (found.argmax(1) == maps.argmax(1)).all()


def test_similarity_is_the_squared_cosine():
    maps, _, _ = some_maps(4)
    others = RANDOM(5).normal(0, 1, (2, *maps.shape))
    others[1, 2] = 0
    found = losses.similarity(torch.tensor(maps), torch.tensor(others))
    expected = [oracle.similarity(maps[p], others[:, p]) for p in range(len(maps))]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    same = losses.similarity(torch.tensor(maps), torch.tensor(-3 * maps[None]))
    np.testing.assert_allclose(same.numpy(), 1, rtol=1e-12)


@pytest.mark.parametrize("name", losses.SEGMENTATION)
@pytest.mark.parametrize("how", ["none", "max", "rms"])
def test_losses_of_all_classes_pass_a_gradient_check(name, how):
    maps, target = some_images(2)
    leaf = torch.tensor(maps, requires_grad=True)

    def loss(values):
        return losses.SEGMENTATION[name](losses.normalised(values, how, 0.5), torch.tensor(target))

    assert torch.autograd.gradcheck(loss, leaf)


@pytest.mark.parametrize("name", ONE_CLASS)
def test_losses_of_one_class_pass_a_gradient_check(name):
    maps, inside, known = some_maps(3)
    leaf = torch.tensor(maps, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda a: losses.LOCALISATION[name](a, torch.tensor(inside), torch.tensor(known)), leaf
    )


def test_similarity_passes_a_gradient_check():
    maps, _, _ = some_maps(3)
    others = torch.tensor(RANDOM(5).normal(0, 1, (2, *maps.shape)))
    leaf = torch.tensor(maps, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: losses.similarity(a, others), leaf)


@pytest.mark.parametrize("name", ONE_CLASS)
def test_maps_that_are_zero_everywhere_have_a_finite_loss_and_slope(name):
    leaf = torch.zeros(1, 4, 4, requires_grad=True)
    inside = torch.zeros(1, 4, 4, dtype=torch.bool)
    inside[:, :2] = True
    loss = losses.LOCALISATION[name](leaf, inside, torch.ones_like(inside))
    (slope,) = torch.autograd.grad(loss.sum(), leaf)
    assert torch.isfinite(loss).all()
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize("how", ["none", "max", "rms"])
@pytest.mark.parametrize("name", losses.SEGMENTATION)
def test_zero_maps_have_a_finite_slope_under_every_normalisation(name, how):
    leaf = torch.zeros(1, 3, 4, 4, requires_grad=True)
    loss = losses.SEGMENTATION[name](losses.normalised(leaf, how), torch.zeros(1, 4, 4, dtype=torch.long))
    assert torch.isfinite(torch.autograd.grad(loss, leaf)[0]).all()


def test_the_best_maps_cost_nothing_and_the_worst_the_most():
    inside = torch.zeros(1, 4, 4, dtype=torch.bool)
    inside[:, :2] = True
    known = torch.ones_like(inside)
    right, wrong = inside.double(), (~inside).double()
    for name in ONE_CLASS:
        assert float(losses.LOCALISATION[name](right, inside, known)) == pytest.approx(0, abs=1e-12)
    assert float(losses.energy(wrong, inside, known)) == 1
    assert float(losses.l1(wrong, inside, known)) == 1
    assert float(losses.rrr(wrong, inside, known)) == 8
    assert float(losses.ppce(wrong, inside, known)) == pytest.approx(-np.log(1e-7))


@pytest.mark.parametrize("name", losses.SEGMENTATION)
def test_what_is_unknown_has_no_say(name):
    logits, target = some_images(6)
    other = np.where((target < 0)[:, None], RANDOM(9).normal(0, 5, logits.shape), logits)
    loss = losses.SEGMENTATION[name]
    found = [float(loss(torch.tensor(values), torch.tensor(target))) for values in (logits, other)]
    assert found[0] == pytest.approx(found[1], rel=1e-12)
    assert float(loss(torch.tensor(logits), torch.full(target.shape, -1))) == 0


@pytest.mark.parametrize("name", ONE_CLASS)
def test_losses_of_one_class_ignore_the_unknown_and_the_size_of_the_map(name):
    maps, inside, known = (torch.tensor(values) for values in some_maps(7))
    loss = losses.LOCALISATION[name]
    expected = loss(maps, inside, known)
    torch.testing.assert_close(loss(torch.where(known, maps, 100.0), inside, known), expected)
    torch.testing.assert_close(loss(maps * 50, inside, known), expected)
