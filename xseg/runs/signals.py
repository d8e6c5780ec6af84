"""Stopping on request: a first signal sets a flag, a second one ends the process at once."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from xseg.errors import Status

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
        return Status.INTERRUPTED if self.signal == signal.SIGINT else Status.STOPPED

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
        yield flag
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) == flag._handle:
                signal.signal(number, handler)


def past_stopping() -> None:
    """From here on signals come too late: everything is published, and the status must not turn into that of a kill."""
    for number in _numbers():
        signal.signal(number, signal.SIG_IGN)


def _numbers() -> list[int]:
    return [getattr(signal, name) for name in _STOPPING if hasattr(signal, name)]
