"""Which grid nodes form a pair, and what the labels say about each (Ahn and Kwak 2018, arXiv:1803.10464).

A pair is kept at its first node: an array (offsets, h, w) holds at [k, y, x] the pair of (y, x) and (y, x) + offset k.
Offsets go right or down only, so every unordered pair occurs once.
"""

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from xseg.shapes import check_shapes

Offset = tuple[int, int]
Window = tuple[slice, slice]
Border = Literal["all", "psa"]
"""`all`: every pair inside the image. `psa`: the published index rule, which keeps only first nodes away from the
left, right and lower border, drops about 14 % of the pairs of a 56x56 grid and leaves ten nodes without a neighbour."""


def reach(radius: float) -> int:
    """Largest step along one axis of a pair within `radius` (exclusive).

    Raises:
        ValueError: the radius is not above 1, so that there is no pair at all.
    """
    if not math.isfinite(radius) or radius <= 1:
        raise ValueError(f"radius is {radius}, needed a number above 1")
    return math.ceil(radius) - 1


def half_offsets(radius: float) -> tuple[Offset, ...]:
    """Offsets (dy, dx) with dy² + dx² < radius², half of the disc, in row order (34 at radius 5)."""
    far = reach(radius)
    ahead = [(0, x) for x in range(1, far + 1)]
    below = [(y, x) for y in range(1, far + 1) for x in range(-far, far + 1)]
    return tuple((y, x) for y, x in ahead + below if y * y + x * x < radius * radius)


def check_pairs(pairs: Tensor, radius: float) -> None:
    """Check that a stack of pairs has one plane per offset.

    Args:
        pairs: (O, h, w), any dtype.
        radius: the radius it is said to be of.

    Raises:
        ValueError: O is not the number of offsets within `radius`.
    """
    needed = len(half_offsets(radius))
    if pairs.ndim != 3 or pairs.shape[0] != needed:
        raise ValueError(f"pairs have shape {tuple(pairs.shape)}, needed ({needed}, h, w) at radius {radius}")


def windows(height: int, width: int, radius: float, border: Border = "all") -> Iterator[tuple[int, Window, Window]]:
    """For each offset its index and the windows (rows, columns) of its first and of its second nodes.

    Both windows have the same size, so `x[..., *first]` and `x[..., *second]` are the two ends of every pair as views.
    Offsets that leave no pair in the grid are passed over.

    Raises:
        ValueError: unknown border mode.
    """
    if border not in ("all", "psa"):
        raise ValueError(f"border is {border!r}, needed 'all' or 'psa'")
    margin = reach(radius) if border == "psa" else 0
    for index, (dy, dx) in enumerate(half_offsets(radius)):
        bottom = height - max(dy, margin)
        left, right = max(-dx, margin), width - max(dx, margin)
        if bottom > 0 and right > left:
            yield (
                index,
                (slice(0, bottom), slice(left, right)),
                (slice(dy, bottom + dy), slice(left + dx, right + dx)),
            )


class PairLabels(NamedTuple):
    """What the labels say about each pair: bool masks (B, O, h, w), mutually exclusive.

    A pair outside the grid, or with an unknown end, is in none of them.
    """

    background: Tensor
    """Both ends are background."""
    foreground: Tensor
    """Both ends are the same class."""
    negative: Tensor
    """The ends differ."""


def pair_labels(labels: Tensor, radius: float = 5, border: Border = "all", *, ignore: int = 255) -> PairLabels:
    """Class-agnostic labels of all pairs (Ahn and Kwak 2018, section 3.2; psa's VOC12AffDataset).

    Args:
        labels: (B, h, w) integer class ids, 0 background, `ignore` unknown.
        radius: pairs closer than this (exclusive), in nodes.
        border: which pairs exist.
        ignore: the id of unknown nodes.

    Raises:
        ValueError: `labels` does not have three axes.
    """
    batch, height, width = check_shapes(labels=(labels, "B h w")).values()
    shape = (batch, len(half_offsets(radius)), height, width)
    masks = PairLabels(*(torch.zeros(shape, dtype=torch.bool, device=labels.device) for _ in range(3)))
    for index, first, second in windows(height, width, radius, border):
        here, there = labels[:, *first], labels[:, *second]
        known = (here != ignore) & (there != ignore)
        same = (here == there) & known
        masks.background[:, index, *first] = same & (here == 0)
        masks.foreground[:, index, *first] = same & (here != 0)
        masks.negative[:, index, *first] = known & ~same
    return masks
