import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from xseg.classifier.metrics import average_precision, mean_average_precision


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 60), levels=st.integers(1, 20))
def test_average_precision_equals_scikit_learn_with_ties_and_unknown_labels(seed, count, levels):
    random = np.random.default_rng(seed)
    scores = random.integers(0, levels, (count, 3)).astype(np.float32) / levels
    labels = random.choice(np.array([0, 1, 255], np.uint8), (count, 3))
    found = average_precision(scores, labels)
    for c in range(3):
        known = labels[:, c] != 255
        if (labels[:, c] == 1).any():
            assert found[c] == pytest.approx(average_precision_score(labels[known, c], scores[known, c]), abs=1e-9)
        else:
            assert np.isnan(found[c])


def test_only_the_ranking_matters():
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(50, 4)), random.integers(0, 2, (50, 4)).astype(np.uint8)
    probabilities = 1 / (1 + np.exp(-logits))
    np.testing.assert_array_equal(average_precision(logits, labels), average_precision(probabilities, labels))


def test_classes_without_a_present_image_are_left_out_of_the_mean():
    scores, labels = np.array([[0.9, 0.5], [0.1, 0.6]]), np.array([[1, 0], [0, 0]], np.uint8)
    per_class = average_precision(scores, labels)
    assert per_class[0] == 1
    assert np.isnan(per_class[1])
    assert mean_average_precision(per_class) == 1
    assert mean_average_precision(per_class[1:]) is None
