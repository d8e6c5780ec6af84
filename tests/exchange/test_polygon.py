import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xseg.exchange.polygon import inside

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))
numbers = st.floats(-3, 43) | st.integers(-3, 43).map(float)
polygons = st.lists(st.tuples(numbers, numbers), min_size=3, max_size=12).map(np.array)


def test_a_rectangle_has_the_pixels_between_its_sides():
    found = inside(np.array([[1, 2], [4, 2], [4, 5], [1, 5]], float), (6, 7))
    expected = np.zeros((6, 7), bool)
    expected[2:5, 1:4] = True
    assert np.array_equal(found, expected)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@given(polygons, sizes)
def test_pycocotools_fills_the_same_pixels(corners, size):
    coco = pytest.importorskip("pycocotools.mask")
    expected = coco.decode(coco.frPyObjects([corners.ravel().tolist()], *size))[:, :, 0]
    assert np.array_equal(inside(corners, size), expected.astype(bool))


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=3, max_size=3), st.integers(0, 9))
def test_pixels_move_with_the_corners(corners, by):
    corners = np.array(corners, float)
    near, far = inside(corners, (40, 40)), inside(corners + by, (40, 40))
    assert np.array_equal(far[by:, by:], near[: 40 - by, : 40 - by])
    assert not far[:by].any()
    assert not far[:, :by].any()
