"""Permutohedral lattice: Gaussian filtering of scattered points in a few dimensions, in batched torch.

Adams, Baek and Davis 2010, "Fast High-Dimensional Filtering Using the Permutohedral Lattice". A point is spread over
the d+1 corners of its simplex (splat), neighbouring vertices are mixed along d+1 axes (blur), and points read their
corners (slice). Only vertices that some point touches exist, so a feature that is one rounding step off can make or
lose a vertex and change the result visibly: the arithmetic of `_elevate` follows, operation by operation in float32,
the code that published CRF results were computed with (Kraehenbuehl and Koltun 2011).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from xseg.shapes import check_shapes

_LARGEST = 2**62


@dataclass(frozen=True)
class Lattice:
    """The lattice under the points of one or more images; images share storage but no vertex.

    Attributes:
        corners: (P, d+1) int32, vertex of each corner of each point's simplex; P = images times points.
        weights: (P, d+1) float32, barycentric weight of each corner; rows sum to 1.
        points: (P*(d+1),) int32, the points that touch each vertex, ascending, vertex after vertex.
        touches: (P*(d+1),) float32, their weights, in the same order.
        starts: (M+1,) int32, where each vertex begins in `points`.
        neighbours: (d+1, 2, M+1) int64, both neighbours of each vertex along each axis, M where there is none.
        images: number of images B.
    """

    corners: Tensor
    weights: Tensor
    points: Tensor
    touches: Tensor
    starts: Tensor
    neighbours: Tensor
    images: int

    @classmethod
    def build(cls, features: Tensor) -> "Lattice":
        """The lattice of `features` (B,N,d) float32: positions in units of the Gaussian's standard deviation.

        Raises:
            ValueError: not three axes, nothing in it, not float32, or spread too far to number the vertices.
        """
        batch, points, d = check_shapes(features=(features, "B N d")).values()
        if not features.numel() or features.dtype != torch.float32:
            raise ValueError(f"features are {features.dtype} {tuple(features.shape)}, needed some float32 values")
        flat = features.reshape(-1, d)
        image = torch.arange(batch, device=features.device).repeat_interleave(points)
        if points % 4:
            # The reference code works on four points at a time and fills up the last four with zeros. Those points
            # carry no value, but the vertices they touch exist and pass values on.
            flat = torch.cat([flat, flat.new_zeros(batch, d)])
            image = torch.cat([image, torch.arange(batch, device=features.device)])
        cell, rank, weights = _elevate(flat.T.contiguous())
        weights = weights[: batch * points]
        order, simplex, counts = _group(_pack([image, *cell, *rank[:d]], [0] * (2 * d + 1))[0])
        first = order.index_select(0, counts.cumsum(0) - counts)
        corner_ids, neighbours = _vertices(*(x.index_select(-1, first).long() for x in (image, cell, rank[:d])))
        corners = corner_ids.int().index_select(0, simplex[: batch * points])
        entries, starts = _transpose(corners, neighbours.shape[2])
        touches = weights.reshape(-1).index_select(0, entries)
        return cls(corners, weights, (entries // (d + 1)).int(), touches, starts, neighbours, batch)

    @property
    def scale(self) -> float:
        """Constant that the published implementation multiplies filtered values with, 1 / (1 + 2^-d)."""
        return 1 / (1 + 2.0 ** -(self.corners.shape[1] - 1))

    def filter(self, values: Tensor) -> Tensor:
        """Gaussian-weighted sums of `values` (B,N,C) float32 over the points of each image, not normalised.

        Returns:
            (B,N,C) float32.
        """
        check_shapes(values=(values, f"{self.images} {len(self.corners) // self.images} C"))
        vertices = embedding_bag(
            self.points, values.reshape(-1, values.shape[2]), self.starts, per_sample_weights=self.touches, mode="sum"
        )
        vertices = blur(vertices, self.neighbours)
        filtered = embedding_bag(self.corners, vertices, per_sample_weights=self.weights, mode="sum")
        return filtered.reshape(values.shape) * self.scale


def blur(vertices: Tensor, neighbours: Tensor) -> Tensor:
    """Mix `vertices` (M+1,C), whose last row is zero, with half of both neighbours, axis after axis."""
    for lower, upper in neighbours.unbind():
        vertices = torch.add(vertices, vertices.index_select(0, lower).add_(vertices.index_select(0, upper)), alpha=0.5)
    return vertices


def _elevate(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Simplex and barycentric weights of each point (Adams et al. 2010, pages 5 and 10).

    Args:
        features: (d,P) float32.

    Returns:
        cell (d,P), the first d coordinates of the remainder-0 vertex divided by d+1; rank (d+1,P) of each coordinate's
        residue, 0 the largest; weights (P,d+1). All float32, the first two whole numbers.
    """
    d, points = features.shape
    # Order of rounding matters: the deviation is rounded to float32 first, the quotient after a float64 product.
    deviation = _float32(math.sqrt(2 / 3) * (d + 1))
    elevated = features.new_empty(d + 1, points)
    total = torch.zeros_like(features[0])
    for j in range(d, 0, -1):
        scaled = features[j - 1] * _float32(1 / math.sqrt((j + 1) * j) * deviation)
        elevated[j] = total - scaled * float(j)
        total = total + scaled
    elevated[0] = total
    inverse = _float32(1 / (d + 1))
    cell = torch.round(elevated * inverse)
    excess = cell.sum(0)
    rank = _ranks(elevated - cell * (d + 1)).add_(excess)
    # A point whose rounded vertex left the plane (coordinates must sum to 0) is brought back onto it.
    shift = (rank < 0).float() - (rank >= d + 1).float()
    rank += shift * (d + 1)
    cell += shift
    residue = (elevated - cell * (d + 1)) * inverse
    sorted_residue = torch.empty_like(residue).scatter_(0, (d - rank).long(), residue)
    weights = sorted_residue.clone()
    weights[1:] -= sorted_residue[:-1]
    weights[0] += 1 - sorted_residue[d]
    return cell[:d], rank, weights.T.contiguous()


