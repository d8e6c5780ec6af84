"""The lattice of one image as compiled loops for one CPU core; needs numba.

Same arithmetic as `lattice.py`; vertices are numbered through hash tables. Where a loop runs over a block of points
with one array for each coordinate, the compiler takes many points at a time, and no result depends on a branch.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xseg.labels.compiled import compiled, inlined

Floats = NDArray[np.float32]
Indices = NDArray[np.uint32]  # unsigned: no test for negative indices in the loops

_LARGEST = 2**62
_BLOCK = 256  # points whose coordinates stay in the fastest cache
_FIRST = 2**14  # places of a new hash table
_FREE = np.uint32(2**32 - 1)  # no number


@compiled
def _ranks(residue, rank, excess, cell, count):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Rank (d+1,N) of each residue (d+1,N), 0 the largest, and points that left the plane brought back onto it."""
    size = len(residue)
    for i in range(size):
        for p in range(count):
            rank[i, p] = excess[p]
    for i in range(size - 1):
        for j in range(i + 1, size):
            for p in range(count):
                smaller = np.int32(residue[i, p] < residue[j, p])
                rank[i, p] += smaller
                rank[j, p] += np.int32(1) - smaller
    for i in range(size):
        for p in range(count):
            shift = np.int32(rank[i, p] < 0) - np.int32(rank[i, p] >= size)
            rank[i, p] += shift * np.int32(size)
            cell[i, p] += shift


@compiled
def _barycentric(elevated, cell, rank, ordered, weights):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Fill weights (N,d+1): differences of the residues in the order of their ranks."""
    size, d = np.float32(len(cell)), len(cell) - 1
    inverse = np.float32(1) / size
    for i in range(d + 1):
        for p in range(len(weights)):
            value = (elevated[i, p] - np.float32(cell[i, p]) * size) * inverse
            ordered[p, np.uint32(d - rank[i, p])] = value
    for p in range(len(weights)):
        weights[p, 0] = ordered[p, 0] + (np.float32(1) - ordered[p, d])
        for r in range(1, d + 1):
            weights[p, r] = ordered[p, r] - ordered[p, r - 1]


@compiled
def _elevate(features, scales, cells, ranks, weights):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Fill cells (d,P), ranks (d,P) and weights (P,d+1) of features (P,d); see `lattice._elevate`."""
    points, d = features.shape
    size, inverse = np.float32(d + 1), np.float32(1) / np.float32(d + 1)
    elevated, residue = np.empty((d + 1, _BLOCK), np.float32), np.empty((d + 1, _BLOCK), np.float32)
    cell, rank = np.empty((d + 1, _BLOCK), np.int32), np.empty((d + 1, _BLOCK), np.int32)
    total, excess = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.int32)
    ordered = np.empty((_BLOCK, d + 1), np.float32)
    for start in range(0, points, _BLOCK):
        count = min(_BLOCK, points - start)
        total[:] = 0
        excess[:] = 0
        for j in range(d, 0, -1):
            for p in range(count):
                scaled = features[start + p, j - 1] * scales[j - 1]
                elevated[j, p] = total[p] - np.float32(j) * scaled
                total[p] += scaled
        elevated[0] = total
        for i in range(d + 1):
            for p in range(count):
                rounded = np.rint(elevated[i, p] * inverse)
                residue[i, p] = elevated[i, p] - rounded * size
                cell[i, p] = np.int32(rounded)
                excess[p] += cell[i, p]
        _ranks(residue, rank, excess, cell, count)
        _barycentric(elevated, cell, rank, ordered, weights[start : start + count])
        for i in range(d):
            cells[i, start : start + count] = cell[i, :count]
            ranks[i, start : start + count] = rank[i, :count]


@inlined
def _place(table, keys, key):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Where the number of `key` stands in the open hash `table` (a power of two long), or the free place for it."""
    mask = np.uint64(len(table) - 1)
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    place = (mixed ^ (mixed >> np.uint64(32))) & mask
    while table[place] != _FREE and keys[table[place]] != key:
        place = (place + np.uint64(1)) & mask
    return place


@compiled
def _table(keys, count, length):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """A hash table of `length` places that finds the numbers of the first `count` of `keys`."""
    table = np.full(length, _FREE, np.uint32)
    for number in range(count):
        table[_place(table, keys, keys[number])] = number
    return table


@compiled
def _numbered(wanted):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Number the different ones of `wanted` (N,) in their order.

    Returns:
        The number of each (N,), where each different one is first (S,), the different ones (S,) and their hash table.
    """
    owners, firsts = np.empty(len(wanted), np.uint32), np.empty(len(wanted), np.uint32)
    keys, found = np.empty(len(wanted), np.int64), 0
    table = _table(keys, 0, _FIRST)  # it grows as needed: a small one stays in the cache
    for p in range(len(wanted)):
        place = _place(table, keys, wanted[p])
        number = table[place]
        if number == _FREE:
            number = np.uint32(found)
            table[place], keys[found], firsts[found] = number, wanted[p], p
            found += 1
            if 4 * found > len(table):  # fuller ones look in many places
                table = _table(keys, found, 4 * len(table))
        owners[p] = number
    return owners, firsts[:found], keys[:found], table


