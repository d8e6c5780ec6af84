"""Calibration: do probabilities agree with how often what they announce is true?"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from xseg.scores.estimates import Statistic
from xseg.scores.overlap import Floats
from xseg.shapes import check_shapes

BINS = 15


def equal_width(probability: Floats, bins: int = BINS) -> npt.NDArray[np.intp]:
    """Bin of each probability: ((m - 1) / M, m / M] for m = 1..M, numbered from 0; 0 itself is in the first.

    The bins of Guo et al. 2017, arXiv:1706.04599.

    Args:
        probability: any shape, in [0, 1].
        bins: their number M.
    """
    edges = np.arange(bins + 1) / bins
    return np.clip(np.searchsorted(edges, probability, side="left") - 1, 0, bins - 1)


def equal_mass(probability: Floats, bins: int = BINS) -> npt.NDArray[np.intp]:
    """Bin of each probability such that every bin holds as many: floor(M * (how many are lower) / N).

    Adaptive bins (Nguyen and O'Connor 2015, arXiv:1508.05154; Nixon et al. 2019, arXiv:1904.01685). Equal probabilities
    share a bin, so that their order does not matter; bins differ in size by that, and by one.

    Args:
        probability: (N,) in [0, 1].
        bins: their number M.
    """
    lower = np.searchsorted(np.sort(probability), probability, side="left")
    return (lower * bins) // max(1, len(probability))


@dataclass(frozen=True)
class Binned:
    """Predictions of N images in M bins, summed by image.

    Attributes:
        count: (N,M) predictions.
        confidence: (N,M) sum of their probabilities.
        hits: (N,M) how many came true.
        low: (M,) lower end of each bin, NaN for an empty adaptive one.
        high: (M,) upper end.
    """

    count: Floats
    confidence: Floats
    hits: Floats
    low: Floats
    high: Floats


def binned(probability: Floats, outcome: Floats, known: npt.NDArray[np.bool_], *, adaptive: bool = False) -> Binned:
    """Sort predictions into 15 bins.

    Args:
        probability: (N,K) in [0, 1]: K predictions per image.
        outcome: (N,K) 1 where it came true, 0 where not (or between, where it was one of several equal guesses).
        known: (N,K) the predictions that count.
        adaptive: bins of equal mass rather than of equal width.
    """
    check_shapes(probability=(probability, "N K"), outcome=(outcome, "N K"), known=(known, "N K"))
    image = np.nonzero(known)[0]
    values = probability[known]
    bins = equal_mass(values) if adaptive else equal_width(values)
    cell = image * BINS + bins

    def summed(weights: Floats) -> Floats:
        sums = np.bincount(cell, weights, minlength=len(known) * BINS).astype(np.float64)
        return sums.reshape(len(known), BINS)

    low, high = np.arange(BINS) / BINS, np.arange(1, BINS + 1) / BINS
    if adaptive:
        low, high = np.full((2, BINS), np.nan)
        for at in np.unique(bins):
            low[at], high[at] = values[bins == at].min(), values[bins == at].max()
    return Binned(summed(np.ones(len(values))), summed(values), summed(outcome[known]), low, high)


def calibration_error(found: Binned) -> Statistic:
    """The expected calibration error: mean over predictions of |mean probability - frequency| of their bin.

    Under resampling the bins stay those of the whole set.
    """
    gap = found.confidence - found.hits

    def statistic(weights: Floats) -> Floats:
        count = (weights @ found.count).sum(axis=1)
        error = np.abs(weights @ gap).sum(axis=1)
        return np.divide(error, count, out=np.full(count.shape, np.nan), where=count > 0)[:, None]

    return statistic


def reliability(found: Binned) -> list[dict[str, Any]]:
    """The reliability diagram as rows, JSON-able: each bin's ends, predictions, mean probability and frequency."""
    rows = []
    for at in range(BINS):
        count = found.count[:, at].sum()
        rows.append(
            {
                "low": None if np.isnan(found.low[at]) else float(found.low[at]),
                "high": None if np.isnan(found.high[at]) else float(found.high[at]),
                "count": int(count),
                "confidence": float(found.confidence[:, at].sum() / count) if count else None,
                "frequency": float(found.hits[:, at].sum() / count) if count else None,
            }
        )
    return rows
