"""The transition matrix of a random walk on one image's grid, sparse, and its powers applied to a few maps.

With A the symmetric affinities to the power beta and D their column sums, T = A D^-1 and the maps become v T^t (Ahn and
Kwak 2018, arXiv:1803.10464, section 3.3). T is never made dense: v T^t = (v D^½) S^t D^-½ with S = D^-½ A D^-½ sparse
and symmetric, and since the eigenvalues of S lie in [-1, 1], x^t is a Chebyshev series whose terms vanish beyond degree
~ sqrt(2 t ln(2 / tolerance)): 84 products instead of 256.

Double precision is the default: it costs a third more time than single and takes the error from 2e-5 to 1e-7, below
the near-ties at which labels flip and devices disagree.
"""

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from xseg.affinity.pairs import check_pairs, half_offsets, windows
from xseg.shapes import check_shapes

_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-7}


@dataclass(frozen=True)
class Transition:
    """The walk on one image's grid."""

    matrix: Tensor
    """S, (N, N) sparse CSR, symmetric, eigenvalues in [-1, 1]; nodes in row order."""
    root_degree: Tensor
    """D^½, (N,), at least 1."""
    grid: tuple[int, int]
    """(h, w), N = h w."""

    def dense(self) -> Tensor:
        """T as a dense (N, N) matrix whose columns sum to one; for small grids."""
        return self.matrix.to_dense() * self.root_degree[:, None] / self.root_degree

    def apply(self, maps: Tensor, steps: int, tolerance: float | None = None) -> Tensor:
        """V T^steps.

        Each result is a weighted mean of the map over the nodes within reach: constant maps stay as they are, results
        keep within the map's range, and the sum weighted by degree is kept.

        Args:
            maps: (K, N) float32 or float64, on the matrix's device.
            steps: t, 0 or more.
            tolerance: bound on the neglected part of the series in the spectral norm (None: 1e-5 where the
                matrix is float32, 1e-7 where it is float64).

        Returns:
            (K, N) in the dtype of the maps.

        Raises:
            ValueError: negative steps, another shape, or maps in less than float32.
        """
        check_shapes(root_degree=(self.root_degree, "N"), maps=(maps, "K N"))
        if steps < 0:
            raise ValueError(f"steps is {steps}, needed 0 or more")
        _check_precision(maps=maps.dtype)
        if steps == 0 or maps.numel() == 0:
            return maps.clone()
        # A map of ones walks along: it should come back as ones, and what it lost to rounding, the others lost too.
        columns = (torch.cat([maps, torch.ones_like(maps[:1])]) * self.root_degree).T.contiguous()
        series = power_series(steps, _TOLERANCE[columns.dtype] if tolerance is None else tolerance)
        # Half precision anywhere in here costs 0.1 in the result and flips labels.
        with torch.autocast(maps.device.type, enabled=False):
            walked = self._power(columns, steps) if len(series) > steps else self._chebyshev(columns, series)
        walked = (walked[:, :-1] / walked[:, -1:]).T.to(maps.dtype)
        # The truth is in this range, so the cut can only take error away (a series may end at -1e-6).
        return walked.clamp(maps.amin(1, keepdim=True), maps.amax(1, keepdim=True)).contiguous()

    def _power(self, columns: Tensor, steps: int) -> Tensor:
        for _ in range(steps):
            columns = self.matrix @ columns
        return columns

    def _chebyshev(self, columns: Tensor, series: list[float]) -> Tensor:
        before, now = columns, self.matrix @ columns
        total = before * series[0] + now * series[1]
        for coefficient in series[2:]:
            before, now = now, torch.addmm(before, self.matrix, now, beta=-1, alpha=2)
            if coefficient:
                total.add_(now, alpha=coefficient)
        return total


def power_series(steps: int, tolerance: float) -> list[float]:
    """Chebyshev coefficients of x^steps up to the degree where the rest sums to less than `tolerance`.

    The coefficient of T_m is 2^(1 - t) C(t, (t - m) / 2) for m of t's parity, half of that for m = 0, else 0. They are
    not negative and sum to one; so do the ones returned, which keeps the eigenvalue 1 exact.
    """
    parity, term = steps % 2, 1.0
    kept = []
    for m in range(parity, steps + 1, 2):
        kept.append(term / 2 if m == 0 else term)
        if term < 1e-30:
            break
        term *= ((steps - m) // 2) / ((steps + m) // 2 + 1)
    whole = math.fsum(kept)
    rest = 0.0
    while len(kept) > 2 and rest + kept[-1] < tolerance * whole:
        rest += kept.pop()
    whole = math.fsum(kept)
    series = [0.0] * (2 * len(kept) - 1 + parity)
    series[parity::2] = [coefficient / whole for coefficient in kept]
    return series


@torch.no_grad()
def transition(
    affinities: Tensor, *, beta: float = 8, radius: float = 5, dtype: torch.dtype = torch.float64
) -> Transition:
    """The walk's matrix from pair affinities.

    Args:
        affinities: (O, h, w) in [0, 1] of the pairs within `radius`, 0 where there is none; float32 or float64.
        beta: power of the affinities.
        radius: the radius the affinities were computed with.
        dtype: of the matrix and the arithmetic, float64 or (for devices without it) float32.

    Raises:
        ValueError: another shape, or less than float32 anywhere.
    """
    check_pairs(affinities, radius)
    _check_precision(affinities=affinities.dtype, dtype=dtype)
    links = _links(affinities.to(dtype) ** beta, radius)
    nodes, width = links.shape[0], affinities.shape[2]
    root, there = links.sum(1).sqrt(), links != 0
    count = there.sum(1)
    starts = functional.pad(count.cumsum(0), (1, 0))
    # 32-bit indices are what the CPU library works on; others it would convert at every product.
    compact = torch.int32 if int(starts[-1]) < 2**31 else torch.int64
    shifts = torch.tensor([dy * width + dx for dy, dx in _both_ways(radius)], device=links.device, dtype=compact)
    # Entries are picked, never listed by place: lists of places would be the largest thing here.
    values = links.div_(root[:, None])[there]
    del links
    column = (torch.arange(nodes, device=root.device, dtype=compact)[:, None] + shifts)[there]
    for part, there in zip(values.chunk(8), column.chunk(8), strict=True):
        part /= root[there]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        matrix = torch.sparse_csr_tensor(
            starts.to(compact), column, values, size=(nodes, nodes), check_invariants=False
        )
    return Transition(matrix, root, (affinities.shape[1], width))


def _check_precision(**dtypes: torch.dtype) -> None:
    for name, dtype in dtypes.items():
        if dtype not in _TOLERANCE:
            raise ValueError(f"{name}: {dtype}, needed float32 or float64; the walk loses labels in less")


def _both_ways(radius: float) -> list[tuple[int, int]]:
    """All offsets of a node's row in the matrix, in order of column: backward, itself, forward."""
    forward = half_offsets(radius)
    return [(-dy, -dx) for dy, dx in reversed(forward)] + [(0, 0), *forward]


def _links(pairs: Tensor, radius: float) -> Tensor:
    """Half pairs (O, h, w) -> links (N, 2 O + 1) of each node in the order of `_both_ways`, itself with weight 1."""
    count, height, width = pairs.shape
    links = pairs.new_zeros(height, width, 2 * count + 1)
    links[..., count] = 1
    for index, first, second in windows(height, width, radius):
        links[*first, count + 1 + index] = pairs[index, *first]
        links[*second, count - 1 - index] = pairs[index, *first]
    return links.flatten(0, 1)
