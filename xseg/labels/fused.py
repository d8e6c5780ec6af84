"""The lattice and the mean-field step as compiled loops for one CPU core; needs numba.

Same arithmetic as `lattice.py`, written point by point: vertices are numbered through hash tables, and one pass over
the pixels reads both lattices, applies the softmax and spreads the result again. The loops release the GIL.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.int32]

LANES = 4  # labels are filled up to a multiple of this: `_read` and `_spread` take four at a time, one vector
_LARGEST = 2**62
_POWERS = (2.0 ** -np.arange(127)).astype(np.float32)
_PER_LN2 = np.float32(1 / math.log(2))
_LN2_HIGH = np.float32(0.693359375)  # few bits, so that n times it is exact
_LN2_LOW = np.float32(math.log(2) - 0.693359375)
_ZERO, _ONE, _SMALLEST = np.float32(0), np.float32(1), np.float32(-87)
_C2, _C3, _C4, _C5, _C6 = (np.float32(1 / math.factorial(k)) for k in range(2, 7))


def _compiled(function: Callable[..., Any], inline: bool = False) -> Callable[..., Any]:
    """Compile `function`; keep the result on disk where a directory for it can be written."""
    try:
        return njit(nogil=True, cache=True, forceinline=inline)(function)
    except RuntimeError:  # numba finds no place for its cache, as in a read-only container
        return njit(nogil=True, forceinline=inline)(function)


def _inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `_compiled`, put into its callers: a call for every pixel that passes arrays would cost more than its work."""
    return _compiled(function, inline=True)


@_compiled
def _elevate(features, scales, cells, ranks, weights):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Fill cells (P,d), ranks (P,d+1) and weights (P,d+1); see `lattice._elevate`."""
    points, d = features.shape
    size, inverse = np.float32(d + 1), np.float32(1) / np.float32(d + 1)
    elevated, residue = np.empty(d + 1, np.float32), np.empty(d + 1, np.float32)
    cell, rank, spread = np.empty(d + 1, np.int32), np.empty(d + 1, np.int32), np.empty(d + 2, np.float32)
    for p in range(points):
        total = np.float32(0)
        for j in range(d, 0, -1):
            scaled = features[p, j - 1] * scales[j - 1]
            elevated[j] = total - np.float32(j) * scaled
            total += scaled
        elevated[0] = total
        excess = 0
        for i in range(d + 1):
            rounded = np.rint(elevated[i] * inverse)
            cell[i] = np.int32(rounded)
            residue[i] = elevated[i] - rounded * size
            excess += cell[i]
            rank[i] = 0
        for i in range(d):
            for j in range(i + 1, d + 1):
                if residue[i] < residue[j]:
                    rank[i] += 1
                else:
                    rank[j] += 1
        spread[:] = 0
        for i in range(d + 1):
            rank[i] += excess
            shift = (rank[i] < 0) - (rank[i] > d)
            rank[i] += shift * (d + 1)
            cell[i] += shift
            value = (elevated[i] - np.float32(cell[i]) * size) * inverse
            spread[d - rank[i]] += value
            spread[d - rank[i] + 1] -= value
        spread[0] += np.float32(1) + spread[d + 1]
        for i in range(d + 1):
            ranks[p, i] = rank[i]
            weights[p, i] = spread[i]
            if i < d:
                cells[p, i] = cell[i]


@_inlined
def _place(table, key):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Where `key` stands in the open hash `table` (a power of two long), or the free place for it."""
    mask = np.uint64(len(table) - 1)
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    place = (mixed ^ (mixed >> np.uint64(32))) & mask
    while table[place] != key and table[place] != -1:
        place = (place + np.uint64(1)) & mask
    return place


@_compiled
def _simplices(cells, ranks, low, places, owners):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Number the simplices: fill owners (P,) and give the first point of each."""
    points, d = cells.shape
    length = 4
    while length < 2 * points:
        length *= 2
    table, numbers = np.full(length, -1, np.int64), np.empty(length, np.int32)
    firsts, count = np.empty(points, np.int32), 0
    for p in range(points):
        key = np.int64(0)
        for i in range(d):
            key += (cells[p, i] - low[i]) * places[i]
        for i in range(d):
            key = key * (d + 1) + ranks[p, i]
        place = _place(table, key)
        if table[place] == -1:
            table[place], numbers[place], firsts[count] = key, count, p
            count += 1
        owners[p] = numbers[place]
    return firsts[:count]


@_compiled
def _vertices(cells, ranks, firsts, low, places):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Vertex of each corner of each simplex (S,d+1) and both neighbours along each axis (d+1,2,M), M for none."""
    count, d = len(firsts), cells.shape[1]
    length = 4
    while length < 2 * count * (d + 1):
        length *= 2
    table, numbers = np.full(length, -1, np.int64), np.empty(length, np.int32)
    keys, found = np.empty(count * (d + 1), np.int64), 0
    corners = np.empty((count, d + 1), np.int32)
    for s in range(count):
        p = firsts[s]
        for r in range(d + 1):
            key = np.int64(0)
            for i in range(d):
                shift = r if ranks[p, i] <= d - r else r - (d + 1)
                key += (cells[p, i] * (d + 1) + shift - low[i]) * places[i]
            place = _place(table, key)
            if table[place] == -1:
                table[place], numbers[place], keys[found] = key, found, key
                found += 1
            corners[s, r] = numbers[place]
    neighbours = np.full((d + 1, 2, found), found, np.int32)
    for axis in range(d + 1):
        step = -places.sum() + ((d + 1) * places[axis] if axis < d else 0)
        for v in range(found):
            place = _place(table, keys[v] + step)
            if table[place] != -1:
                neighbours[axis, 0, v] = numbers[place]
                neighbours[axis, 1, numbers[place]] = v
    return corners, neighbours


