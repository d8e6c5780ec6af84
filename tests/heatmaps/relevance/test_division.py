"""The stabilised division that the code of AGF, RAP and Chefer et al. shares, and what sums make of it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from tests.heatmaps.nets import normalised, wrap
from tests.heatmaps.relevance.nets import walker_of
from xseg.heatmaps.relevance.affine import Affine
from xseg.heatmaps.relevance.rules import AlphaBeta, Division, Place, SeparatePlus, divide_as_published

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False).filter(lambda x: x == 0 or abs(x) > 1e-8)


def number(value):
    return torch.tensor([[value]], dtype=torch.float64)


@given(NUMBERS, NUMBERS)
def test_published_is_a_over_b_plus_a_constant_and_zero_where_b_is(a, b):
    (found,) = divide_as_published(number(a), number(b)[0])
    assert found.item() == (0 if b == 0 else pytest.approx(a / (b + 1e-9), rel=1e-12))


def test_published_turns_the_sign_of_a_tiny_negative_denominator_and_ours_does_not():
    tiny = torch.tensor([-1e-10], dtype=torch.float64)
    assert divide_as_published(number(1.0), tiny).item() > 0
    assert Division(1e-9)(number(1.0), tiny).item() < 0
    assert Division(0)(number(1.0), torch.zeros(1, dtype=torch.float64)).item() == 0


@given(NUMBERS, NUMBERS.filter(lambda b: b >= 0))
def test_the_shortcut_for_denominators_that_are_not_negative_is_the_same(a, b):
    for divide in (divide_as_published, Division(1e-6), Division(0)):
        assert torch.equal(divide.above(number(a), number(b)[0]), divide(number(a), number(b)[0]))


class Doubled(nn.Module):
    """Two branches with equal values meet in a sum; `branch` keeps them apart as values."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        x = self.conv(x)
        return self.fc((x.clone() + x.clone()).mean((2, 3)))


@pytest.mark.parametrize("method", ["lrp", "rap", "agf"])
def test_a_sum_of_equal_branches_gives_each_half_whatever_else_is_in_the_batch(method):
    classifier = wrap(Doubled(), layer="conv").double()
    images = normalised(3, 8, 8).double()
    images[1:] *= 100
    walker = walker_of(classifier, images, method)
    (step,) = (step for step in walker.tape.steps if step.kind == "sum")
    arriving = torch.rand(2, *walker.tape.value(step.target).shape, dtype=torch.float64)
    first, second = walker._through(step, arriving)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first, arriving / 2, rtol=1e-4, atol=0)  # the stabiliser takes the rest
    alone = walker_of(classifier, images[:1], method)
    (only,) = (step for step in alone.tape.steps if step.kind == "sum")
    torch.testing.assert_close(alone._through(only, arriving[:, :1])[0], first[:, :1], rtol=1e-12, atol=0)


def test_relevance_doubles_with_a_denominator_for_each_sign_and_is_kept_with_one_for_both():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(50, 200, dtype=torch.float64, generator=generator)
    x = torch.randn(2, 200, dtype=torch.float64, generator=generator)
    place = Place(Affine("dense", functional.linear, weight, None, {}), x, x @ weight.T, False)
    start = torch.rand(1, 2, 50, dtype=torch.float64, generator=generator)
    for rule, times in ((SeparatePlus(divide_as_published), 2), (AlphaBeta(1, divide_as_published, False), 1)):
        torch.testing.assert_close(rule(place, start).sum(2), times * start.sum(2), rtol=1e-6, atol=0)
