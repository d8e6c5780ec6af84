import numpy as np
import pytest
import torch
from torch import nn

from tests.segmenter.oracle_segmenter import moving_average
from xseg.training.average import MovingAverage


def net(value):
    made = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    nn.init.constant_(made[0].weight, value)
    made[1].running_mean.fill_(10 * value)
    return made


@pytest.mark.parametrize("decay", [0.15, 0.9, 0.9999])
def test_the_average_is_the_recurrence(decay):
    values = np.random.default_rng(0).standard_normal(30)
    average = MovingAverage(net(values[0]), decay)
    for value, expected in zip(values[1:], moving_average(values, decay), strict=True):
        average.update(net(value))
        assert float(average.net[0].weight) == pytest.approx(expected, abs=1e-5)
        assert float(average.net[1].running_mean) == pytest.approx(10 * expected, abs=1e-4)


def test_counters_are_taken_over_and_gradients_left_out():
    given = net(1.0)
    average = MovingAverage(given, 0.9)
    given.train()(torch.randn(4, 1))
    average.update(given)
    assert int(average.net[1].num_batches_tracked) == 1
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert all(parameter.requires_grad for parameter in given.parameters())


def test_it_goes_on_from_its_state():
    values = [0.5, 1.0, -2.0, 3.0]
    whole = MovingAverage(net(values[0]), 0.9)
    for value in values[1:]:
        whole.update(net(value))
    cut = MovingAverage(net(values[0]), 0.9)
    cut.update(net(values[1]))
    again = MovingAverage(net(7.0), 0.9)
    again.load_state_dict(cut.state_dict())
    for value in values[2:]:
        again.update(net(value))
    assert torch.equal(again.net[0].weight, whole.net[0].weight)


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_a_decay_that_averages_nothing_is_refused(decay):
    with pytest.raises(ValueError, match="between 0 and 1"):
        MovingAverage(net(1.0), decay)
