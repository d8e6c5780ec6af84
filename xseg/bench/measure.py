"""A ratio of two ways to compute the same thing, on a machine that is not idle."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
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
        expected: what ours must equal, where the reference is only a unit of cost and computes something else.
        unit: that unit ("f+b": a forward and a backward pass); empty where the reference computes the same.
        compared: what of our result is compared, untimed, as what can be read back from a file; None: all of it.
        spent: what a way uses of something else than CPU time, in bytes; always the same, so it is taken once.
        clock: seconds that are compared; anything but CPU time is told in the name.
        most_pairs: timed pairs at most, where one takes long.
    """

    name: str
    reference: Callable[[], Tensor]
    ours: Callable[[], Tensor]
    tolerance: float
    expected: Callable[[], Tensor] | None = None
    unit: str = ""
    compared: Callable[[Tensor], Tensor] | None = None
    spent: Callable[[Callable[[], Tensor]], float] | None = None
    clock: Callable[[], float] = time.process_time
    most_pairs: int = 1000


@dataclass(frozen=True)
class Ratio:
    """What was measured.

    Attributes:
        name: of the case.
        ratio: median over pairs of reference time / our time, by the case's clock: CPU time of one thread.
        low: smallest pair ratio.
        high: largest.
        milliseconds: our median time.
        difference: largest absolute difference of the results.
        equal: whether that is within the case's tolerance; a ratio without it is worth nothing.
        unit: of the case.
        cost: our time in that unit, median over pairs; None without a unit.
        megabytes: what ours holds, where memory is compared and not time.
    """

    name: str
    ratio: float
    low: float
    high: float
    milliseconds: float
    difference: float
    equal: bool
    unit: str = ""
    cost: float | None = None
    megabytes: float | None = None


def measure(case: Case, pairs: int = 7) -> Ratio:
    """Run both ways alternately, in ABBA order, and compare their CPU times pair by pair.

    CPU time and pairs, because wall times and separate blocks vary by factors on a shared machine.

    Args:
        case: what to run; the first call of each is not timed.
        pairs: number of pairs.
    """
    computed = case.reference()
    expected = computed if case.expected is None else case.expected()
    found = case.ours() if case.compared is None else case.compared(case.ours())
    difference = float((expected.double() - found.double()).abs().max())
    if case.spent is not None:
        return _of_memory(case, case.spent, difference)
    ratios, times = [], []
    for pair in range(min(pairs, case.most_pairs)):
        order = (case.reference, case.ours) if pair % 2 == 0 else (case.ours, case.reference)
        spent = {way: _seconds(way, case.clock) for way in order}
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
        case.unit,
        1 / statistics.median(ratios) if case.unit else None,
    )


def _of_memory(case: Case, spent: Callable[[Callable[[], Tensor]], float], difference: float) -> Ratio:
    reference, ours = spent(case.reference), spent(case.ours)
    ratio = reference / max(ours, 1.0)
    return Ratio(
        case.name,
        ratio,
        ratio,
        ratio,
        1e3 * _seconds(case.ours, case.clock),
        difference,
        difference <= case.tolerance,
        case.unit,
        ours / max(reference, 1.0) if case.unit else None,
        ours / 1e6,
    )


def run(cases: Iterable[Case], pairs: int = 7) -> Iterator[Ratio]:
    """Measure case after case on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for case in cases:
            yield measure(case, pairs)
    finally:
        torch.set_num_threads(before)


def _seconds(way: Callable[[], Tensor], clock: Callable[[], float]) -> float:
    start = clock()
    way()
    return max(clock() - start, 1e-9)
