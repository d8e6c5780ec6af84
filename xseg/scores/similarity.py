"""Structural similarity of two maps."""

import numpy as np
import numpy.typing as npt

from xseg.scores.overlap import Floats
from xseg.shapes import check_shapes

WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03


def ssim(first: npt.ArrayLike, second: npt.ArrayLike, data_range: float) -> float:
    """Mean structural similarity (Wang et al. 2004, doi:10.1109/TIP.2003.819861), computed in float64.

    Local means, variances and the covariance come from a Gaussian window of 11 x 11 (sigma 1.5, weights that add up to
    1, population moments), only where it lies inside the maps. On maps with a side below 11 the window is the largest
    odd square that fits.

    Args:
        first: (H,W), finite.
        second: (H,W), finite.
        data_range: largest value less smallest one that the maps can take, above 0.

    Returns:
        A number in [-1, 1]: 1 for equal maps, below 0 where structures are opposite.

    Raises:
        ValueError: shapes that differ or have no pixel, or a range that is not positive.
    """
    one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
    sizes = check_shapes(first=(one, "H W"), second=(other, "H W"))
    if not one.size or not data_range > 0:
        raise ValueError(f"shape {one.shape} and data_range {data_range}, needed pixels and a positive number")
    weights = _gaussian(min(WINDOW, *(size - 1 + size % 2 for size in sizes.values())))
    mean, mean_other = _blurred(one, weights), _blurred(other, weights)
    variance = _blurred(one * one, weights) - mean**2
    variance_other = _blurred(other * other, weights) - mean_other**2
    covariance = _blurred(one * other, weights) - mean * mean_other
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    luminance = (2 * mean * mean_other + c1) / (mean**2 + mean_other**2 + c1)
    return float((luminance * (2 * covariance + c2) / (variance + variance_other + c2)).mean())


def _gaussian(size: int) -> Floats:
    offset = np.arange(size) - size // 2
    weights = np.exp(-0.5 * (offset / SIGMA) ** 2)
    return weights / weights.sum()


def _blurred(values: Floats, weights: Floats) -> Floats:
    """Weighted sums over rows, then columns, where the window fits."""
    for _ in range(2):
        rows = len(values) - len(weights) + 1
        values = sum(weight * values[k : k + rows] for k, weight in enumerate(weights)).T
    return values
