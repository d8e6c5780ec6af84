"""Histograms of oriented gradients of a map."""

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from xseg.scores.overlap import Floats
from xseg.shapes import check_shapes

CELL, BLOCK, ORIENTATIONS = 16, 3, 9
_EPSILON, _MOST = 1e-5, 0.2


def gradient_histogram(image: npt.ArrayLike) -> Floats | None:
    """The descriptor of Dalal and Triggs (2005), computed in float64, with the numbers of Adebayo et al. (2018).

    Central differences (0 at the border), 9 unsigned orientations without interpolation, the mean magnitude of each
    in cells of 16 x 16 pixels, blocks of 3 x 3 cells with stride 1, each divided by its length, cut at 0.2 and
    divided again (L2-Hys). It equals `skimage.feature.hog(image, pixels_per_cell=(16, 16))`.

    Args:
        image: (H,W), finite, about 1 at most: what is much smaller drowns in the 1e-5 that is added to lengths.

    Returns:
        (rows * columns * 81,) values in [0, 1]; None where a side is below 48 pixels, which hold no block.
    """
    values = np.asarray(image, np.float64)
    check_shapes(image=(values, "H W"))
    rows, columns = (side // CELL for side in values.shape)
    if min(rows, columns) < BLOCK:
        return None
    down, right = np.zeros_like(values), np.zeros_like(values)
    down[1:-1] = values[2:] - values[:-2]
    right[:, 1:-1] = values[:, 2:] - values[:, :-2]
    angle = np.rad2deg(np.arctan2(down, right)) % 180
    bin_ = (angle / (180 / ORIENTATIONS)).astype(np.intp) % ORIENTATIONS
    cell = (np.arange(values.shape[0]) // CELL)[:, None] * columns + np.arange(values.shape[1]) // CELL
    inside = np.s_[: rows * CELL, : columns * CELL]
    place = cell[inside] * ORIENTATIONS + bin_[inside]
    magnitude = np.hypot(down, right)[inside]
    total = np.bincount(place.ravel(), magnitude.ravel(), rows * columns * ORIENTATIONS)
    cells = total.reshape(rows, columns, ORIENTATIONS) / CELL**2
    blocks = np.moveaxis(sliding_window_view(cells, (BLOCK, BLOCK), axis=(0, 1)), 2, -1)
    blocks = blocks.reshape(-1, BLOCK**2 * ORIENTATIONS)
    return _unit_rows(np.minimum(_unit_rows(blocks), _MOST)).ravel()


def _unit_rows(rows: Floats) -> Floats:
    return rows / np.sqrt((rows**2).sum(1, keepdims=True) + _EPSILON**2)
