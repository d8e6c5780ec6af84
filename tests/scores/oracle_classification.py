"""Calibration in plain loops; nothing from xseg."""

import math


def even_bin(p, bins=15):
    """Number of the bin ((m - 1) / M, m / M] that p is in; 0 is in the first."""
    for m in range(1, bins + 1):
        if p <= m / bins:
            return m - 1
    raise AssertionError(p)


def adaptive_bin(p, everyone, bins=15):
    """Bins of equal mass: by how many of all probabilities are lower."""
    return math.floor(bins * sum(other < p for other in everyone) / len(everyone))


def calibration_error(probabilities, outcomes, bin_of):
    """Mean over predictions of |mean probability - frequency| of their bin."""
    bins = {}
    for p, outcome in zip(probabilities, outcomes, strict=True):
        bins.setdefault(bin_of(p), []).append((p, outcome))
    error = 0.0
    for held in bins.values():
        confidence = sum(p for p, _ in held) / len(held)
        frequency = sum(outcome for _, outcome in held) / len(held)
        error += len(held) / len(probabilities) * abs(confidence - frequency)
    return error
