"""Coarse grids laid over a picture: windows that slide over it, and what a value between two cells is."""

import math

from torch import Tensor


def windows(length: int, window: int, stride: int) -> list[tuple[int, int]]:
    """Start and stop of the windows that cover a side of `length` pixels; the last one is cut off at the edge."""
    last = math.ceil(max(length - window, 0) / stride)
    return [(i * stride, min(i * stride + window, length)) for i in range(last + 1)]


def linear_weights(places: Tensor, cells: int) -> Tensor:
    """Weights that interpolate linearly between `cells` values; matrix products with them are deterministic anywhere.

    Args:
        places: (L,) float in (-1, `cells`): the centre of cell i is at i; beyond the outer centres the values are
            mirrored at those (the edge not repeated).
        cells: number of values.

    Returns:
        (L,`cells`) in the dtype of `places`; each row sums to 1.
    """
    low = places.floor()
    share = places - low
    weights = places.new_zeros(len(places), cells)
    for index, part in ((low, 1 - share), (low + 1, share)):
        folded = (cells - 1 - (cells - 1 - index.abs()).abs()).clamp(0)
        weights.scatter_add_(1, folded.long()[:, None], part[:, None])
    return weights
