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
            UsageError: artifact bytes would go to a terminal, or into a log.
        """
        if output not in {None, "-"}:
            return Target(path=Path(str(output)))
        found = os.fstat(self.handle)
        is_pipe = stat.S_ISFIFO(found.st_mode) or stat.S_ISSOCK(found.st_mode)
        if not is_pipe and not stat.S_ISREG(found.st_mode):
            raise UsageError("no place for the result", "give -o PATH, or pipe into the next xseg command")
        if _same(found, 2):
            raise UsageError("no -o, and standard output is the log that errors go to", "give -o PATH")
        if output is None and _is_log_of_a_job(found):
            raise UsageError("no -o, and standard output is the log of a SLURM job", "give -o PATH, or -o - to insist")
        return Target(pipe=self.handle) if is_pipe else Target(file=self.handle)


def _same(found: os.stat_result, other: int | str) -> bool:
    try:
        status = os.stat(other)  # noqa: PTH116 - a descriptor, too
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (status.st_dev, status.st_ino)


def _is_log_of_a_job(found: os.stat_result) -> bool:
    """Whether SLURM, and not this command's own line in the script, decided where standard output goes."""
    if "SLURM_JOB_ID" not in os.environ:
        return False
    started_by_srun = os.environ.get("SLURM_TASK_PID") == str(os.getpid())
    return started_by_srun or _same(found, f"/proc/{os.getppid()}/fd/1")


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
