"""Errors that are told to the user in one sentence, and the exit statuses they end with.

Anything that is not an `XsegError` is a bug and keeps its traceback.
"""

from enum import IntEnum


class Status(IntEnum):
    """Exit statuses of every command (sysexits where one fits)."""

    OK = 0
    BUG = 1
    USAGE = 2
    SOME_FAILED = 3
    BAD_INPUT = 65
    INPUT_MISSING = 66
    UNAVAILABLE = 69
    CANNOT_CREATE = 73
    IO = 74
    STOPPED = 75
    INTERRUPTED = 130
    BROKEN_PIPE = 141


class XsegError(Exception):
    """A problem the user can mend: what was found and needed, and how to go on.

    Args:
        problem: which file or option, what was found, what was needed.
        hint: what to do about it, a command where there is one.
    """

    status: Status = Status.BUG

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem, hint)
        self.problem = problem
        self.hint = hint

    def __str__(self) -> str:
        """The problem and its hint on one line, as kept beside a failed image."""
        return f"{self.problem}; {self.hint}" if self.hint else self.problem


class UsageError(XsegError):
    """The command line does not make sense (2)."""

    status = Status.USAGE


class SomeFailed(XsegError):
    """The run finished, but more images failed than were allowed (3)."""

    status = Status.SOME_FAILED


class BadInput(XsegError):
    """An input was read and is not what it should be (65)."""

    status = Status.BAD_INPUT


class NothingScored(BadInput):
    """No image of a run could be scored; the runs beside it keep their scores."""


class InputMissing(XsegError):
    """An input is not there (66)."""

    status = Status.INPUT_MISSING


class ImagesMissing(XsegError):
    """None of the places where images are looked for is there (66): told once, not for every image."""

    status = Status.INPUT_MISSING


class ToldElsewhere(XsegError):
    """Another process of the same training failed and says why; this one ends with the same status, silently."""

    def __init__(self, status: int) -> None:
        super().__init__("")
        self.status = Status(status)


class Unavailable(XsegError):
    """A device or an optional part that was asked for is not there (69)."""

    status = Status.UNAVAILABLE


class CannotCreate(XsegError):
    """The output exists already, belongs to another run, or cannot be created (73)."""

    status = Status.CANNOT_CREATE


class OutputFailed(XsegError):
    """Writing failed half-way, as on a full disk (74)."""

    status = Status.IO


class Stopped(XsegError):
    """A signal asked for an end; running the same command again continues (75)."""

    status = Status.STOPPED


def require_at_most_one(**options: object) -> None:
    """Refuse options that exclude each other; those that were not given are None.

    Raises:
        UsageError: two of them were.
    """
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]} exclude each other")


def require_one_of(option: str, value: str | None, *known: str) -> None:
    """Refuse a word that the option does not know; None is an option that was not given.

    Raises:
        UsageError: the message names the words it knows.
    """
    if value is not None and value not in known:
        raise UsageError(f"{option} {value}: unknown", f"one of {', '.join(known)}")
