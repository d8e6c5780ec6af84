"""Standard output, kept for the result alone."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xseg.errors import UsageError
from xseg.runs.target import Target


class Stdout:
    """The real standard output, set aside so that no library can write into the result."""

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def line(self, text: str) -> None:
        """Write one line."""
        data = (text + "\n").encode()
        while data:
            data = data[os.write(self.handle, data) :]

    def target(self, output: str | None) -> Target:
        """Where `-o OUTPUT` (or its absence) sends an artifact.

        Raises:
            UsageError: artifact bytes would go to a terminal, or into the log that standard error goes to.
        """
        if output not in {None, "-"}:
            return Target(path=Path(str(output)))
        found = os.fstat(self.handle)
        if stat.S_ISFIFO(found.st_mode) or stat.S_ISSOCK(found.st_mode):
            return Target(pipe=self.handle)
        if stat.S_ISREG(found.st_mode) and not _same(found, 2):
            return Target(file=self.handle)
        if stat.S_ISREG(found.st_mode):
            raise UsageError("no -o, and standard output is the log file", "give -o PATH")
        raise UsageError("no place for the result", "give -o PATH, or pipe into the next xseg command")


def _same(found: os.stat_result, handle: int) -> bool:
    try:
        other = os.fstat(handle)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (other.st_dev, other.st_ino)


@contextmanager
def stdout_aside() -> Iterator[Stdout]:
    """Inside the block, descriptor 1 is standard error and the yielded object the real standard output."""
    real = os.dup(1)
    os.dup2(2, 1)
    try:
        yield Stdout(real)
    finally:
        os.dup2(real, 1)
        os.close(real)
