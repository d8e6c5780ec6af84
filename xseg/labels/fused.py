"""The mean field as compiled loops for one CPU core; needs numba.

One pass over the pixels reads both lattices, applies the softmax and spreads the result again. The compiler does not
turn loops over a few labels into vector instructions, so the loops say it themselves: labels ride in rows of `LANES`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from xseg.labels.compiled import compiled, inlined
from xseg.labels.fused_lattice import Floats, FusedLattice

LANES = 8  # float32 values in a row: one register of 256 bits
BLOCK = 256  # points whose scores stay in the fastest cache
_NEAR, _ALIKE = 3, 6  # corners of a simplex of positions, and of positions and colours
_ABSENT = np.float32(-1e30)  # score of labels that only fill up: probability 0
_TINY = np.float32(1e-20)
_PER_LN2 = np.float32(1 / math.log(2))
_LN2_HIGH = np.float32(0.693359375)  # few bits, so that n times it is exact
_LN2_LOW = np.float32(math.log(2) - 0.693359375)
_ZERO, _HALF, _ONE, _SMALLEST = np.float32(0), np.float32(0.5), np.float32(1), np.float32(-87)
_C2, _C3, _C4, _C5, _C6 = (np.float32(1 / math.factorial(k)) for k in range(2, 7))


class _Row(types.Type):
    """`LANES` float32 values in one register."""

    def __init__(self) -> None:
        super().__init__(name=f"Row({LANES})")


_ROW = _Row()
_VECTOR = ir.VectorType(ir.FloatType(), LANES)


@register_model(_Row)
class _RowModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:  # noqa: ANN401 - numba's own
        super().__init__(manager, kind, _VECTOR)


def _pointer(context: Any, builder: Any, signature: Any, array: Any, row: Any) -> Any:  # noqa: ANN401
    """Address of row `row` of a contiguous float32 `array` whose rows hold `LANES` values."""
    start = context.make_array(signature.args[0])(context, builder, array).data
    wide = context.cast(builder, row, signature.args[1], types.intp)
    return builder.bitcast(builder.gep(start, [builder.mul(wide, wide.type(LANES))]), _VECTOR.as_pointer())


@intrinsic
def _load(typing, array, row):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Row `row` of `array`, seen as rows of `LANES` values."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        return builder.load(_pointer(context, builder, signature, *arguments), align=4)

    return _ROW(array, row), generate


@intrinsic
def _store(typing, array, row, values):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Write `values` to row `row` of `array`."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        array, row, values = arguments
        builder.store(values, _pointer(context, builder, signature, array, row), align=4)
        return context.get_dummy_value()

    return types.void(array, row, values), generate


@intrinsic
def _plus(typing, total, factor, values):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """`total` + `factor` times `values`."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        total, factor, values = arguments
        index = ir.IntType(32)
        first = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), factor, index(0))
        all_zero = ir.Constant(ir.VectorType(index, LANES), [0] * LANES)
        factors = builder.shuffle_vector(first, ir.Constant(_VECTOR, ir.Undefined), all_zero)
        product = builder.fmul(factors, values)
        return builder.fadd(total, product)

    return _ROW(total, types.float32, values), generate


def _pairwise(build: Callable[[Any, Any, Any], Any]) -> Any:  # noqa: ANN401
    """The operation on two rows that `build(builder, one, other)` makes."""

    @intrinsic
    def operation(typing, one, other):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        return _ROW(one, other), lambda context, builder, signature, arguments: build(builder, *arguments)

    return operation


def _exchange(distance: int) -> Any:  # noqa: ANN401
    """The operation that puts into each lane the value of the lane whose number differs in the bit `distance`."""
    order = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [lane ^ distance for lane in range(LANES)])

    @intrinsic
    def operation(typing, values):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
            return builder.shuffle_vector(arguments[0], arguments[0], order)

        return _ROW(values), generate

    return operation


_over = _pairwise(lambda builder, one, other: builder.fdiv(one, other))
_larger = _pairwise(lambda builder, one, other: builder.select(builder.fcmp_ordered(">", one, other), one, other))
_by_1, _by_2, _by_4 = (_exchange(distance) for distance in (1, 2, 4))


