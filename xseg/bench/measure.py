"""A ratio of two ways to compute the same thing, on a machine that is not idle."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """Two ways to the same result.

    Attributes:
        name: what is computed, and at what size.
        reference: the peer's algorithm.
        ours: ours.
        tolerance: largest absolute difference at which the ratio counts.
    """

    name: str
    reference: Callable[[], Tensor]
    ours: Callable[[], Tensor]
    tolerance: float


@dataclass(frozen=True)
class Ratio:
    """What was measured.

    Attributes:
        name: of the case.
        ratio: median over pairs of reference time / our time, CPU time of one thread.
        low: smallest pair ratio.
        high: largest.
        milliseconds: our median CPU time.
        difference: largest absolute difference of the results.
        equal: whether that is within the case's tolerance; a ratio without it is worth nothing.
    """

    name: str
    ratio: float
    low: float
    high: float
    milliseconds: float
    difference: float
    equal: bool


def measure(case: Case, pairs: int = 7) -> Ratio:
    """Run both ways alternately, in ABBA order, and compare their CPU times pair by pair.

    CPU time and pairs, because wall times and separate blocks vary by factors on a shared machine.

    Args:
        case: what to run; the first call of each is not timed.
        pairs: number of pairs.
    """
    difference = float((case.reference().double() - case.ours().double()).abs().max())
    ratios, times = [], []
    for pair in range(pairs):
        order = (case.reference, case.ours) if pair % 2 == 0 else (case.ours, case.reference)
        spent = {way: _cpu_seconds(way) for way in order}
        ratios.append(spent[case.reference] / spent[case.ours])
        times.append(spent[case.ours])
    return Ratio(
        case.name,
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        1e3 * statistics.median(times),
        difference,
        difference <= case.tolerance,
    )


def run(cases: Sequence[Case], pairs: int = 7) -> list[Ratio]:
    """Measure every case on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [measure(case, pairs) for case in cases]
    finally:
        torch.set_num_threads(before)


def _cpu_seconds(way: Callable[[], Tensor]) -> float:
    start = time.process_time()
    way()
    return max(time.process_time() - start, 1e-9)
