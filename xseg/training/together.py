"""Several processes that train one network: what they agree on, and one of them writing for all."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from xseg.device import backend_between_processes
from xseg.errors import ToldElsewhere, Unavailable, UsageError, XsegError
from xseg.runs.ranks import Rank, meeting_point

T = TypeVar("T")

# Freeing the last reference to a group joins its threads, which may be waiting for the interpreter: both then wait for
# ever. So what refers to a group lives as long as the process, which `cli.command.main` ends without freeing anything.
KEPT: list[nn.Module] = []

# gloo raises plain RuntimeErrors that name its source files.
_CONNECTION = ("gloo", "nccl")


@dataclass(frozen=True)
class Together:
    """The group this process belongs to; alone, every method is the obvious one and nothing is initialised."""

    rank: Rank = field(default_factory=Rank)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def any(self, flag: bool) -> bool:
        """Whether any process says so; all processes learn it at the same step."""
        return bool(self.sum(float(flag)))

    def part_of(self, batch_size: int) -> tuple[int, int]:
        """Which part of each batch is this process's, as `SampleOrder` takes it.

        Raises:
            UsageError: more processes than samples in a batch.
        """
        if batch_size < self.rank.count:
            processes = f"each of {self.rank.count} processes"
            raise UsageError(f"--batch-size {batch_size}: needed at least one image for {processes}")
        return self.rank.number, self.rank.count

    def sum(self, value: float) -> float:
        """Sum over the processes."""
        return value if self.rank.alone else float(self._reduced(torch.tensor([value], dtype=torch.float64))[0])

    def sum_array(self, values: np.ndarray) -> np.ndarray:
        """Sum of an array over the processes, in its dtype."""
        return values if self.rank.alone else self._reduced(torch.from_numpy(values)).cpu().numpy()

    def _reduced(self, values: Tensor) -> Tensor:
        moved = values.to(self.device)
        with _partners():
            distributed.all_reduce(moved)
        return moved

    def first_does(self, work: Callable[[], T]) -> T:
        """Let the first process do `work` while the others wait; all get its result, or fail as it did.

        Raises:
            XsegError: in the first process its own, in the others `ToldElsewhere` with the same status.
        """
        if self.rank.alone:
            return work()
        said: list[tuple[T | None, int | None]] = [(None, None)]
        error: XsegError | None = None
        if self.rank.first:
            try:
                said = [(work(), None)]
            except XsegError as caught:
                said, error = [(None, int(caught.status))], caught
        with _partners():
            distributed.broadcast_object_list(said, 0, device=self.device)
        result, status = said[0]
        if error is not None:
            raise error
        if status is not None:
            raise ToldElsewhere(status)
        return result  # type: ignore[return-value]

    def wrap(self, module: nn.Module, *, partly: bool = False) -> nn.Module:
        """`module` with gradients averaged over the processes; all start from the first one's weights.

        Args:
            module: its forward returns the loss.
            partly: some weights that could learn have no part in the loss.
        """
        if self.rank.alone or not any(parameter.requires_grad for parameter in module.parameters()):
            return module
        with _partners():
            wrapped = DistributedDataParallel(module, find_unused_parameters=partly)
        KEPT.append(wrapped)
        return wrapped


@contextmanager
def together(rank: Rank, device: torch.device) -> Iterator[Together]:
    """Join the other processes for the block.

    Raises:
        Unavailable: they cannot be reached.
    """
    if rank.alone:
        yield Together(rank, device)
        return
    address, port = meeting_point()
    try:
        distributed.init_process_group(
            backend_between_processes(device),
            init_method=f"tcp://{address}:{port}",
            rank=rank.number,
            world_size=rank.count,
        )
    except (RuntimeError, ValueError) as error:
        raise Unavailable(
            f"process {rank.number} of {rank.count} cannot meet the others at {address}:{port}"
            f" ({str(error).splitlines()[0]})",
            "start all of them with one srun or torchrun",
        ) from error
    try:
        yield Together(rank, device)
    finally:
        with suppress(RuntimeError):  # a partner that is gone
            distributed.destroy_process_group()


@contextmanager
def _partners() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise partner_gone(error) from error


def is_partner_gone(error: BaseException) -> bool:
    """Whether `error`, from a pass that averages over processes, is the connection's and not the computation's."""
    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _CONNECTION)
    )


def partner_gone(error: BaseException) -> Unavailable:
    """What the user is told when `error` ended the connection to the other processes."""
    return Unavailable(
        f"another process of this training is gone ({str(error).splitlines()[0]})",
        "see its log; the same command continues from the last checkpoint",
    )