@inlined
def _highest(values, wide):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The largest value of each half of the row, or of all of it where `wide`, in every lane of it."""
    values = _larger(values, _by_1(values))
    values = _larger(values, _by_2(values))
    return _larger(values, _by_4(values)) if wide else values


@inlined
def _total(values, wide):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The sum of each half of the row, or of all of it where `wide`, in every lane of it."""
    values = _plus(values, _ONE, _by_1(values))
    values = _plus(values, _ONE, _by_2(values))
    return _plus(values, _ONE, _by_4(values)) if wide else values


@inlined
def _read(total, lattice, count, rows, p, b):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """`total` plus row b of the `count` corners of point p; a vertex has `rows` rows."""
    corners, weights, values = lattice
    for r in range(count):
        total = _plus(total, weights[p, r], _load(values, corners[p, r] * rows + b))
    return total


@inlined
def _spread(lattice, count, scores, start, stop):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Add `scores` of points start..stop to their `count` corners."""
    corners, weights, values = lattice
    rows = scores.shape[1] // LANES
    for p in range(start, stop):
        for b in range(rows):
            given = _load(scores, (p - start) * rows + b)
            for r in range(count):
                row = corners[p, r] * rows + b
                _store(values, row, _plus(_load(values, row), weights[p, r], given))


@compiled
def _blur(values, spare, neighbours):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Mix the vertices (M+1,C) with half of both neighbours, axis after axis; the result is one of the two buffers."""
    rows = values.shape[1] // LANES
    for axis in range(len(neighbours)):
        for v in range(neighbours.shape[2]):
            a, b = neighbours[axis, 0, v], neighbours[axis, 1, v]
            for c in range(rows):
                one, other = _load(values, a * rows + c), _load(values, b * rows + c)
                mixed = _plus(_plus(_load(values, v * rows + c), _HALF, one), _HALF, other)
                _store(spare, v * rows + c, mixed)
        values, spare = spare, values
    return values, spare


@compiled
def _normalise(corners, weights, neighbours, values, spare, scale):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Divide `weights` by the roots of the row sums; `values`, `spare`: zeroed, (M+1,LANES)."""
    count, ones = corners.shape[1], np.ones((BLOCK, LANES), np.float32)
    for start in range(0, len(corners), BLOCK):
        _spread((corners, weights, values), count, ones, start, min(start + BLOCK, len(corners)))
    values, spare = _blur(values, spare, neighbours)
    for p in range(len(corners)):
        total = _ZERO
        for r in range(count):
            total += weights[p, r] * values[corners[p, r], 0]
        root = _ONE / np.sqrt(total * scale + _TINY)
        for r in range(count):
            weights[p, r] *= root


def normalised(features: Floats) -> FusedLattice:
    """The lattice of `features` (P,d) float32 with the roots of the row sums in its weights: D^-1/2 K D^-1/2."""
    lattice = FusedLattice.build(features)
    values, spare = _vertices(lattice, LANES), _vertices(lattice, LANES)
    _normalise(lattice.corners, lattice.weights, lattice.neighbours, values, spare, np.float32(lattice.scale))
    return lattice


def _vertices(lattice: FusedLattice, channels: int) -> Floats:
    """Zeroed values (M+1,C) of the vertices; the last row stands for missing neighbours and stays zero."""
    return np.zeros((lattice.neighbours.shape[2] + 1, channels), np.float32)


@inlined
def _exp(x):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Exponential of a float32 x <= 0 to 2e-7: 2^n by its bits, the rest by its series; many at a time in a loop."""
    n = np.rint(max(x, _SMALLEST) * _PER_LN2)
    r = (max(x, _SMALLEST) - n * _LN2_HIGH) - n * _LN2_LOW
    series = (((((_C6 * r + _C5) * r + _C4) * r + _C3) * r + _C2) * r + _ONE) * r + _ONE
    power = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    return series * power if x >= _SMALLEST else _ZERO


