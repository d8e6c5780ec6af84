import numpy as np
import pytest
from scipy import stats

from tests.scores import oracle_maps as oracle
from xseg.scores.gradient_histogram import gradient_histogram
from xseg.scores.map_comparison import MEASURES, SeenMap, compare
from xseg.scores.similarity import ssim


def two_maps(seed, shape, signed=True):
    rng = np.random.default_rng(seed)
    first, noise = rng.standard_normal((2, *shape))
    maps = np.stack([first, first + rng.uniform(0.2, 2) * noise])
    maps = maps if signed else maps.clip(0)
    return maps / np.abs(maps).max(axis=(1, 2), keepdims=True)


@pytest.mark.parametrize(("shape", "size"), [((11, 11), 11), ((14, 23), 11), ((7, 9), 7), ((8, 20), 7), ((1, 5), 1)])
@pytest.mark.parametrize("data_range", [1.0, 2.0])
def test_ssim_equals_loops_over_windows(shape, size, data_range):
    first, second = two_maps(1, shape)
    assert ssim(first, second, data_range) == pytest.approx(
        oracle.ssim(first, second, data_range, size=size), abs=1e-13
    )


def test_ssim_equals_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    first, second = two_maps(2, (40, 31))
    expected = metrics.structural_similarity(
        first, second, data_range=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(first, second, 2.0) == pytest.approx(expected, abs=1e-12)


def test_ssim_is_one_for_equal_maps_symmetric_and_negative_for_opposite_ones():
    first, second = two_maps(3, (20, 20))
    assert ssim(first, first, 2.0) == pytest.approx(1)
    assert ssim(first, second, 2.0) == pytest.approx(ssim(second, first, 2.0), abs=1e-15)
    checks = (-1.0) ** np.indices((20, 20)).sum(0)
    assert ssim(checks, -checks, 2.0) < -0.9


def test_ssim_refuses_what_makes_no_sense():
    with pytest.raises(ValueError, match="second has shape"):
        ssim(np.zeros((4, 4)), np.zeros((4, 5)), 1.0)
    for values, data_range in ((np.zeros((0, 3)), 1.0), (np.zeros((3, 3)), 0.0)):
        with pytest.raises(ValueError, match="needed pixels and a positive number"):
            ssim(values, values, data_range)


@pytest.mark.parametrize("shape", [(48, 48), (53, 66)])
@pytest.mark.parametrize("rounded", [False, True])
def test_histograms_of_gradients_equal_loops_over_pixels(shape, rounded):
    image, _ = two_maps(4, shape)
    image = np.round(4 * image) / 4 if rounded else image
    np.testing.assert_allclose(gradient_histogram(image), oracle.hog(image), atol=1e-12)


def test_histograms_of_gradients_equal_scikit_image():
    feature = pytest.importorskip("skimage.feature")
    image, _ = two_maps(5, (70, 90))
    np.testing.assert_allclose(gradient_histogram(image), feature.hog(image, pixels_per_cell=(16, 16)), atol=1e-6)


def test_a_map_too_small_for_a_block_has_no_histogram():
    assert gradient_histogram(np.zeros((47, 100))) is None
    assert gradient_histogram(np.zeros((48, 48))).tolist() == [0] * 81


@pytest.mark.parametrize("signed", [True, False])
def test_the_measures_of_two_maps_whatever_their_scale(signed):
    first, second = two_maps(6, (50, 52), signed)
    found = compare(SeenMap.of(first * 7), SeenMap.of((second * 0.01).astype(np.float32)))
    assert tuple(found) == MEASURES
    expected = stats.spearmanr(first.ravel(), second.ravel()).statistic
    assert found["spearman"] == pytest.approx(expected, abs=1e-6)
    absolute = stats.spearmanr(np.abs(first).ravel(), np.abs(second).ravel()).statistic
    assert found["spearman_absolute"] == pytest.approx(absolute, abs=1e-6)
    assert (found["spearman"] == found["spearman_absolute"]) != signed
    assert found["ssim"] == pytest.approx(oracle.ssim(first, second, 2 if signed else 1), abs=1e-6)
    assert found["hog"] == pytest.approx(np.corrcoef(oracle.hog(first), oracle.hog(second))[0, 1], abs=1e-6)


def test_an_equal_map_has_every_measure_at_one():
    first, _ = two_maps(7, (50, 50))
    assert compare(SeenMap.of(first), SeenMap.of(2 * first)) == pytest.approx(dict.fromkeys(MEASURES, 1.0))


def test_what_is_not_defined_is_none_and_not_one():
    first, _ = two_maps(8, (50, 50))
    empty = np.zeros((50, 50))
    assert set(compare(SeenMap.of(empty), SeenMap.of(empty)).values()) == {None}
    half = compare(SeenMap.of(first), SeenMap.of(empty))
    assert half["ssim"] < 0.1
    assert half["spearman"] is half["spearman_absolute"] is half["hog"] is None
    broken = first.copy()
    broken[3, 3] = np.nan
    assert SeenMap.of(broken) is None
    assert set(compare(SeenMap.of(first), SeenMap.of(broken)).values()) == {None}
    small = compare(SeenMap.of(first[:9]), SeenMap.of(first[9:18]))
    assert small["hog"] is None
    assert small["ssim"] is not None
