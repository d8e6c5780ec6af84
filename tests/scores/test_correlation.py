import numpy as np
import pytest
from scipy import stats

from xseg.scores.correlation import pearson, ranks, spearman


def two_maps(seed, kind, shape=(17, 23)):
    rng = np.random.default_rng(seed)
    first, noise = rng.standard_normal((2, *shape))
    second = first + rng.uniform(0.1, 3) * noise
    if kind == "rectified":  # most values tie at 0
        return first.clip(0.5) - 0.5, second.clip(0.5) - 0.5
    if kind == "rounded":
        return np.round(first), np.round(second)
    if kind == "half":
        return first.astype(np.float16), second.astype(np.float16)
    return first * 1e-30, second * 1e30


@pytest.mark.parametrize("kind", ["rectified", "rounded", "half", "extreme"])
@pytest.mark.parametrize("seed", range(5))
def test_correlations_equal_scipy(kind, seed):
    first, second = two_maps(seed, kind)
    wide = [np.asarray(one, np.float64).ravel() for one in (first, second)]
    assert pearson(first, second) == pytest.approx(stats.pearsonr(*wide).statistic, abs=1e-12)
    assert spearman(first, second) == pytest.approx(stats.spearmanr(*wide).statistic, abs=1e-12)
    assert np.array_equal(ranks(first), stats.rankdata(wide[0]))


def test_a_monotone_change_keeps_the_rank_correlation_at_one():
    first, _ = two_maps(0, "rounded")
    assert spearman(first, np.exp(first)) == pytest.approx(1, abs=1e-14)
    assert spearman(first, -(first**3)) == pytest.approx(-1, abs=1e-14)
    assert pearson(first, np.exp(first)) < 0.99
    assert pearson(first, 3 - 2 * first) == pytest.approx(-1, abs=1e-14)


def test_a_constant_map_has_no_correlation():
    first, _ = two_maps(0, "rounded")
    for flat in (np.zeros_like(first), np.full_like(first, 0.1)):
        assert pearson(first, flat) is None
        assert pearson(flat, first) is None
        assert spearman(first, flat) is None
    assert pearson([1.0], [2.0]) is None
    assert pearson([], []) is None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_have_no_correlation(bad):
    first, second = two_maps(0, "rounded")
    second[0, 0] = bad
    assert pearson(first, second) is None
    assert spearman(first, second) is None


def test_maps_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"shapes \(2, 3\) and \(3, 2\)"):
        pearson(np.zeros((2, 3)), np.zeros((3, 2)))
