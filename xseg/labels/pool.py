"""A CRF backend that holds the GIL, run in several processes."""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import ClassVar, Literal

import torch
from torch import Tensor

from xseg.labels.meanfield import Backend, Kernels
from xseg.runs.signals import signals_held


class _Pooled:
    """Hands each image to a process; callers wait in threads of their own."""

    parallel: ClassVar[Literal["threads", "processes"]] = "threads"
    accelerated: ClassVar[bool] = False

    def __init__(self, engine: Backend, pool: ProcessPoolExecutor) -> None:
        self._engine, self._pool = engine, pool

    def infer(self, unary: Tensor, images: Tensor, kernels: Kernels) -> Tensor:
        """See `Backend.infer`."""
        with signals_held():  # a signal to the whole group must not end the process that this may start
            answer = self._pool.submit(_infer, self._engine, unary.numpy(), images.numpy(), kernels)
        return torch.from_numpy(answer.result())


@contextmanager
def in_processes(engine: Backend, workers: int) -> Iterator[Backend]:
    """`engine` in `workers` processes, which end with the block."""
    # Not fork: torch's threads do not survive one.
    context = multiprocessing.get_context("spawn")
    with signals_held():  # what keeps track of them starts here
        pool = ProcessPoolExecutor(workers, context, initializer=_one_thread)
    with pool:
        yield _Pooled(engine, pool)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _infer(engine: Backend, unary: object, images: object, kernels: Kernels) -> object:
    return engine.infer(torch.as_tensor(unary), torch.as_tensor(images), kernels).numpy()
