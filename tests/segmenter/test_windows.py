from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.segmenter.oracle_segmenter import averaged_windows
from xseg.segmenter.windows import starts, windowed


@given(st.integers(1, 60), st.integers(1, 40), st.integers(1, 40))
def test_windows_cover_an_axis_without_leaving_it(length, window, step):
    step = min(step, window)
    found = starts(length, window, step)
    covered = {place for start in found for place in range(start, min(start + window, length))}
    assert covered == set(range(length))
    assert found == sorted(set(found))
    assert found[-1] == max(length - window, 0)
    assert all(later - earlier <= step for earlier, later in pairwise(found))


@pytest.mark.parametrize("step", [0, 5])
def test_a_step_that_leaves_gaps_is_refused(step):
    with pytest.raises(ValueError, match=r"needed 1\.\.4"):
        starts(10, 4, step)


def centred(images):
    """Something that depends on the window: each place less the window's mean."""
    return images - images.mean((2, 3), keepdim=True)


def test_overlapping_windows_average_where_they_overlap():
    image = torch.rand(2, 3, 11, 8, dtype=torch.float64)
    found = windowed(centred, image, (5, 5), (3, 2))
    for one, expected in zip(image.numpy(), found.numpy(), strict=True):
        by_hand = averaged_windows(
            lambda part: part - part.mean((1, 2), keepdims=True), one, 5, (0, 3, 6), (0, 2, 3)
        )  # fmt: skip
        np.testing.assert_allclose(expected, by_hand, atol=1e-12)


@pytest.mark.parametrize("window", [(11, 8), (40, 40)])
def test_one_window_over_all_is_the_whole(window):
    image = torch.rand(1, 3, 11, 8)
    assert torch.equal(windowed(centred, image, window, window), centred(image))


def test_what_looks_at_single_places_does_not_notice_windows():
    image = torch.rand(1, 3, 30, 17)
    torch.testing.assert_close(windowed(torch.exp, image, (7, 5), (4, 5)), image.exp())
