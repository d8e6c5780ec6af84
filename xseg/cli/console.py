"""What people see, on standard error: notes, progress on a terminal, a line now and then in a log."""

import sys
import time
from contextlib import suppress

from xseg.errors import Status, UsageError, XsegError

LOG_SECONDS = 30.0


class ConsoleReporter:
    """Progress as a bar on a terminal, as a line every 30 s elsewhere, or not at all.

    Args:
        mode: `auto`, `always` (a bar even off a terminal) or `never`.
        verbosity: -1 quiet, 0 normal, 1 and more: details.
    """

    def __init__(self, mode: str = "auto", verbosity: int = 0) -> None:
        if mode not in {"auto", "always", "never"}:
            raise UsageError(f"--progress {mode}: needed auto, always or never")
        self._bar_wanted = mode == "always" or (mode == "auto" and sys.stderr.isatty())
        self._lines_wanted = mode == "auto" and not self._bar_wanted
        self._verbosity = verbosity
        self._bar: _Bar | None = None
        self._begun()

    def _begun(self, task: str = "", total: int = 0, done: int = 0) -> None:
        self._task, self._total, self._done, self._status = task, total, done, ""
        self._before = done
        self._start = self._told = time.monotonic()

    def start(self, task: str, total: int, done: int = 0) -> None:
        """A task of `total` units begins, of which an earlier run has done some."""
        self.close()
        self._begun(task, total, done)
        if done and self._verbosity >= 0:
            self._write(f"{task}: {done} of {total} are done already, going on")
        if self._bar_wanted and self._verbosity >= 0 and total:
            self._bar = _Bar(task, total, done)

    def advance(self, count: int = 1, status: str = "") -> None:
        """So many more units are done."""
        self._done += count
        self._status = status or self._status
        if self._bar:
            self._bar.advance(count, self._status)
        now = time.monotonic()
        if self._lines_wanted and self._verbosity >= 0 and now - self._told >= LOG_SECONDS:
            self._told = now
            self._write(self._line(now))

    def _line(self, now: float) -> str:
        rate = (self._done - self._before) / max(now - self._start, 1e-9)
        left = int((self._total - self._done) / max(rate, 1e-9))
        eta = f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"
        share = 100 * self._done // max(self._total, 1)
        line = f"{self._task} {self._done}/{self._total} {share}%, {rate:.1f}/s, eta {eta}"
        return f"{line}, {self._status}" if self._status else line

    def note(self, message: str) -> None:
        """One line that the user should see."""
        self._write(message)

    def detail(self, message: str) -> None:
        """One line for those who asked for more with -v."""
        if self._verbosity > 0:
            self._write(message)

    def _write(self, message: str) -> None:
        text = plain(message)
        if self._bar:
            self._bar.print(text)
        else:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def close(self) -> None:
        """Remove the bar."""
        if self._bar:
            self._bar.close()
            self._bar = None


class _Bar:
    """A rich progress bar; rich is imported only where one is drawn."""

    def __init__(self, task: str, total: int, done: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}", markup=False),
        )
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._progress.start()
        self._task = self._progress.add_task(task, total=total, completed=done, rate="", status="")

    def advance(self, count: int, status: str) -> None:
        speed = self._progress.tasks[0].speed
        self._progress.update(self._task, advance=count, status=status, rate=f"{speed:.1f}/s" if speed else "")

    def print(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        self._progress.stop()


def plain(message: str) -> str:
    """The message without control characters: ids and class names come from files, and must not steer a terminal."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in message)


def tell_error(error: XsegError) -> Status:
    """Print an error as the user should see it; returns the status to end with."""
    with suppress(OSError):  # nobody may be listening any more
        if error.problem:
            sys.stderr.write(f"error: {plain(error.problem)}\n")
        if error.hint:
            sys.stderr.write(f"hint: {plain(error.hint)}\n")
        sys.stderr.flush()
    return error.status