@inlined
def _softmax(scores, rows):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Softmax in place over each half row of `scores` (N,C) if `rows` is 0, else over each `rows` rows."""
    many, wide = max(rows, 1), rows > 0
    for first in range(0, scores.size // LANES, many):
        top = _load(scores, first)
        for row in range(first + 1, first + many):
            top = _larger(top, _load(scores, row))
        top = _highest(top, wide)
        for row in range(first, first + many):
            _store(scores, row, _plus(_load(scores, row), -_ONE, top))
    flat = scores.reshape(-1)
    for i in range(len(flat)):
        flat[i] = _exp(flat[i])
    for first in range(0, scores.size // LANES, many):
        total = _load(scores, first)
        for row in range(first + 1, first + many):
            total = _plus(total, _ONE, _load(scores, row))
        total = _total(total, wide)
        for row in range(first, first + many):
            _store(scores, row, _over(_load(scores, row), total))


@inlined
def _posterior(near, alike, energy, rows, start, stop, scores):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Softmax of energy plus message of points start..stop into `scores` (BLOCK,C); `rows` as for `_softmax`."""
    every = scores.shape[1] // LANES
    for p in range(start, stop):
        for b in range(every):
            total = _read(_load(energy, p * every + b), near, _NEAR, every, p, b)
            _store(scores, (p - start) * every + b, _read(total, alike, _ALIKE, every, p, b))
    _softmax(scores[: stop - start], rows)


@compiled
def _step(near, alike, energy, rows, spread):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """One mean-field step in one pass; `spread`: zeroed values of both lattices, filled with the new posterior's."""
    scores = np.empty((BLOCK, energy.shape[1]), np.float32)
    # Block by block: a block's scores stay in the fastest cache, and nothing reads what was written a moment ago.
    for start in range(0, len(energy), BLOCK):
        stop = min(start + BLOCK, len(energy))
        _posterior(near, alike, energy, rows, start, stop, scores)
        _spread((near[0], near[1], spread[0]), _NEAR, scores, start, stop)
        _spread((alike[0], alike[1], spread[1]), _ALIKE, scores, start, stop)


@compiled
def _finish(near, alike, energy, rows, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The posterior `out` (A,L,P) that the values of the vertices lead to."""
    terms, labels, points = out.shape
    room = rows * LANES if rows else LANES // 2
    scores = np.empty((BLOCK, energy.shape[1]), np.float32)
    for start in range(0, points, BLOCK):
        stop = min(start + BLOCK, points)
        _posterior(near, alike, energy, rows, start, stop, scores)
        for t in range(terms):
            for c in range(labels):
                for p in range(start, stop):
                    out[t, c, p] = scores[p - start, t * room + c]


@compiled
def _energies(unary, rows):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Minus `unary` (A,L,P), point by point (P,C): each term has `rows` rows, or half of one if that is 0."""
    terms, labels, points = unary.shape
    room = rows * LANES if rows else LANES // 2
    energy = np.full((points, -(-terms * room // LANES) * LANES), _ABSENT, np.float32)
    for start in range(0, points, BLOCK):
        for t in range(terms):
            for c in range(labels):
                for p in range(start, min(start + BLOCK, points)):
                    energy[p, t * room + c] = -unary[t, c, p]
    return energy


def infer(
    unary: Floats, near: FusedLattice, alike: FusedLattice, compat: tuple[float, float], iterations: int
) -> Floats:
    """Posteriors (A,L,P) float32 of `unary` (A,L,P) float32 after `iterations` mean-field steps.

    Args:
        unary: energies of A terms over L labels at P points.
        near: lattice of positions, as from `normalised`.
        alike: lattice of positions and colours.
        compat: the weights of the two.
        iterations: steps, 0 or more.
    """
    labels = unary.shape[1]
    rows = 0 if labels <= LANES // 2 else -(-labels // LANES)  # of one term; two terms of few labels share a row
    lattices, energy, posterior = (near, alike), _energies(unary, rows), np.empty_like(unary)
    # The first pass meets empty lattices, so it turns the energy alone into Q0.
    old, new = ([_vertices(lattice, energy.shape[1]) for lattice in lattices] for _ in range(2))
    for _ in range(iterations):
        for values in new:
            values[:] = 0
        _step(*_sides(lattices, old), energy, rows, tuple(new))
        for k, lattice in enumerate(lattices):
            old[k], new[k] = _blur(new[k], old[k], lattice.neighbours)
            # Here and not in the weights, where it would round the long sums otherwise than the published code does.
            old[k] *= np.float32(compat[k] * lattice.scale)
    _finish(*_sides(lattices, old), energy, rows, posterior)
    return posterior


def _sides(lattices: Sequence[FusedLattice], values: Sequence[Floats]) -> list[tuple[Any, ...]]:
    return [(lattice.corners, lattice.weights, one) for lattice, one in zip(lattices, values, strict=True)]
