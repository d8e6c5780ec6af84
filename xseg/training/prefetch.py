"""Batches prepared ahead by threads while the network computes."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
R = TypeVar("R")


def prefetch(
    samples: Callable[[int], Sequence[S]], load: Callable[[S], R], steps: range, *, workers: int, ahead: int = 2
) -> Iterator[list[R]]:
    """The loaded samples of each step, in order.

    Threads, because decoding and resizing release the interpreter's lock, start at once and copy nothing between
    processes. The result does not depend on `workers`; at most `ahead` batches beyond the current one are held.

    Args:
        samples: the samples of a step.
        load: reads one of them; its exception is raised where its batch is asked for.
        steps: the steps wanted.
        workers: threads; 0 loads in the caller.
        ahead: batches to prepare beyond the current one.
    """
    if workers < 1:
        yield from ([load(sample) for sample in samples(step)] for step in steps)
        return
    with ThreadPoolExecutor(workers, "xseg-load") as pool:
        waiting: deque[list[Future[R]]] = deque()
        coming = iter(steps)
        try:
            while True:
                while len(waiting) <= ahead and (step := next(coming, None)) is not None:
                    waiting.append([pool.submit(load, sample) for sample in samples(step)])
                if not waiting:
                    return
                yield [future.result() for future in waiting.popleft()]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