def _float32(number: float) -> float:
    return torch.tensor(number, dtype=torch.float32).item()


def _ranks(residue: Tensor) -> Tensor:
    """How many of the other coordinates' residues (axis 0) are larger; of two equal ones the first is larger."""
    rank = torch.zeros_like(residue)
    for i in range(len(residue) - 1):
        smaller = (residue[i] < residue[i + 1 :]).to(residue.dtype)
        rank[i] += smaller.sum(0)
        rank[i + 1 :] += 1 - smaller
    return rank


def _pack(digits: Sequence[Tensor], margins: Sequence[int]) -> tuple[Tensor, list[int]]:
    """One int64 for the whole numbers at the same place of each of `digits` (P,), and each digit's place value.

    `margins` widen a digit's range at both ends, so that a neighbour's number never reaches into the next digit.
    The first digit is the most significant.
    """
    packed = torch.zeros_like(digits[0], dtype=torch.int64)
    places: list[int] = []
    place = 1
    for digit, margin in zip(reversed(digits), reversed(margins), strict=True):
        low, high = (int(bound) for bound in digit.aminmax())
        places.insert(0, place)
        packed += (digit - (low - margin)).long().mul_(place)
        place *= high - low + 1 + 2 * margin
        if place > _LARGEST:
            raise ValueError("features spread over too many lattice cells to number them, needed wider Gaussians")
    return packed, places


def _group(keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sort equal keys together: the order (P,), the group of each element (P,) and the size of each group (G,)."""
    ordered, order = keys.sort(stable=True)
    _, group, counts = ordered.unique_consecutive(return_inverse=True, return_counts=True)
    return order, torch.empty_like(group).scatter_(0, order, group), counts


def _vertices(image: Tensor, cell: Tensor, rank: Tensor) -> tuple[Tensor, Tensor]:
    """Number the vertices of S simplices and find their neighbours.

    Args:
        image: (S,) int64.
        cell: (d,S) int64, as from `_elevate`.
        rank: (d,S) int64, the first d ranks.

    Returns:
        Vertex of each corner (S,d+1) int64 and neighbours (d+1,2,M+1) int64.
    """
    d, count = cell.shape
    remainder = torch.arange(d + 1, device=cell.device)[:, None]
    coordinates = (cell * (d + 1))[:, None] + remainder - (d + 1) * (rank[:, None] > d - remainder)
    packed, places = _pack([image.repeat(d + 1), *coordinates.flatten(1)], [0] + [d + 1] * d)
    keys, corner_ids = packed.unique(return_inverse=True)
    vertices = len(keys)
    neighbours = torch.full((d + 1, 2, vertices + 1), vertices, device=cell.device)
    numbers = torch.arange(vertices, device=cell.device)
    steps = [-sum(places[1:]) + (d + 1) * place for place in [*places[1:], 0]]
    for step, (lower, upper) in zip(steps, neighbours.unbind(), strict=True):
        wanted = keys + step
        found = torch.searchsorted(keys, wanted).clamp_(max=vertices - 1)
        there = keys[found] == wanted
        lower[:-1] = torch.where(there, found, vertices)
        upper[found[there]] = numbers[there]
    return corner_ids.reshape(d + 1, count).T.contiguous(), neighbours


def _transpose(corners: Tensor, vertices: int) -> tuple[Tensor, Tensor]:
    """Which corners of which points lie on each vertex, in the order of the points.

    The order is that in which the reference code adds up float32 values: a vertex in a plain region has thousands.

    Args:
        corners: (P,d+1) int32, vertex of each corner.
        vertices: number of vertices, the empty one at the end included.

    Returns:
        point*(d+1)+corner (P*(d+1),) int64, vertex after vertex, and where each vertex starts (M+1,) int32.
    """
    by_vertex, entries = corners.reshape(-1).sort(stable=True)
    starts = torch.searchsorted(by_vertex, torch.arange(vertices, device=corners.device, dtype=torch.int32))
    return entries, starts.int()
