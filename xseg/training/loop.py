"""The one training loop: every trainer brings a task, the loop brings steps, precision, checkpoints and stopping."""

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from math import isfinite
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from xseg.device import autocast, is_out_of_memory, uses_amp
from xseg.errors import BadInput, Stopped, Unavailable, UsageError
from xseg.seeding import key_seed
from xseg.training.checkpoint import Checkpoint
from xseg.training.schedule import Schedule
from xseg.training.together import Together, is_partner_gone, partner_gone

Batch = Mapping[str, Tensor]
Terms = Mapping[str, float]
Progress = Callable[[int, int, Mapping[str, float]], None]


class Task(Protocol):
    """What is trained, on what, towards what."""

    @property
    def module(self) -> nn.Module:
        """The module whose state is trained and kept in checkpoints."""

    def batches(self, steps: range) -> Iterator[Batch]:
        """The batch of each step: tensors on the CPU, samples along the first axis; depends on the step alone."""

    def loss(self, batch: Batch, step: int, total: Terms | None = None) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Scalar loss of a batch (on the module's device) and values to report, all of them means or sums of means.

        A part of a batch is told the `total` terms of all parts: the losses of the parts add up to that of the whole.
        """

    def terms(self, batch: Batch) -> Terms:
        """How many terms each mean in the loss is over."""


@dataclass(frozen=True)
class LoopSettings:
    """How the loop runs.

    Args:
        steps: total number of steps.
        seed: of everything random inside the module (dropout); keyed by step.
        amp: mixed precision with loss scaling, on an accelerator only.
        clip: largest norm of the gradient; None does not clip.
        report_every: steps per entry of the history (an epoch, say).
        partly_used: some weights that could learn have no part in the loss.
        skips: most steps in a row that change nothing because their gradient is not finite; the next such one ends
            the run. With `amp` the loss scaling has its own way to leave such steps out.
    """

    steps: int
    seed: int = 0
    amp: bool = False
    clip: float | None = None
    report_every: int = 100
    partly_used: bool = False
    skips: int = 0


@dataclass
class LoopState:
    """Where a run stands, all of it in the checkpoint.

    Args:
        step: steps done.
        parts: parts a batch is split into; doubled when memory runs out.
        history: one entry per `report_every` steps: `step`, `lr` and the mean of each reported value.
        sums: running sums of the current entry, with the number of steps under `count`.
        skipped: the last so many steps were left out, see `LoopSettings.skips`.
    """

    step: int = 0
    parts: int = 1
    history: list[dict[str, float]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    skipped: int = 0


def train(
    task: Task,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    settings: LoopSettings,
    *,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
    group: Together | None = None,
) -> list[dict[str, float]]:
    """Run all steps, or those that a checkpoint has not seen yet, and leave the module in eval mode.

    A run that is interrupted at any step and continued ends with the same weights, bit for bit on the same machine and
    thread count: batches, dropout and learning rate depend on the step alone. When the device's memory runs out the
    batch is split and gradients are accumulated; with frozen batch norms and no dropout that changes rounding only.

    Several processes each bring their part of a step's batch; the gradient is that of the whole batch. They stop at the
    same step, the first one keeps the checkpoint, and all read it.

    Args:
        task: module, batches and loss.
        optimizer: its groups carry `base_lr`, multiplied by `schedule(step)`.
        schedule: factor of the learning rate.
        settings: numbers.
        device: where `task.module` is.
        checkpoint: claimed already; None keeps none.
        should_stop: polled between steps.
        progress: told (steps done, of how many, values of the last step), at the start and after every step.
        group: the processes that train together; None: this one alone.

    Returns:
        The history, see `LoopState`.

    Raises:
        Stopped: `should_stop` said so; a checkpoint was saved.
        UsageError: the loss or a weight is not finite; the message names the step.
        Unavailable: memory does not suffice for one sample, or another process is gone.
        CannotCreate, BadInput, OutputFailed: the checkpoint is another run's, unreadable or cannot be written.
    """
    group = group or Together()
    run = _Run(task, optimizer, schedule, settings, device, checkpoint, group)
    run.resume()
    task.module.train()
    run.join()
    if progress is not None:
        progress(run.state.step, settings.steps, {})
    try:
        # Forked: what is drawn here leaves the caller's random numbers as they were.
        with (
            torch.random.fork_rng(devices=[]),
            closing(_batches(task, range(run.state.step, settings.steps))) as batches,
        ):
            for batch in batches:
                if group.any(should_stop()):
                    run.save()
                    raise Stopped(
                        f"stopped after step {run.state.step} of {settings.steps}", "the same command continues"
                    )
                values = run.advance(batch)
                if progress is not None:
                    progress(run.state.step, settings.steps, values)
                if checkpoint is not None and group.rank.first and checkpoint.due(run.state.step):
                    run.save()
        run.save()
    finally:
        task.module.eval()
    return run.state.history


def _batches(task: Task, steps: range) -> Generator[Batch, None, None]:
    # A generator can be closed, whatever kind of iterator the task returns.
    yield from task.batches(steps)


class _Run:
    def __init__(
        self,
        task: Task,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        settings: LoopSettings,
        device: torch.device,
        checkpoint: Checkpoint | None,
        group: Together,
    ) -> None:
        self.group = group
        self.compute: nn.Module = _Loss(task)
        self.task, self.optimizer, self.schedule, self.settings = task, optimizer, schedule, settings
        self.device, self.checkpoint = device, checkpoint
        self.amp = uses_amp(device, settings.amp)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp)
        self.state = LoopState()

    def resume(self) -> None:
        saved = self.checkpoint.load() if self.checkpoint else None
        if saved is None:
            return
        try:
            self.task.module.load_state_dict(saved["module"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.scaler.load_state_dict(saved["scaler"])
            self.state = LoopState(**saved["state"])
        except (LookupError, RuntimeError, TypeError, ValueError) as error:
            raise BadInput(
                f"{self.checkpoint.directory} does not fit this network ({str(error).splitlines()[0]})",  # type: ignore
                "train anew with --no-resume",
            ) from error

    def join(self) -> None:
        self.compute = self.group.wrap(self.compute, partly=self.settings.partly_used)

    def save(self) -> None:
        if self.checkpoint is None or not self.group.rank.first:
            return
        _check_weights(self.task.module, self.state.step)
        self.checkpoint.save(
            {
                "module": self.task.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "state": vars(self.state),
            }
        )

    def advance(self, batch: Batch) -> dict[str, float]:
        state, step = self.state, self.state.step
        factor = self.schedule(step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        values = self._gradients(batch, step)
        self.scaler.unscale_(self.optimizer)
        if self._usable(values, step):
            if self.settings.clip is not None:
                torch.nn.utils.clip_grad_norm_(self.task.module.parameters(), self.settings.clip)
            self.scaler.step(self.optimizer)
        self.scaler.update()
        state.step += 1
        self._report({**values, "lr": factor})
        if state.step == self.settings.steps:
            _check_weights(self.task.module, state.step)
        return values

    def _usable(self, values: dict[str, float], step: int) -> bool:
        """Whether the gradient is finite, where steps may be left out; `values` gets to say whether it was."""
        state, skips = self.state, self.settings.skips
        if not skips or self.amp:
            return True
        gradients = [p.grad for p in self.task.module.parameters() if p.grad is not None]
        finite = isfinite(float(torch.nn.utils.get_total_norm(gradients)))
        state.skipped = 0 if finite else state.skipped + 1
        values["skipped"] = float(not finite)
        if state.skipped > skips:
            raise _diverged(f"the gradients of {state.skipped} steps in a row are not finite", step)
        return finite

    def _gradients(self, batch: Batch, step: int) -> dict[str, float]:
        buffers = [(buffer, buffer.clone()) for buffer in self.task.module.buffers()]
        while True:
            try:
                return self._accumulate(batch, step)
            except RuntimeError as error:
                if is_partner_gone(error):  # within a forward or backward pass, which average over the processes
                    raise partner_gone(error) from error
                if not is_out_of_memory(error):
                    raise
                if not self.group.rank.alone:  # the others wait for this step's gradient
                    raise Unavailable(
                        f"the device's memory does not hold this process's part of the batch (step {step})",
                        "choose a smaller --batch-size or --crop, or more processes",
                    ) from error
                size = len(next(iter(batch.values())))
                if self.state.parts >= size:
                    hint = "choose a smaller --crop, or --device cpu"
                    raise Unavailable(f"the device's memory does not hold one sample (step {step})", hint) from error
            # Outside the handler: the traceback no longer keeps the failed pass alive.
            self.state.parts = min(2 * self.state.parts, size)
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)

    def _accumulate(self, batch: Batch, step: int) -> dict[str, float]:
        self.optimizer.zero_grad(set_to_none=True)
        parts = _split(batch, self.state.parts)
        total = self._total(parts)
        rank = self.group.rank
        sums: dict[str, float] = {}
        for index, part in enumerate(parts):
            key = ("step", step, *([index] * (index > 0)), *(("rank", rank.number) if rank.number else ()))
            torch.manual_seed(key_seed(self.settings.seed, *key))
            on_device = {name: tensor.to(self.device, non_blocking=True) for name, tensor in part.items()}
            with autocast(self.device, self.amp):
                loss, values = self._computed(on_device, step, total)
            found = float(loss.detach())
            if not isfinite(self.group.sum(found)):
                raise _diverged(f"the loss is {found}", step)
            self.scaler.scale(loss * rank.count).backward()  # processes average their gradients
            for name, value in {"loss": found, **values}.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach() if isinstance(value, Tensor) else value)
        return {name: self.group.sum(value) for name, value in sums.items()}

    def _computed(self, batch: Batch, step: int, total: Terms | None) -> tuple[Tensor, dict[str, float | Tensor]]:
        try:
            computed: tuple[Tensor, dict[str, float | Tensor]] = self.compute(batch, step, total)
        except ValueError as error:
            if not str(error).startswith("Expected more than 1 value per channel"):  # torch, of a batch norm
                raise
            raise UsageError(
                f"a batch norm sees one value of a channel and has no statistics (step {step})",
                "choose a larger --crop or --batch-size, or --freeze-bn",
            ) from error
        return computed

    def _total(self, parts: list[Batch]) -> Terms | None:
        """Terms of a batch that several parts or processes share; None if it is whole here."""
        if len(parts) == 1 and self.group.rank.alone:
            return None
        counted = [self.task.terms(part) for part in parts]
        sums = self.group.sum_array(np.array([list(one.values()) for one in counted], np.float64).sum(0))
        return dict(zip(counted[0], sums.tolist(), strict=True))

    def _report(self, values: Mapping[str, float]) -> None:
        state = self.state
        for name, value in {**values, "count": 1.0}.items():
            state.sums[name] = state.sums.get(name, 0.0) + value
        if state.step % self.settings.report_every and state.step < self.settings.steps:
            return
        count = state.sums.pop("count")
        state.history.append({"step": state.step, **{name: total / count for name, total in state.sums.items()}})
        state.sums = {}


class _Loss(nn.Module):
    """A task's loss as a module, which is what can be wrapped for several processes."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.trained, self._task = task.module, task

    def forward(self, batch: Batch, step: int, total: Terms | None) -> tuple[Tensor, dict[str, float | Tensor]]:
        return self._task.loss(batch, step, total)


def _split(batch: Batch, parts: int) -> list[Batch]:
    if parts == 1:
        return [batch]
    size = -(-len(next(iter(batch.values()))) // parts)
    pieces = {name: tensor.split(size) for name, tensor in batch.items()}
    return [dict(zip(pieces, piece, strict=True)) for piece in zip(*pieces.values(), strict=True)]


def _check_weights(module: nn.Module, step: int) -> None:
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise _diverged(f"{name} is no longer finite", step)


def _diverged(what: str, step: int) -> UsageError:
    return UsageError(f"training diverged at step {step}: {what}", "lower --lr, lengthen --warmup, or use --no-amp")
