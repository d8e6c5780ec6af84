"""Slow float64 re-derivations of what a segmenter computes; imports nothing from xseg."""

import numpy as np


def cross_entropy(logits, labels, weights=None):
    """Sum of weight times -log softmax over pixels with a label >= 0: logits (N,K,H,W), labels (N,H,W)."""
    total = 0.0
    for n, row, column in np.argwhere(labels >= 0):
        values = logits[n, :, row, column].astype(np.float64)
        log_sum = values.max() + np.log(np.exp(values - values.max()).sum())
        weight = 1.0 if weights is None else float(weights[n, row, column])
        total += weight * (log_sum - values[labels[n, row, column]])
    return total


def cross_entropy_gradient(logits, labels, weights):
    """Of `cross_entropy` by its logits, float64: weight (softmax - one-hot) where there is a label."""
    found = np.zeros(logits.shape)
    for n, row, column in np.argwhere(labels >= 0):
        powers = np.exp(logits[n, :, row, column] - logits[n, :, row, column].max())
        powers /= powers.sum()
        powers[labels[n, row, column]] -= 1
        found[n, :, row, column] = weights[n, row, column] * powers
    return found


def averaged_windows(look, image, window, tops, lefts):
    """Mean over the windows at `tops` x `lefts` that cover a place: image (C,H,W), look (C,h,w) -> (K,h,w)."""
    found = {}
    for top in tops:
        for left in lefts:
            seen = look(image[:, top : top + window, left : left + window])
            for row in range(seen.shape[1]):
                for column in range(seen.shape[2]):
                    found.setdefault((top + row, left + column), []).append(seen[:, row, column].astype(np.float64))
    height, width = image.shape[1:]
    return np.stack([[np.mean(found[row, column], 0) for column in range(width)] for row in range(height)]).transpose(
        2, 0, 1
    )


def moving_average(values, decay):
    """Averages after each of the values that follow the first, with d = min(decay, (1 + n) / (10 + n))."""
    average, found = np.float64(values[0]), []
    for number, value in enumerate(values[1:], 1):
        share = min(decay, (1 + number) / (10 + number))
        average = share * average + (1 - share) * np.float64(value)
        found.append(average)
    return found


def bilinear(maps, size):
    """(K,h,w) at the pixel centres of a grid of `size`, edges repeated, in float64."""
    for axis, new in ((1, size[0]), (2, size[1])):
        old = maps.shape[axis]
        places = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(places).astype(int)
        high = np.minimum(low + 1, old - 1)
        share = (places - low).reshape([-1 if a == axis else 1 for a in range(3)])
        maps = np.take(maps, low, axis) * (1 - share) + np.take(maps, high, axis) * share
    return maps