@compiled
def _simplex_keys(cells, ranks, low, places):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """One number for the simplex of each point (P,): its cell and the order of its residues."""
    d, points = cells.shape
    keys = np.zeros(points, np.int64)
    for i in range(d):
        for p in range(points):
            keys[p] += (cells[i, p] - low[i]) * places[i]
    for i in range(d):
        for p in range(points):
            keys[p] = keys[p] * (d + 1) + ranks[i, p]
    return keys


@compiled
def _corner_keys(cells, ranks, firsts, low, places):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """One number for each corner (S*(d+1),) of the simplices of the points `firsts` (S,)."""
    d = len(cells)
    keys, lost = np.empty((len(firsts), d + 1), np.int64), np.empty(d + 2, np.int64)
    for s in range(len(firsts)):
        p, key = firsts[s], np.int64(0)
        lost[:] = 0
        for i in range(d):
            key += (cells[i, p] * (d + 1) - low[i]) * places[i]
            lost[np.uint32(d + 1 - ranks[i, p])] = (d + 1) * places[i]
        keys[s, 0] = key
        # From corner to corner every coordinate grows by 1, and that of the next rank falls by d+1.
        for r in range(1, d + 1):
            key += places.sum() - lost[r]
            keys[s, r] = key
    return keys.reshape(-1)


@compiled
def _neighbours(keys, table, places):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Both neighbours of the vertices `keys` (M,) along each axis (d+1,2,M), M for none."""
    found, d = len(keys), len(places)
    neighbours = np.full((d + 1, 2, found), found, np.uint32)
    for axis in range(d + 1):
        step = -places.sum() + ((d + 1) * places[axis] if axis < d else 0)
        for v in range(found):
            other = table[_place(table, keys, keys[v] + step)]
            if other != _FREE:
                neighbours[axis, 0, v], neighbours[axis, 1, other] = other, v
    return neighbours


@compiled
def _gather(owners, corners, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for p in range(len(out)):
        for r in range(out.shape[1]):
            out[p, r] = corners[owners[p], r]


def _places(spans: NDArray[np.int64], unit: int) -> NDArray[np.int64]:
    """Place value of each digit of a number with digits of `spans`, the last digit worth 1.

    Raises:
        ValueError: the whole number, times `unit`, does not fit 63 bits.
    """
    places = [1]
    for span in spans[:0:-1].tolist():
        places.insert(0, places[0] * span)
    if places[0] * int(spans[0]) * unit > _LARGEST:
        raise ValueError("features spread over too many lattice cells to number them, needed wider Gaussians")
    return np.array(places, np.int64)


@dataclass(frozen=True)
class FusedLattice:
    """The lattice under the points of one image.

    Attributes:
        corners: (P, d+1) uint32, vertex of each corner of each point's simplex.
        weights: (P, d+1) float32, barycentric weight of each corner; rows sum to 1.
        neighbours: (d+1, 2, M) uint32, both neighbours of each vertex along each axis, M where there is none.
    """

    corners: Indices
    weights: Floats
    neighbours: Indices

    @classmethod
    def build(cls, features: Floats) -> "FusedLattice":
        """The lattice of `features` (P,d) float32: positions in units of the Gaussian's standard deviation.

        Raises:
            ValueError: spread too far to number the vertices.
        """
        points, d = features.shape
        # The same filling points as in `Lattice.build`, and the same constants.
        padded = np.concatenate([features, np.zeros((-points % 4, d), np.float32)])
        deviation = float(np.float32(math.sqrt(2 / 3) * (d + 1)))
        scales = np.array([1 / math.sqrt((i + 2) * (i + 1)) * deviation for i in range(d)], np.float32)
        cells, ranks = np.empty((d, len(padded)), np.int32), np.empty((d, len(padded)), np.int32)
        weights = np.empty((len(padded), d + 1), np.float32)
        _elevate(padded, scales, cells, ranks, weights)
        low, high = cells.min(1).astype(np.int64), cells.max(1).astype(np.int64)
        simplices = _simplex_keys(cells, ranks, low, _places(high - low + 1, (d + 1) ** d))
        owners, firsts, _, _ = _numbered(simplices)
        # Corners reach d below and above d+1 times the cell, neighbours as far again.
        lowest, spans = low * (d + 1) - 2 * (d + 1), (high - low + 1) * (d + 1) + 4 * (d + 1)
        places = _places(spans, 1)
        of_simplex, _, keys, table = _numbered(_corner_keys(cells, ranks, firsts, lowest, places))
        corners = np.empty((points, d + 1), np.uint32)
        _gather(owners, of_simplex.reshape(-1, d + 1), corners)
        return cls(corners, weights[:points], _neighbours(keys, table, places))

    @property
    def scale(self) -> float:
        """See `Lattice.scale`."""
        return 1 / (1 + 2.0 ** -(self.corners.shape[1] - 1))
