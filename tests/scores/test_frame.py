import numpy as np
import pytest
from PIL import Image

from tests.artifacts.build import record
from xseg.runs.photographs import heatmaps_of
from xseg.scores.frame import maps_in_frame, truth_in_frame


@pytest.mark.parametrize("frame", [(5, 7), (10, 14), (3, 4), (13, 2), (1, 1)])
def test_masks_are_resized_as_pillow_does(frame):
    mask = np.random.default_rng(0).integers(0, 5, (5, 7)).astype(np.uint8)
    expected = np.asarray(Image.fromarray(mask).resize(frame[::-1], Image.Resampling.NEAREST))
    assert np.array_equal(truth_in_frame(mask, frame), expected)


@pytest.mark.parametrize("frame", [(10, 14), (3, 4), (13, 2)])
def test_maps_are_resized_as_pillow_does(frame):
    made = record(2, dtype="float32")
    found, class_id = maps_in_frame(made, frame)
    assert found.dtype == np.float32
    assert class_id.tolist() == [1, 2]
    for values, stored in zip(found, made.arrays["maps"], strict=True):
        expected = Image.fromarray(stored).resize(frame[::-1], Image.Resampling.BILINEAR)
        np.testing.assert_allclose(values, np.asarray(expected), atol=1e-6)


def test_what_has_the_size_already_stays_as_it_is():
    made = record(2, dtype="float32")
    assert np.array_equal(maps_in_frame(made, (5, 7))[0], made.arrays["maps"])
    mask = np.arange(35).reshape(5, 7)
    assert truth_in_frame(mask, (5, 7)) is mask
    assert truth_in_frame(mask, None) is mask


def test_the_image_s_own_size_is_that_of_every_other_protocol():
    made = record(2, dtype="uint8")
    found, class_id = maps_in_frame(made, None)
    maps, ids = heatmaps_of(made)
    assert np.array_equal(found, maps.numpy())
    assert np.array_equal(class_id, ids.numpy())


def test_an_image_without_maps_has_none_in_any_frame():
    for frame, size in ((None, (5, 7)), ((4, 6), (4, 6))):
        maps, class_id = maps_in_frame(record(0), frame)
        assert maps.shape == (0, *size)
        assert class_id.shape == (0,)
