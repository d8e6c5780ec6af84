"""Noisy linear imputation of ROAD: what hides a pixel is the mean of its neighbours, so that the hole has no outline.

Rong et al. 2022, "A Consistent and Efficient Evaluation Strategy for Attribution Methods", arXiv:2202.00449, Section 4.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

NOISE = 0.01  # standard deviation of the published noise, for pixel values in [0, 1]
_TOLERANCE = 1e-9  # of the residual's norm; values are then right to about 1e-7
_SMALLEST = 4  # pixels: no level of the solver has a shorter side
_LAST_SWEEPS = 8
_MOST_ITERATIONS = 1000


def impute(images: Tensor, removed: Tensor, noise: Tensor | None = None, tolerance: float = _TOLERANCE) -> Tensor:
    """Fill removed pixels with the solution of the linear system "every one is the weighted mean of its neighbours".

    Direct neighbours weigh 1/6, diagonal ones 1/12; at the image's border those outside are left out and the others
    weigh accordingly more, as in the authors' code. The system is symmetric and positive definite; it is solved by
    conjugate gradients behind one multigrid cycle, in float64, each image on its own, so that a batch changes nothing.

    Args:
        images: (N,C,H,W) float, pixel values before normalisation.
        removed: (N,H,W) bool; at least one pixel of each image stays.
        noise: (N,C,H,W), added to the filled pixels; None for none.
        tolerance: residual at which an image is done, as a fraction of that of the all-zero solution.

    Returns:
        (N,C,H,W) in the dtype and on the device of `images`; what was not removed is unchanged.

    Raises:
        ValueError: an image of which nothing stays.
    """
    if bool(removed.flatten(1).all(1).any()):
        raise ValueError("every pixel of an image is removed, needed one to fill the others from")
    unknown = removed[:, None]
    device = images.device if images.device.type != "mps" else torch.device("cpu")  # which has no float64
    filled = _solve(images.detach().to(device, torch.float64), unknown.to(device), tolerance).to(images)
    if noise is not None:
        filled = filled + noise.to(images)
    return torch.where(unknown, filled, images)


def _solve(values: Tensor, unknown: Tensor, tolerance: float) -> Tensor:
    """Conjugate gradients for all images and colours at once; whatever is done stays as it is while others go on.

    Args:
        values: (N,C,H,W) float64; only the known ones are looked at.
        unknown: (N,1,H,W) bool.
        tolerance: as in `impute`.
    """
    levels = _levels(unknown.to(values.dtype))
    finest = levels[0]
    residual = finest.unknown * _neighbours(values * (1 - finest.unknown))
    limit = tolerance * _norm(residual)
    solution, direction, last = torch.zeros_like(residual), torch.zeros_like(residual), torch.ones_like(limit)
    for _ in range(_MOST_ITERATIONS):
        going = _norm(residual) > limit
        if not bool(going.any()):
            break
        smoothed = _cycle(levels, residual)
        product = _dot(residual, smoothed)
        direction = smoothed + product / last * direction
        applied = finest.apply(direction)
        energy = _dot(direction, applied)
        step = torch.where(going & (energy > 0), product / energy, 0.0)
        solution = solution + step * direction
        residual = residual - step * applied
        last = torch.where(going, product, torch.ones_like(product))
    return solution


@dataclass(frozen=True)
class _Level:
    """The system on one grid: `unknown` (N,1,h,w) of 0 and 1, `weight` (1,1,h,w) the sum of the neighbours' weights."""

    unknown: Tensor
    weight: Tensor

    def apply(self, values: Tensor) -> Tensor:
        """The matrix times `values` (N,C,h,w), which are 0 where not unknown."""
        return self.unknown * (self.weight * values - _neighbours(values))


def _levels(unknown: Tensor) -> list[_Level]:
    """Grids from the finest to the coarsest; a coarse cell is unknown if all pixels below it are."""
    found = []
    while True:
        found.append(_Level(unknown, _neighbours(torch.ones_like(unknown[:1]))))
        height, width = unknown.shape[2:]
        if min(height, width) < 2 * _SMALLEST or not bool(unknown.any()):
            return found
        padded = functional.pad(unknown, (0, width % 2, 0, height % 2), value=1.0)
        unknown = padded.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).amin((3, 5))


def _cycle(levels: list[_Level], right: Tensor, depth: int = 0) -> Tensor:
    """One V-cycle: a symmetric approximation of the inverse of the matrix, times `right` (N,C,h,w)."""
    level = levels[depth]
    values = level.unknown * right / level.weight
    if depth + 1 == len(levels):
        for _ in range(_LAST_SWEEPS):
            values = values + (right - level.apply(values)) / level.weight * level.unknown
        return values
    below = _shrink(_shrink(right - level.apply(values), 2), 3) * levels[depth + 1].unknown
    coarse = _cycle(levels, below, depth + 1)
    height, width = right.shape[2:]
    values = values + level.unknown * _enlarge(_enlarge(coarse, 2, height), 3, width)
    return values + level.unknown * (right - level.apply(values)) / level.weight


def _neighbours(values: Tensor) -> Tensor:
    """Sum of the eight neighbours of each pixel of (N,C,h,w), direct ones times 1/6, diagonal ones times 1/12."""
    return (_one_two_one(_one_two_one(values, 2), 3) - 4 * values) / 12


def _one_two_one(values: Tensor, axis: int) -> Tensor:
    """Along one axis each value twice, plus those before and after it; nothing beyond the ends."""
    length = values.shape[axis]
    total = 2 * values
    total.narrow(axis, 1, length - 1).add_(values.narrow(axis, 0, length - 1))
    total.narrow(axis, 0, length - 1).add_(values.narrow(axis, 1, length - 1))
    return total


def _enlarge(values: Tensor, axis: int, length: int) -> Tensor:
    """Linear interpolation to twice as many values along an axis, cut to `length`; the ends are repeated outwards."""
    size = values.shape[axis]
    before = torch.cat([values.narrow(axis, 0, 1), values.narrow(axis, 0, size - 1)], axis)
    after = torch.cat([values.narrow(axis, 1, size - 1), values.narrow(axis, size - 1, 1)], axis)
    pairs = torch.stack([0.75 * values + 0.25 * before, 0.75 * values + 0.25 * after], axis + 1)
    return pairs.flatten(axis, axis + 1).narrow(axis, 0, length)


def _shrink(values: Tensor, axis: int) -> Tensor:
    """The transpose of `_enlarge`."""
    if values.shape[axis] % 2:
        values = torch.cat([values, torch.zeros_like(values.narrow(axis, 0, 1))], axis)
    even, odd = values.unflatten(axis, (-1, 2)).unbind(axis + 1)
    size = even.shape[axis]
    total = 0.75 * (even + odd)
    total.narrow(axis, 0, size - 1).add_(even.narrow(axis, 1, size - 1), alpha=0.25)
    total.narrow(axis, 0, 1).add_(even.narrow(axis, 0, 1), alpha=0.25)
    total.narrow(axis, 1, size - 1).add_(odd.narrow(axis, 0, size - 1), alpha=0.25)
    total.narrow(axis, size - 1, 1).add_(odd.narrow(axis, size - 1, 1), alpha=0.25)
    return total


def _dot(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum((2, 3), keepdim=True)


def _norm(values: Tensor) -> Tensor:
    return _dot(values, values).sqrt()
