"""Correlations of maps: Pearson's, and Spearman's with ties."""

import numpy as np
import numpy.typing as npt

from xseg.scores.overlap import Floats


def ranks(values: npt.ArrayLike) -> Floats:
    """Ranks 1..n of all values, equal ones sharing the mean of theirs; (n,) float64 in the order of `values.ravel()`.

    Ties are the rule in heatmaps: whatever a ReLU set to zero, and what interpolation repeats.
    """
    _, place, count = np.unique(np.asarray(values).ravel(), return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count - 1) / 2)[place.ravel()]


def pearson(first: npt.ArrayLike, second: npt.ArrayLike) -> float | None:
    """Pearson's correlation of two arrays of one shape, computed in float64.

    Returns:
        A number in [-1, 1]; None where one of the two is constant, empty or not finite: it has no correlation.

    Raises:
        ValueError: shapes that differ.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape:
        raise ValueError(f"shapes {first.shape} and {second.shape}, needed equal ones")
    one, other = _unit(first.ravel()), _unit(second.ravel())
    return None if one is None or other is None else float(np.clip(one @ other, -1, 1))


def spearman(first: npt.ArrayLike, second: npt.ArrayLike) -> float | None:
    """Spearman's rank correlation of two arrays of one shape: Pearson's of their `ranks`; None as there."""
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        return None
    return pearson(ranks(first), ranks(second))


def _unit(values: Floats) -> Floats | None:
    """Deviations from the mean, scaled to length 1."""
    if not np.isfinite(values).all() or not values.size or values.min() == values.max():
        return None
    deviation = values - values.mean()
    deviation /= np.abs(deviation).max()  # so that squares of very small or large values stay in range
    return deviation / np.sqrt(deviation @ deviation)
