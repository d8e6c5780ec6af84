import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xseg.errors import BadInput, UsageError
from xseg.heatmaps import dequantise, quantise, stored_dtype

STEP = {"float16": 2**-11, "float32": 2**-23, "uint8": 0.5 / 255}


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    dtype=st.sampled_from(sorted(STEP)),
    magnitude=st.integers(-30, 30),
    signed=st.booleans(),
)
def test_values_are_fractions_of_each_maps_maximum_and_lead_back(seed, dtype, magnitude, signed):
    maps = np.random.default_rng(seed).standard_normal((3, 4, 5)).astype(np.float32) * np.float32(10.0**magnitude)
    maps[1] = 0
    if not signed or dtype == "uint8":
        maps = np.abs(maps)
    values, scale = quantise(maps, dtype)
    assert values.dtype == dtype
    assert scale.dtype == np.float32
    np.testing.assert_array_equal(scale, np.abs(maps).reshape(3, -1).max(1))
    assert scale[1] == 0
    assert (values[1] == 0).all()
    assert np.abs(values.astype(float)).max() == (255 if dtype == "uint8" else 1)
    np.testing.assert_allclose(dequantise(values, scale), maps, atol=STEP[dtype] * scale.max() * 1.01, rtol=0)


def test_no_maps_are_no_values():
    for shape in ((0, 4, 5), (0, 1, 1)):
        values, scale = quantise(np.zeros(shape, np.float32), "float16")
        assert values.shape == shape
        assert scale.shape == (0,)


def test_the_smallest_floats_do_not_break_the_division():
    values, scale = quantise(np.array([[[1e-45, 5e-46]]], np.float32), "float32")
    assert values.tolist() == [[[1, 0]]]
    assert scale[0] > 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_maps_that_are_not_finite_are_refused(bad):
    with pytest.raises(BadInput, match="not finite"):
        quantise(np.array([[[0, bad]]], np.float32), "float16")


def test_signed_maps_are_not_stored_as_bytes():
    with pytest.raises(UsageError, match="signed"):
        quantise(np.array([[[-1, 1]]], np.float32), "uint8")
    with pytest.raises(UsageError, match="signed"):
        stored_dtype("uint8", signed=True)


def test_stored_types():
    assert stored_dtype(None, signed=False) == "float16"
    assert stored_dtype(None, signed=True) == "float32"
    assert stored_dtype("uint8", signed=False) == "uint8"
    assert stored_dtype("float16", signed=True) == "float16"
    with pytest.raises(UsageError, match="float64"):
        stored_dtype("float64", signed=False)
