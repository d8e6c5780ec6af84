"""A threshold by area prior, searched one by one in float64; imports nothing from xseg."""

import numpy as np

STEPS = 65536


def mean_share(images, threshold):
    """Mean over images (list of arrays) of the share of values above the threshold."""
    return np.mean([np.mean(image.astype(np.float64) > threshold) for image in images])


def lowest_threshold(images, share):
    """The first of (k + 1/2) / 65536 that leaves a mean share of at most `share`."""
    ordered = [np.sort(image.astype(np.float64), axis=None) for image in images]
    grid = (np.arange(STEPS) + 0.5) / STEPS
    shares = np.mean([1 - np.searchsorted(values, grid, side="right") / len(values) for values in ordered], axis=0)
    return grid[np.flatnonzero(shares <= share + 1e-12)[0]]
