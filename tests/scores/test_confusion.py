import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import confusion_matrix as sklearn_confusion

from xseg.errors import BadInput
from xseg.scores.confusion import confusion_matrix, ignore_value, merge_confusions

labels_with_ignore = hnp.arrays(np.uint8, (7, 9), elements=st.sampled_from([0, 1, 2, 3, 255]))


@given(labels_with_ignore, labels_with_ignore, st.sampled_from([np.uint8, np.uint16, np.int64]))
def test_confusion_equals_sklearn_with_the_ignored_truth_left_out(prediction, truth, dtype):
    matrix = confusion_matrix(prediction.astype(dtype), truth, 4)
    known = truth != 255
    if known.any():
        codes = np.where(prediction == 255, 4, prediction)
        expected = sklearn_confusion(truth[known], codes[known], labels=range(5))
        assert np.array_equal(matrix, expected[:4])
    assert matrix.sum() == known.sum()
    assert matrix.dtype == np.int64


@given(st.integers(0, 10**6), st.integers(1, 30))
def test_runs_are_counted_as_their_pixels_are(seed, longest):
    random = np.random.default_rng(seed)
    lengths = random.integers(1, longest + 1, 200)
    prediction, truth = (np.repeat(random.choice([0, 1, 2, 3, 255], 200), lengths).astype(np.uint8) for _ in "ab")
    prediction = np.roll(prediction, 3)
    wide = confusion_matrix(prediction.astype(np.int64)[None], truth[None], 4)
    narrow = confusion_matrix(prediction[None], truth[None], 4)
    assert np.array_equal(narrow, wide)
    assert narrow.dtype == np.int64


def test_an_empty_map_has_no_pixels():
    assert confusion_matrix(np.zeros((0, 5), np.uint8), np.zeros((0, 5), np.uint8), 3).sum() == 0


def test_sixteen_bit_labels_use_65535_as_unknown():
    truth = np.array([[0, 300, 65535]], np.uint16)
    prediction = np.array([[0, 299, 300]], np.uint16)
    matrix = confusion_matrix(prediction, truth, 301, ignore_value(300))
    assert matrix.shape == (301, 302)
    assert matrix[300, 299] == 1
    assert matrix.sum() == 2


def test_ignore_value_moves_to_sixteen_bits_above_254_classes():
    assert ignore_value(254) == 255
    assert ignore_value(255) == 65535


@pytest.mark.parametrize("bad", [4, 254])
def test_a_label_out_of_range_is_refused_by_name(bad):
    good, wrong = np.zeros((2, 2), np.uint8), np.array([[0, bad], [1, 255]], np.uint8)
    with pytest.raises(BadInput, match=f"ground truth holds the label {bad}"):
        confusion_matrix(good, wrong, 4)
    with pytest.raises(BadInput, match=f"prediction holds the label {bad}"):
        confusion_matrix(wrong, good, 4)
    longer = [np.repeat(one, 9, axis=1) for one in (good, wrong)]
    with pytest.raises(BadInput, match=f"ground truth holds the label {bad}"):
        confusion_matrix(*longer, 4)
    with pytest.raises(BadInput, match=f"prediction holds the label {bad}"):
        confusion_matrix(*reversed(longer), 4)
    with pytest.raises(BadInput, match="label -1"):
        confusion_matrix(good.astype(np.int32) - 1, good, 4)


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(BadInput, match=r"a mask of another size: 2x3 .* 3x2"):
        confusion_matrix(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), 2)


def test_floats_and_an_ignore_that_is_a_class_are_programmer_mistakes():
    zeros = np.zeros((2, 2), np.uint8)
    with pytest.raises(ValueError, match="dtype float64"):
        confusion_matrix(zeros.astype(float), zeros, 2)
    with pytest.raises(ValueError, match="ignore is 3"):
        confusion_matrix(zeros, zeros, 4, ignore=3)
    with pytest.raises(ValueError, match="ignore is 255"):
        confusion_matrix(zeros, zeros, 256)


def test_counters_go_beyond_32_bits_when_merged():
    big = np.full((2, 3), 2**31 - 1, np.int32)
    merged = merge_confusions([big] * 5)
    assert merged.dtype == np.int64
    assert (merged == 5 * (2**31 - 1)).all()
    assert (big == 2**31 - 1).all()


def test_merging_refuses_nothing_and_different_shapes():
    with pytest.raises(ValueError, match="no confusion matrix"):
        merge_confusions([])
    with pytest.raises(ValueError, match="shape"):
        merge_confusions([np.zeros((2, 3), np.int64), np.zeros((3, 4), np.int64)])
