"""Stopping on request: a first signal sets a flag, a second one ends the process at once."""

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from xseg.errors import Status, Stopped

T = TypeVar("T")

_STOPPING = ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGINT")


class StopFlag:
    """Set by a signal, read between images or training steps."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        """Whether a stop was asked for."""
        return self.signal is not None

    @property
    def status(self) -> Status:
        """130 after Ctrl-C, else 75."""
        return _status(self.signal)

    def between(self, items: Iterable[T]) -> Iterator[T]:
        """The items, until a stop is asked for.

        Raises:
            Stopped: it was.
        """
        for item in items:
            if self():
                raise self.stopped("stopped by a signal; nothing was written", "run the same command again")
            yield item

    def stopped(self, problem: str, hint: str) -> Stopped:
        """The error to end with, its status that of the signal."""
        error = Stopped(problem, hint)
        error.status = self.status
        return error

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None:
            os._exit(self.status)
        self.signal = number


@contextmanager
def stop_flag() -> Iterator[StopFlag]:
    """Handlers for TERM, USR1, USR2 and Ctrl-C inside the block, the former ones afterwards; inner ones share them."""
    outer = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    if isinstance(outer, StopFlag):
        yield outer
        return
    flag = StopFlag()
    numbers = _numbers()
    # A background job of a shell ignores Ctrl-C; that choice is kept.
    numbers = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, flag._handle) for number in numbers}
    try:
        with _ended_by_a_second(numbers):
            yield flag
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) == flag._handle:
                signal.signal(number, handler)


@contextmanager
def _ended_by_a_second(numbers: list[int]) -> Iterator[None]:
    """End the process at a second signal even where Python's own handlers have to wait: in a long call of a library."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def watch() -> None:
        seen: list[int] = []
        while data := os.read(reader, 64):
            seen += [number for number in data if number in numbers]
            if len(seen) > 1:
                os._exit(_status(seen[0]))
        os.close(reader)

    threading.Thread(target=watch, name="xseg-signals", daemon=True).start()
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold back signals in this thread for the block, and in processes started there for good: the parent decides."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _numbers())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def past_stopping() -> None:
    """From here on signals come too late: everything is published, and the status must not turn into that of a kill."""
    for number in _numbers():
        signal.signal(number, signal.SIG_IGN)


def _status(number: int | None) -> Status:
    return Status.INTERRUPTED if number == signal.SIGINT else Status.STOPPED


def _numbers() -> list[int]:
    return [getattr(signal, name) for name in _STOPPING if hasattr(signal, name)]
