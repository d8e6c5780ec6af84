import pytest
import torch
from torch import nn

from xseg.training.interpolate import interpolate


def states():
    torch.manual_seed(0)
    return [nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict() for _ in range(2)]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_floats_lie_on_the_line_and_counters_come_from_the_end(share):
    start, end = states()
    end["1.num_batches_tracked"] += 7
    found = interpolate(start, end, share)
    assert found.keys() == end.keys()
    assert int(found["1.num_batches_tracked"]) == 7
    expected = (1 - share) * start["0.weight"].double() + share * end["0.weight"].double()
    assert torch.allclose(found["0.weight"].double(), expected, atol=1e-7)
    assert found["0.weight"].data_ptr() != end["0.weight"].data_ptr()


def test_other_networks_and_shares_are_refused():
    start, end = states()
    with pytest.raises(ValueError, match="share is"):
        interpolate(start, end, 1.5)
    with pytest.raises(ValueError, match="same network"):
        interpolate(start, {**end, "0.weight": torch.zeros(1)}, 0.5)
