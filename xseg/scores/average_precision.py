"""Average precision of one binary ranking, as scikit-learn defines it."""

import numpy as np
import numpy.typing as npt

from xseg.errors import BadInput
from xseg.scores.confusion import Ints
from xseg.scores.overlap import Floats
from xseg.shapes import check_shapes

Scores = npt.NDArray[np.floating]


def average_precision(scores: Scores, truth: npt.NDArray[np.bool_]) -> float:
    """Sum over distinct thresholds of (R_n - R_{n-1}) P_n, not interpolated; samples of equal score enter together.

    The definition of scikit-learn's `average_precision_score`. Only the order of the scores matters.

    Args:
        scores: (N,) floats, infinite ones allowed.
        truth: (N,) bool, which samples are positive.

    Returns:
        In [0, 1]; NaN without a positive sample, where scikit-learn warns and says 0.

    Raises:
        BadInput: a score that is not a number.
    """
    check_shapes(scores=(scores, "N"), truth=(truth, "N"))
    order, ends = _runs(scores)
    hits = np.cumsum(truth[order], dtype=np.float64)
    return _area(hits[ends], (ends + 1).astype(np.float64))


def grouped_average_precision(scores: Scores, positives: Ints, totals: Ints) -> float:
    """The same for samples that come in groups of one score: a sort of the groups replaces one of the samples.

    Args:
        scores: (M,) floats, one per group; groups may share a score.
        positives: (M,) integers, positive samples of each group, 0..totals.
        totals: (M,) integers, all samples of each group, 0 allowed.

    Returns:
        As `average_precision` of every score repeated `totals` times.

    Raises:
        BadInput: a score that is not a number.
    """
    check_shapes(scores=(scores, "M"), positives=(positives, "M"), totals=(totals, "M"))
    order, ends = _runs(scores)
    hits = np.cumsum(positives[order], dtype=np.float64)
    seen = np.cumsum(totals[order], dtype=np.float64)
    return _area(hits[ends], seen[ends])


def hard_average_precision(correct: int, known: int) -> float:
    """Average precision of a hard two-class decision over the concatenated one-hot [background, foreground].

    Of the 2 n scores n are 1, and of those a share a = correct / known is right; all others are 0. With the two
    thresholds this is a * a + (1 - a) / 2, whatever the classes: the published number holds nothing but the accuracy.

    Args:
        correct: pixels rightly decided.
        known: pixels of known truth.

    Returns:
        In [0.4375, 1]; NaN without a known pixel.
    """
    if not known:
        return float("nan")
    accuracy = correct / known
    return accuracy * accuracy + (1 - accuracy) / 2


def _runs(scores: Scores) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """An order with descending scores, and the places in it where a run of equal scores ends."""
    order = np.argsort(scores)[::-1]  # not stable, and need not be: within a run nothing is looked at
    ordered = scores[order]
    if len(ordered) and np.isnan(ordered[0]):
        raise BadInput("scores hold values that are not numbers", "make them again")
    ends = np.flatnonzero(ordered[1:] != ordered[:-1])
    return order, np.append(ends, len(ordered) - 1) if len(ordered) else ends


def _area(hits: Floats, seen: Floats) -> float:
    """From positives and samples up to each threshold, both (T,) and ascending."""
    if not len(hits) or not hits[-1]:
        return float("nan")
    kept = seen > 0  # groups without a sample make no threshold
    hits, seen = hits[kept], seen[kept]
    return float(np.sum(np.diff(hits, prepend=0.0) * (hits / seen)) / hits[-1])
