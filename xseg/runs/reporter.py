"""Who is told how a run goes: a terminal, a log, or nobody."""

from typing import Protocol


class Reporter(Protocol):
    """Told about progress; never about results."""

    def start(self, task: str, total: int, done: int = 0) -> None:
        """A task of `total` units begins, of which an earlier run has done some."""

    def advance(self, count: int = 1, status: str = "") -> None:
        """So many more units are done; `status` is a short current figure such as the loss."""

    def note(self, message: str) -> None:
        """One line that the user should see."""

    def detail(self, message: str) -> None:
        """One line for those who asked for more."""


class Silent:
    """Tells nobody; keeps the notes for whoever asks."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def start(self, task: str, total: int, done: int = 0) -> None:
        """Nothing."""

    def advance(self, count: int = 1, status: str = "") -> None:
        """Nothing."""

    def note(self, message: str) -> None:
        """Keep the line."""
        self.notes.append(message)

    def detail(self, message: str) -> None:
        """Nothing."""
