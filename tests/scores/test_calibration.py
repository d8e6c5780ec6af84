import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scores import oracle_classification as oracle
from xseg.device import torchvision_ready
from xseg.scores.calibration import BINS, binned, calibration_error, equal_mass, equal_width, reliability


def predictions(seed, images=40, per_image=3, levels=None):
    rng = np.random.default_rng(seed)
    probability = rng.random((images, per_image))
    if levels:
        probability = np.round(probability * levels) / levels
    outcome = (rng.random((images, per_image)) < probability**2).astype(float)
    return probability, outcome, rng.random((images, per_image)) < 0.8


def error_of(*given, adaptive=False, weights=None):
    found = binned(*given, adaptive=adaptive)
    return calibration_error(found)(np.ones((1, len(given[0]))) if weights is None else weights)[:, 0]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([None, 5, 15, 60]))
def test_the_errors_equal_loops_over_predictions(seed, levels):
    probability, outcome, known = predictions(seed, levels=levels)
    values, came = probability[known].tolist(), outcome[known].tolist()
    expected = oracle.calibration_error(values, came, oracle.even_bin)
    assert error_of(probability, outcome, known)[0] == pytest.approx(expected, abs=1e-12)
    expected = oracle.calibration_error(values, came, lambda p: oracle.adaptive_bin(p, values))
    assert error_of(probability, outcome, known, adaptive=True)[0] == pytest.approx(expected, abs=1e-12)


def test_even_bins_equal_torchmetrics():
    torchvision_ready()
    metrics = pytest.importorskip("torchmetrics.functional.classification")
    probability, outcome, known = predictions(1, 500)
    told = torch.tensor(probability[known]), torch.tensor(outcome[known]).long()
    expected = metrics.binary_calibration_error(*told, n_bins=15, norm="l1").item()
    assert error_of(probability, outcome, known)[0] == pytest.approx(expected, abs=1e-6)


def test_the_ends_of_bins_belong_to_the_bin_below():
    assert equal_width(np.array([0, 1e-9, 1 / 15, 1 / 15 + 1e-9, 14 / 15, 1])).tolist() == [0, 0, 0, 1, 13, 14]
    assert equal_width(np.arange(16) / 15).tolist() == [0, *range(15)]


def test_adaptive_bins_have_equal_mass_and_keep_equal_values_together():
    values = np.random.default_rng(0).permutation(100) / 100
    assert set(np.bincount(equal_mass(values)).tolist()) == {6, 7}
    tied = np.repeat([0.1, 0.5, 0.9], 20)
    assert len(set(equal_mass(tied).tolist())) == 3
    shuffled = np.random.default_rng(1).permutation(60)
    np.testing.assert_array_equal(equal_mass(tied[shuffled]), equal_mass(tied)[shuffled])
    assert equal_mass(np.array([0.3])).tolist() == [0]


def test_a_calibrated_predictor_has_almost_no_error_and_a_sure_one_all_of_it():
    rng = np.random.default_rng(2)
    probability = rng.random((200_000, 1))
    came = (rng.random((200_000, 1)) < probability).astype(float)
    known = np.ones(came.shape, bool)
    for adaptive in (False, True):
        assert error_of(probability, came, known, adaptive=adaptive)[0] < 0.006
        # announced 0.3 too high: wrong by just that
        shifted = 0.3 + 0.7 * probability
        expected = np.mean(shifted - probability)
        assert error_of(shifted, came, known, adaptive=adaptive)[0] == pytest.approx(expected, abs=0.005)
    assert error_of(np.ones((9, 1)), np.zeros((9, 1)), np.ones((9, 1), bool))[0] == 1


def test_a_repeated_image_counts_as_often_as_it_is_drawn():
    probability, outcome, known = predictions(3, 12)
    weights = np.random.default_rng(4).integers(0, 4, (5, 12)).astype(float)
    for row, found in zip(weights, error_of(probability, outcome, known, weights=weights), strict=True):
        repeated = [np.repeat(one, row.astype(int), axis=0) for one in (probability, outcome, known)]
        assert found == pytest.approx(error_of(*repeated)[0], abs=1e-12)
    assert np.isnan(error_of(probability, outcome, known & False)).all()


def test_the_reliability_table_adds_up():
    probability, outcome, known = predictions(5)
    for adaptive in (False, True):
        found = binned(probability, outcome, known, adaptive=adaptive)
        rows = reliability(found)
        assert len(rows) == BINS
        assert sum(row["count"] for row in rows) == known.sum()
        filled = [row for row in rows if row["count"]]
        error = sum(row["count"] * abs(row["confidence"] - row["frequency"]) for row in filled) / known.sum()
        assert error == pytest.approx(error_of(probability, outcome, known, adaptive=adaptive)[0])
        assert all(row["low"] <= row["confidence"] <= row["high"] for row in filled)
    few = reliability(binned(np.full((3, 1), 0.5), np.ones((3, 1)), np.ones((3, 1), bool), adaptive=True))
    assert few[0] == {"low": 0.5, "high": 0.5, "count": 3, "confidence": 0.5, "frequency": 1}
    assert few[1] == {"low": None, "high": None, "count": 0, "confidence": None, "frequency": None}
