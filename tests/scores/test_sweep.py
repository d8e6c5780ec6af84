import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scores.oracle_segmentation import counts, predict
from xseg.errors import BadInput
from xseg.scores.sweep import SWEEP, strongest, sweep_image, thresholds_below

LABELS, IGNORE = 5, 255
# values that meet the thresholds exactly, just above and just below, and far outside
grid = [np.float32(k / 100) for k in (0, 1, 7, 20, 29, 58, 98, 99)]
near = [np.nextafter(v, np.float32(s)) for v in grid for s in (-9, 9)]
scores = st.sampled_from([*grid, *near, np.float32(1), np.float32(1.5), np.float32(-0.3), np.float32(0.123)])


@st.composite
def images(draw, dtype=np.float32):
    ids = draw(st.lists(st.integers(1, LABELS - 1), unique=True, max_size=3))
    h, w = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    maps = np.array(draw(st.lists(scores, min_size=len(ids) * h * w, max_size=len(ids) * h * w)), np.float32)
    truth = draw(st.lists(st.sampled_from([0, 1, 2, 3, 4, 255]), min_size=h * w, max_size=h * w))
    return maps.reshape(len(ids), h, w).astype(dtype), np.array(ids, np.int32), np.array(truth, np.uint8).reshape(h, w)


def dense(image_counts, setting):
    out = np.zeros((LABELS, 3), np.int64)
    ids = image_counts.class_id
    out[ids, 0] = image_counts.true_positive[setting]
    out[ids, 1] = image_counts.predicted[setting]
    out[ids, 2] = image_counts.truth
    return out


def check_every_threshold(maps, ids, truth, thresholds):
    swept = sweep_image(maps, ids, truth, thresholds, LABELS, IGNORE)
    found = swept.counts(LABELS)
    for number, threshold in enumerate(thresholds):
        expected = counts(predict(maps, ids.tolist(), threshold), truth, LABELS, IGNORE)
        assert np.array_equal(dense(found, number), expected), threshold
        confusion = swept.confusion(number, LABELS)
        assert np.array_equal(confusion.diagonal(), expected[:, 0])
        assert np.array_equal(confusion.sum(axis=0)[:LABELS], expected[:, 1])
        assert np.array_equal(confusion.sum(axis=1), expected[:, 2])


@settings(max_examples=25, deadline=None)
@given(images())
def test_one_pass_equals_the_argmax_at_every_threshold(image):
    check_every_threshold(*image, SWEEP)


@settings(max_examples=15, deadline=None)
@given(images(np.float16))
def test_maps_kept_in_float16_are_compared_as_they_were_stored(image):
    check_every_threshold(*image, SWEEP)


@settings(max_examples=15, deadline=None)
@given(images())
def test_uneven_thresholds_equal_the_argmax_too(image):
    check_every_threshold(*image, (0.0, 0.07, 0.2, 0.2345, 0.58, 1.2))


@given(st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=50))
def test_the_quick_way_counts_the_thresholds_below_exactly(values):
    score = np.array(values, np.float32)
    table = np.array(SWEEP, np.float32)
    assert np.array_equal(thresholds_below(score, SWEEP), [(table < value).sum() for value in score])


def test_every_float32_next_to_a_threshold_falls_on_its_side():
    table = np.array(SWEEP, np.float32)
    for k, value in enumerate(table):
        around = np.array([np.nextafter(value, np.float32(-1)), value, np.nextafter(value, np.float32(2))])
        assert thresholds_below(around, SWEEP).tolist() == [k, k, k + 1]


def test_a_value_of_a_fifth_stored_in_float16_is_background_at_a_fifth():
    maps = np.array([[[0.2, 0.2002]]], np.float16)
    swept = sweep_image(maps, np.array([1]), np.ones((1, 2), np.uint8), SWEEP, LABELS, IGNORE)
    assert swept.confusion(20, LABELS)[1, 1] == 1


def test_equal_maps_go_to_the_lowest_class_id_however_stored():
    maps = np.full((2, 1, 1), 0.9, np.float32)
    swept = sweep_image(maps, np.array([3, 2]), np.full((1, 1), 2, np.uint8), SWEEP, LABELS, IGNORE)
    assert swept.confusion(20, LABELS)[2, 2] == 1


def test_an_image_without_maps_is_background():
    truth = np.array([[0, 2, 255]], np.uint8)
    swept = sweep_image(np.zeros((0, 1, 3), np.float16), np.zeros(0, np.int32), truth, SWEEP, LABELS, IGNORE)
    assert swept.confusion(0, LABELS)[[0, 2], 0].tolist() == [1, 1]
    assert dense(swept.counts(LABELS), 99).tolist()[0] == [1, 2, 1]


def test_a_thousand_classes_stay_small():
    maps = np.random.default_rng(0).random((50, 8, 8), np.float32)
    truth = np.full((8, 8), 7, np.uint16)
    found = sweep_image(maps, np.arange(1, 51), truth, SWEEP, 1001, 65535).counts(1001)
    assert len(found.class_id) <= 52
    assert found.predicted.sum(axis=1).tolist() == [64] * 100


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([-1], BadInput, "class-agnostic"),
        ([0], BadInput, "class id 0, needed 1..4"),
        ([5], BadInput, "class id 5"),
        ([1, 1], ValueError, "different ids"),
        ([1, 2, 3], ValueError, "shape"),
    ],
)
def test_unfit_class_ids_are_refused(ids, error, message):
    maps = np.zeros((min(len(ids), 2), 2, 2), np.float32)
    with pytest.raises(error, match=message):
        sweep_image(maps, np.array(ids), np.zeros((2, 2), np.uint8), SWEEP, LABELS, IGNORE)


def test_values_that_are_not_numbers_are_refused_wherever_they_are():
    for k in range(3):
        maps = np.zeros((3, 2, 2), np.float32)
        maps[k, 1, 1] = np.nan
        with pytest.raises(BadInput, match="not numbers"):
            strongest(maps)


def test_maps_of_another_size_and_integer_maps_are_refused():
    truth = np.zeros((2, 2), np.uint8)
    with pytest.raises(BadInput, match="a heatmap of another size"):
        sweep_image(np.zeros((1, 3, 2), np.float32), np.array([1]), truth, SWEEP, LABELS, IGNORE)
    with pytest.raises(ValueError, match="needed floats"):
        sweep_image(np.zeros((1, 2, 2), np.uint8), np.array([1]), truth, SWEEP, LABELS, IGNORE)
