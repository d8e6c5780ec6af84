"""A large image window by window, and what was found in overlapping windows averaged."""

from collections.abc import Callable

import torch
from torch import Tensor


def starts(length: int, window: int, step: int) -> list[int]:
    """Where windows begin along an axis: every `step`, the last one at the end, so that all of it is covered.

    Args:
        length: of the axis.
        window: length of a window; one that is longer than the axis begins at 0.
        step: most places between two beginnings, 1..window.

    Raises:
        ValueError: a step that would leave gaps.
    """
    if not 1 <= step <= window:
        raise ValueError(f"step is {step}, needed 1..{window}")
    last = max(length - window, 0)
    return [*range(0, last, step), last]


def windowed(
    look: Callable[[Tensor], Tensor], images: Tensor, window: tuple[int, int], step: tuple[int, int]
) -> Tensor:
    """What `look` finds in windows of images, at each place averaged over the windows that cover it.

    Args:
        look: maps (N,C,h,w) to (N,K,h,w).
        images: (N,C,H,W).
        window: height and width; an image that is smaller is one window in that direction.
        step: most pixels from window to window.

    Returns:
        (N,K,H,W).
    """
    height, width = images.shape[2:]
    rows, columns = (starts(*axis) for axis in zip((height, width), window, step, strict=True))
    if len(rows) == len(columns) == 1:
        return look(images)
    total: Tensor | None = None
    times = images.new_zeros(height, width)
    for top in rows:
        for left in columns:
            place = (..., slice(top, top + window[0]), slice(left, left + window[1]))
            found = look(images[place])
            if total is None:
                total = found.new_zeros(len(images), found.shape[1], height, width)
            total[place] += found
            times[place] += 1
    assert total is not None  # there is at least one window
    return total / torch.clamp(times, min=1)
