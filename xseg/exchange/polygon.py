"""The pixels of a polygon, as COCO fills it."""

import numpy as np
import numpy.typing as npt

Points = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
_FINER = 5  # the boundary is drawn on a grid so many times finer


def inside(corners: npt.NDArray[np.float64], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Pixels inside a polygon, the very ones that pycocotools' `rleFrPoly` fills.

    The boundary is drawn in steps on a finer grid; where it crosses the middle of a column, everything from there on
    changes sides.

    Args:
        corners: (N,2) x and y in pixels from the upper left corner of the image, in or near it.
        size: height and width of the image.

    Returns:
        (H,W).
    """
    height, width = size
    x, y = _boundary(np.trunc(_FINER * corners + 0.5).astype(np.int64))
    back = x[1:] < x[:-1]
    column = (np.where(back, x[1:], x[1:] - 1) + 0.5) / _FINER - 0.5
    row = np.ceil(np.clip((np.minimum(y[1:], y[:-1]) + 0.5) / _FINER - 0.5, 0, height))
    crossed = (x[1:] != x[:-1]) & (np.floor(column) == column) & (column >= 0) & (column <= width - 1)
    places = (column[crossed] * height + row[crossed]).astype(np.int64)
    changes = np.bincount(places, minlength=height * width + 1)[: height * width]
    return (np.cumsum(changes) % 2 == 1).reshape(size, order="F")


def _boundary(corners: npt.NDArray[np.int64]) -> Points:
    """Points x and y of the closed line through corners (N,2), one for each step along the longer side of an edge."""
    ends = np.roll(corners, -1, axis=0)
    flat = np.abs(ends - corners)[:, 0] >= np.abs(ends - corners)[:, 1]
    start, end = (np.where(flat[:, None], points, points[:, ::-1]) for points in (corners, ends))  # longer side first
    turned = start[:, 0] > end[:, 0]  # rounded from the lower end on, whichever way the edge is walked
    low, high = np.where(turned[:, None], end, start), np.where(turned[:, None], start, end)
    length, rise = (high - low).T
    edge = np.repeat(np.arange(len(corners)), length + 1)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(length + 1) - length - 1, length + 1)
    step = np.where(turned[edge], length[edge] - step, step)
    along = low[edge, 0] + step
    across = np.trunc(low[edge, 1] + (rise / np.maximum(1, length))[edge] * step + 0.5).astype(np.int64)
    return np.where(flat[edge], along, across), np.where(flat[edge], across, along)
