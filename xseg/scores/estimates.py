"""Statistics of a whole set that are no means of numbers of single images, with bootstrap intervals over images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from xseg.scores.bootstrap import draws, interval
from xseg.scores.overlap import Floats

Statistic = Callable[[Floats], Floats]
"""From (B,N) repetitions of N images to (B,M) numbers, NaN where there is none."""


@dataclass(frozen=True)
class Estimate:
    """M numbers of a set, with their 95 % intervals.

    Attributes:
        values: of each number, None where there is none.
        intervals: of each number, None where no resample has it.
    """

    values: list[float | None]
    intervals: list[list[float] | None]


def estimate(statistics: Mapping[str, Statistic], images: int, replicates: int, seed: int) -> dict[str, Estimate]:
    """Every statistic of the set as it is, and its interval over resampled images, the same for all statistics.

    Args:
        statistics: by name.
        images: their number N, at least 1, in an order that does not depend on how they came.
        replicates: resamples.
        seed: of the resampling.
    """
    once = {name: statistic(np.ones((1, images)))[0] for name, statistic in statistics.items()}
    spread: dict[str, list[Floats]] = {name: [] for name in statistics}
    for weights in draws(images, replicates, seed):
        for name, statistic in statistics.items():
            spread[name].append(statistic(weights))
    return {
        name: Estimate(
            [None if np.isnan(value) else float(value) for value in once[name]],
            [None if limits is None else list(limits) for limits in map(interval, np.concatenate(spread[name]).T)],
        )
        for name in statistics
    }


def ratio(part: Floats, count: Floats) -> Statistic:
    """The statistic sum(part) / sum(count), both (N,); NaN where the count is 0."""

    def statistic(weights: Floats) -> Floats:
        above, below = weights @ part, weights @ count
        return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)[:, None]

    return statistic
