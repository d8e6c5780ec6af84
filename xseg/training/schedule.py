"""Learning-rate factors as pure functions of the step, so that a resumed run cannot drift from an uninterrupted one."""

from collections.abc import Callable
from functools import partial
from math import cos, pi
from typing import Literal

Schedule = Callable[[int], float]
Shape = Literal["poly", "cosine"]


def make_schedule(shape: Shape, steps: int, *, power: float = 0.9, warmup: float = 0.0) -> Schedule:
    """The schedule of a run.

    Args:
        shape: `poly` or `cosine`.
        steps: of the run.
        power: of `poly`.
        warmup: share of the steps in which the rate rises, in [0, 1).
    """
    rising = round(warmup * steps)
    if shape == "cosine":
        return partial(cosine, total=steps, warmup=rising)
    return partial(poly, total=steps, power=power, warmup=rising)


def step_count(epochs: float, images: int, batch_size: int) -> int:
    """Steps in which every image is seen `epochs` times, at least one; the last batch is whole, too."""
    return max(1, -int(-epochs * images // batch_size))


def poly(step: int, total: int, power: float = 0.9, warmup: int = 0) -> float:
    """Factor in [0, 1]: (1 - t)^power with t the share of steps done after the warm-up (psa's PolyOptimizer).

    Args:
        step: 0..total-1.
        total: number of steps.
        power: 0.9 in psa and irn; 0 keeps the rate constant.
        warmup: steps of linear rise before, counted within `total`.
    """
    return _warm(step, warmup) if step < warmup else (1 - _share(step, total, warmup)) ** power


def cosine(step: int, total: int, warmup: int = 0) -> float:
    """Factor in [0, 1]: (1 + cos(pi t)) / 2 (Loshchilov and Hutter 2017, without restarts); arguments as in `poly`."""
    return _warm(step, warmup) if step < warmup else (1 + cos(pi * _share(step, total, warmup))) / 2


def _warm(step: int, warmup: int) -> float:
    return (step + 1) / warmup


def _share(step: int, total: int, warmup: int) -> float:
    if not 0 <= step < max(total, 1):
        raise ValueError(f"step is {step}, needed 0..{total - 1}")
    return (step - warmup) / max(total - warmup, 1)
