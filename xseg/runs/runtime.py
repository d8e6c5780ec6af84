"""What the shared options mean: one object that every step receives."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from xseg.artifacts.header import Header
from xseg.errors import InputMissing, UsageError
from xseg.runs.ranks import Rank
from xseg.runs.reporter import Reporter, Silent
from xseg.runs.shards import Shard
from xseg.runs.signals import StopFlag
from xseg.runs.sinks import FileSink, PipeSink, Sink
from xseg.runs.target import Target


@dataclass
class Runtime:
    """How a step runs; nothing here but `seed` and `amp` may change its results.

    Attributes:
        target: where the output goes.
        argv: the command line, recorded in the artifact.
        images: directory, tar or zip to look images up in first.
        device: as given to `--device`.
        batch_size: images at once; None: the step's own default.
        workers: loading threads; None: one per core.
        amp: mixed precision; None: not asked for.
        seed: of every random draw.
        shard: slice of the work list.
        limit: only so many images.
        resume: continue a run that was cut off.
        overwrite: replace an existing output.
        allow_missing: accept inputs that do not cover their work list.
        max_failures: images that may fail without changing the exit status.
        reporter: told about progress.
        stop: set by a signal.
        rank: which of several processes this is; trainers work together, other steps ignore it.
    """

    target: Target = field(default_factory=Target)
    argv: tuple[str, ...] = ()
    images: Path | None = None
    device: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    amp: bool | None = None
    seed: int = 0
    shard: Shard | None = None
    limit: int | None = None
    resume: bool = True
    overwrite: bool = False
    allow_missing: bool = False
    max_failures: int = 0
    reporter: Reporter = field(default_factory=Silent)
    stop: StopFlag = field(default_factory=StopFlag)
    rank: Rank = field(default_factory=Rank)

    def for_rank(self) -> "Runtime":
        """The same for one of several processes: only the first reports progress."""
        return self if self.rank.first else replace(self, reporter=Silent())

    @contextmanager
    def sink(self, header: Header) -> Iterator[Sink]:
        """Open the output for a per-image artifact.

        Raises:
            CannotCreate: the output exists from another run, or cannot be created.
        """
        if self.target.pipe is not None:
            yield PipeSink(self.target.pipe, header)
        elif self.target.file is not None:
            with tempfile.TemporaryDirectory(prefix="xseg-") as directory:
                path = Path(directory) / "output.h5"
                sink = FileSink(path, header)
                sink.left_off = ("stopped by a signal; nothing was written", "with -o PATH, finished images are kept")
                yield sink
                copy_to(path, self.target.file)
        else:
            yield FileSink(self.path, header, resume=self.resume, overwrite=self.overwrite, notice=self.reporter.note)

    @property
    def path(self) -> Path:
        """The output's path.

        Raises:
            UsageError: the output is a stream, which this step cannot write.
        """
        if self.target.path is None:
            raise UsageError("this command needs -o PATH", "give the name of the file to write")
        return self.target.path

    def image_roots(self, hint: str) -> list[Path]:
        """Where images are looked up: `--images`, then XSEG_IMAGES, then the artifact's own hint.

        Raises:
            InputMissing: one of the first two is not there.
        """
        asked = {"--images": self.images, "XSEG_IMAGES": os.environ.get("XSEG_IMAGES")}
        for name, root in asked.items():
            if root and not Path(root).exists():
                raise InputMissing(f"{name} {root}: not there", "give a directory, .tar or .zip")
        return [Path(root) for root in (*asked.values(), hint) if root]


def copy_to(path: Path, handle: int) -> None:
    """Copy a finished file to an open descriptor."""
    with path.open("rb") as source, os.fdopen(os.dup(handle), "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