@_compiled
def _gather(owners, corners, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for p in range(len(out)):
        for r in range(out.shape[1]):
            out[p, r] = corners[owners[p], r]


@_compiled
def _blur(values, spare, neighbours):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Mix the vertices (M+1,C) with half of both neighbours, axis after axis; the result is one of the two buffers."""
    for axis in range(len(neighbours)):
        for v in range(neighbours.shape[2]):
            a, b = neighbours[axis, 0, v], neighbours[axis, 1, v]
            for c in range(values.shape[1]):
                spare[v, c] = values[v, c] + np.float32(0.5) * (values[a, c] + values[b, c])
        values, spare = spare, values
    return values, spare


@_compiled
def _row_sums(values, spare, corners, weights, neighbours):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The filtered ones (P,), by two zeroed buffers (M+1,1)."""
    for p in range(len(corners)):
        for r in range(corners.shape[1]):
            values[corners[p, r], 0] += weights[p, r]
    values, spare = _blur(values, spare, neighbours)
    sums = np.zeros(len(corners), np.float32)
    for p in range(len(corners)):
        for r in range(corners.shape[1]):
            sums[p] += weights[p, r] * values[corners[p, r], 0]
    return sums


@_inlined
def _read(sums, values, corners, weights, p, c):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Add to four `sums` the values of lanes c..c+3 at the corners of point p. Four names stay in one register."""
    m0, m1, m2, m3 = sums
    for r in range(corners.shape[1]):
        v, w = corners[p, r], weights[p, r]
        m0 += w * values[v, c]
        m1 += w * values[v, c + 1]
        m2 += w * values[v, c + 2]
        m3 += w * values[v, c + 3]
    return m0, m1, m2, m3


@_inlined
def _spread(four, values, corners, weights, p, c):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Add `four` to lanes c..c+3 of `values` at the corners of point p."""
    m0, m1, m2, m3 = four
    for r in range(corners.shape[1]):
        v, w = corners[p, r], weights[p, r]
        values[v, c] += w * m0
        values[v, c + 1] += w * m1
        values[v, c + 2] += w * m2
        values[v, c + 3] += w * m3


@_inlined
def _exp(x):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Exponential of a float32 x <= 0 to 2e-7: 2^n by table, the rest by its series; faster than calling expf."""
    if x < _SMALLEST:
        return _ZERO
    n = np.rint(x * _PER_LN2)
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    series = (((((_C6 * r + _C5) * r + _C4) * r + _C3) * r + _C2) * r + _ONE) * r + _ONE
    return series * _POWERS[np.uint32(-n)]


@_inlined
def _softmax(scores, padded):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Softmax of each run of `padded` values of `scores` (C,), in place; four at a time, so that the loops unroll."""
    start = 0
    while start < len(scores):  # a range with a step that is not a constant would cost a division for every pixel
        stop = start + padded
        top = scores[start]
        for c in range(start, stop, 4):
            top = max(top, max(max(scores[c], scores[c + 1]), max(scores[c + 2], scores[c + 3])))
        total = np.float32(0)
        for c in range(start, stop, 4):
            a, b = _exp(scores[c] - top), _exp(scores[c + 1] - top)
            d, e = _exp(scores[c + 2] - top), _exp(scores[c + 3] - top)
            total += (a + b) + (d + e)
            scores[c], scores[c + 1], scores[c + 2], scores[c + 3] = a, b, d, e
        inverse = np.float32(1) / total
        for c in range(start, stop):
            scores[c] *= inverse
        start = stop


@_compiled
def _read_all(near, alike, energy, scores, start, stop):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Energy plus message of points start..stop into `scores`; `near`, `alike`: corners, weights, vertex values."""
    (corners_n, reads_n, values_n), (corners_a, reads_a, values_a) = near, alike
    for p in range(start, stop):
        for c in range(0, scores.shape[1], 4):
            four = energy[p, c], energy[p, c + 1], energy[p, c + 2], energy[p, c + 3]
            four = _read(_read(four, values_n, corners_n, reads_n, p, c), values_a, corners_a, reads_a, p, c)
            scores[p, c], scores[p, c + 1], scores[p, c + 2], scores[p, c + 3] = four


@_compiled
def _spread_all(lattice, scores, start, stop):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Spread `scores` of points start..stop over the vertices."""
    corners, touches, values = lattice
    for p in range(start, stop):
        for c in range(0, scores.shape[1], 4):
            four = scores[p, c], scores[p, c + 1], scores[p, c + 2], scores[p, c + 3]
            _spread(four, values, corners, touches, p, c)


@_compiled
def _step(near, alike, energy, padded, posterior):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """One mean-field step in one pass: read both lattices, softmax, spread into the emptied next values."""
    (corners_n, reads_n, touches_n, old_n, new_n), (corners_a, reads_a, touches_a, old_a, new_a) = near, alike
    new_n[:] = 0
    new_a[:] = 0
    # Block by block: a block's scores stay in the fastest cache, and nothing reads what was written a moment ago.
    for start in range(0, len(energy), 256):
        stop = min(start + 256, len(energy))
        _read_all((corners_n, reads_n, old_n), (corners_a, reads_a, old_a), energy, posterior, start, stop)
        for p in range(start, stop):
            _softmax(posterior[p], padded)
        _spread_all((corners_n, touches_n, new_n), posterior, start, stop)
        _spread_all((corners_a, touches_a, new_a), posterior, start, stop)


class FusedLattice:
    """Lattice of one image: corners (P,d+1) int32, weights (P,d+1), neighbours (d+1,2,M), 1/sqrt(row sums) (P,)."""

    def __init__(self, features: Floats) -> None:
        points, d = features.shape
        # The same filling points as in `Lattice.build`, and the same constants.
        padded = np.concatenate([features, np.zeros((-points % 4, d), np.float32)])
        deviation = float(np.float32(math.sqrt(2 / 3) * (d + 1)))
        scales = np.array([1 / math.sqrt((i + 2) * (i + 1)) * deviation for i in range(d)], np.float32)
        cells = np.empty((len(padded), d), np.int32)
        ranks = np.empty((len(padded), d + 1), np.int8)
        weights = np.empty((len(padded), d + 1), np.float32)
        _elevate(padded, scales, cells, ranks, weights)
        low, high = cells.min(0).astype(np.int64), cells.max(0).astype(np.int64)
        owners = np.empty(len(padded), np.int32)
        firsts = _simplices(cells, ranks, low, _places(high - low + 1, (d + 1) ** d), owners)
        # Corners reach d below and above d+1 times the cell, neighbours as far again.
        lowest, spans = low * (d + 1) - 2 * (d + 1), (high - low + 1) * (d + 1) + 4 * (d + 1)
        corners, self.neighbours = _vertices(cells, ranks, firsts, lowest, _places(spans, 1))
        self.corners = np.empty((points, d + 1), np.uint32)  # unsigned: no test for negative indices in the loops
        _gather(owners, corners, self.corners)
        self.weights = weights[:points]
        self.scale = np.float32(1 / (1 + 2.0**-d))
        sums = _row_sums(*self.buffers(1), self.corners, self.weights, self.neighbours)
        self.root = 1 / np.sqrt(sums * self.scale + np.float32(1e-20))[:, None]

    def buffers(self, channels: int) -> tuple[Floats, Floats]:
        """Two zeroed arrays (M+1,C) of vertex values; the last row stands for missing neighbours and stays zero."""
        shape = (self.neighbours.shape[2] + 1, channels)
        return np.zeros(shape, np.float32), np.zeros(shape, np.float32)


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


def infer(
    unary: Floats, near: FusedLattice, alike: FusedLattice, compat: tuple[float, float], iterations: int
) -> Floats:
    """Posteriors (A,L,P) float32 of `unary` (A,L,P) after `iterations` mean-field steps.

    Args:
        unary: energies of A terms over L labels at P points.
        near: lattice of positions.
        alike: lattice of positions and colours.
        compat: the weights of the two.
        iterations: steps, 0 or more.
    """
    terms, labels, points = unary.shape
    padded = -(-labels // LANES) * LANES
    channels = terms * padded
    energy = np.full((points, terms, padded), -1e30, np.float32)  # labels that only fill up get probability 0
    energy[:, :, :labels] = -unary.transpose(2, 0, 1)
    flat, posterior = energy.reshape(points, channels), np.empty((points, channels), np.float32)
    lattices, factors = (near, alike), [np.float32(c) for c in compat]
    values = [list(lattice.buffers(channels)) for lattice in lattices]
    reads = [x.weights * (x.root * (x.scale * c)) for x, c in zip(lattices, factors, strict=True)]
    touches = [x.weights * x.root for x in lattices]
    for _ in range(iterations + 1):
        for pair, lattice in zip(values, lattices, strict=True):
            pair[:] = _blur(pair[0], pair[1], lattice.neighbours)
        parts = [(x.corners, r, t, *v) for x, r, t, v in zip(lattices, reads, touches, values, strict=True)]
        # The first pass meets empty lattices, so it turns the energy alone into Q0.
        _step(parts[0], parts[1], flat, padded, posterior)
        for pair in values:
            pair.reverse()
    return np.ascontiguousarray(posterior.reshape(points, terms, padded)[:, :, :labels].transpose(1, 2, 0))
