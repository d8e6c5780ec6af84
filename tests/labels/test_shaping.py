"""Maps of any range to scores in [0,1]."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xseg.labels.shaping import Shaping, gaussian_blur, shape_maps


def test_shaping_of_a_signed_map():
    maps = torch.tensor([[[-4.0, 0.0, 1.0, 2.0]]])
    torch.testing.assert_close(shape_maps(maps, Shaping()), torch.tensor([[[0, 0, 0.5, 1]]]))
    found = shape_maps(maps, Shaping(sign="both", root=2))
    torch.testing.assert_close(found, torch.tensor([[[1, 0, 0.5, 0.5**0.5]]]))


def test_a_percentile_keeps_one_outlier_from_flattening_the_rest():
    maps = torch.arange(1.0, 101.0).reshape(1, 10, 10)
    maps[0, 9, 9] = 1e6
    assert shape_maps(maps, Shaping())[0, 4, 9] < 1e-3
    assert shape_maps(maps, Shaping(clip_percentile=99))[0, 4, 9] == pytest.approx(50 / 99)
    sparse = torch.zeros(1, 10, 10)
    sparse[0, 2, 2] = 5
    assert shape_maps(sparse, Shaping(clip_percentile=50)).max() == 1


@settings(max_examples=25, deadline=None)
@given(
    maps=st.integers(0, 3),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    sign=st.sampled_from(["positive", "both"]),
    percentile=st.floats(1, 100),
    root=st.floats(0.5, 4),
    blur=st.sampled_from([0.0, 0.7, 3.0]),
    scale=st.sampled_from([0.0, 1e-6, 1.0, 1e6]),
    seed=st.integers(0, 99),
)
def test_shaped_maps_lie_in_zero_to_one_and_reach_one(maps, size, sign, percentile, root, blur, scale, seed):
    raw = torch.randn(maps, *size, generator=torch.Generator().manual_seed(seed)) * scale
    found = shape_maps(raw, Shaping(sign, percentile, root, blur))
    assert found.shape == raw.shape
    for prepared, given_map in zip(found, raw, strict=True):
        positive = given_map.abs() if sign == "both" else given_map.clamp(min=0)
        assert prepared.min() >= 0
        assert prepared.max().item() == pytest.approx(1 if positive.max() > 0 else 0, abs=1e-5)


def test_blur_equals_a_convolution_written_out():
    maps = torch.rand(2, 7, 9, generator=torch.Generator().manual_seed(0))
    reach = 6
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / 1.5) ** 2)
    weights /= weights.sum()
    padded = np.pad(maps.double().numpy(), ((0, 0), (reach, reach), (reach, reach)), mode="edge")
    expected = np.zeros(maps.shape)
    for y in range(7):
        for x in range(9):
            window = padded[:, y : y + 2 * reach + 1, x : x + 2 * reach + 1]
            expected[:, y, x] = np.einsum("kyx,y,x->k", window, weights, weights)
    np.testing.assert_allclose(gaussian_blur(maps, 1.5).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"sign": "negative"}, "--sign negative"), ({"clip_percentile": 0}, "percentile"), ({"root": 0}, "root")],
)
def test_shaping_without_meaning_is_refused(wrong, named):
    with pytest.raises(ValueError, match=named):
        Shaping(**wrong)
