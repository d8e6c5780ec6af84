"""Where an output goes. Imports nothing heavy: the command line looks at it before any work."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Target:
    """Where the output goes: a path, a pipe, or a regular file that is standard output."""

    path: Path | None = None
    pipe: int | None = None
    file: int | None = None
