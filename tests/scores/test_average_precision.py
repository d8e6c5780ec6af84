import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from xseg.errors import BadInput
from xseg.scores.average_precision import average_precision, grouped_average_precision, hard_average_precision


def ranking(seed, count, levels):
    random = np.random.default_rng(seed)
    truth = random.random(count) < random.random()
    truth[random.integers(count)] = True
    return random.integers(-levels, levels, count) / levels, truth


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 200), st.sampled_from([1, 2, 7, 10**6]))
def test_it_equals_scikit_learn_with_ties_and_without(seed, count, levels):
    scores, truth = ranking(seed, count, levels)
    assert average_precision(scores, truth) == pytest.approx(average_precision_score(truth, scores), abs=1e-9)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_it_equals_scikit_learn_on_whole_maps(dtype):
    random = np.random.default_rng(1)
    scores, truth = random.normal(size=224 * 224).astype(dtype), random.random(224 * 224) < 0.2
    scores[:1000] = 0
    scores[::700] = -0.0
    assert average_precision(scores, truth) == pytest.approx(average_precision_score(truth, scores), abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60))
def test_only_the_order_of_scores_matters_and_not_that_of_samples(seed, count):
    scores, truth = ranking(seed, count, 20)
    found = average_precision(scores, truth)
    assert average_precision(np.exp(scores), truth) == found
    assert average_precision(3 * scores - 7, truth) == found
    shuffled = np.random.default_rng(seed).permutation(count)
    assert average_precision(scores[shuffled], truth[shuffled]) == found


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40))
def test_groups_equal_their_samples_written_out(seed, count):
    random = np.random.default_rng(seed)
    scores = random.integers(0, 6, count) / 6
    totals = random.integers(0, 5, count)
    positives = random.integers(0, totals + 1)
    spread = np.repeat(scores, totals)
    truth = np.concatenate([np.arange(n) < k for k, n in zip(positives, totals, strict=True)])
    found = grouped_average_precision(scores, positives, totals)
    if truth.any():
        assert found == pytest.approx(average_precision_score(truth, spread), abs=1e-9)
        assert found == pytest.approx(average_precision(spread, truth), abs=1e-12)
    else:
        assert np.isnan(found)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 200))
def test_a_hard_map_has_an_average_precision_that_only_depends_on_its_accuracy(seed, count):
    random = np.random.default_rng(seed)
    truth, prediction = random.integers(0, 2, (2, count))
    correct = int((truth == prediction).sum())
    one_hot = np.concatenate([truth == 0, truth == 1])
    scores = np.concatenate([prediction == 0, prediction == 1]).astype(float)
    found = hard_average_precision(correct, count)
    assert found == pytest.approx(average_precision_score(one_hot, scores), abs=1e-9)
    assert found == pytest.approx(average_precision(scores, one_hot), abs=1e-12)


def test_what_has_no_average_precision_and_what_is_no_score():
    nothing = np.zeros(0)
    assert np.isnan(average_precision(nothing, nothing.astype(bool)))
    assert np.isnan(average_precision(np.arange(3.0), np.zeros(3, bool)))
    assert np.isnan(hard_average_precision(0, 0))
    assert average_precision(np.array([np.inf, -np.inf]), np.array([True, False])) == 1
    with pytest.raises(BadInput, match="not numbers"):
        average_precision(np.array([0.1, np.nan]), np.array([True, False]))
    with pytest.raises(ValueError, match="truth has shape"):
        average_precision(np.zeros(3), np.zeros(4, bool))
