"""Where finished images go: an artifact at a path, by way of parts, or parts one after the other into a pipe."""

import io
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from xseg.artifacts.decode import Part
from xseg.artifacts.encode import encode
from xseg.artifacts.header import Header
from xseg.artifacts.parts import PartDirectory, Shelf, discard, join
from xseg.artifacts.publish import check_writable
from xseg.artifacts.record import Failure, Record
from xseg.errors import BadInput, CannotCreate
from xseg.runs.shards import positions


class Sink(Protocol):
    """Takes the parts of a run.

    Attributes:
        finished: positions of the work list that need no work any more.
        complete: nothing is left to do, the output is there.
        seconds: a part is closed after this time.
        left_off: what a run that is stopped here leaves behind, and how to go on.
        header: identity of the output; its shard may still be found out from a stream.
    """

    header: Header
    finished: set[int]
    complete: bool
    seconds: float
    left_off: tuple[str, str]

    def write(self, records: Sequence[Record], failures: Sequence[Failure]) -> None:
        """Publish one part."""

    def close(self) -> None:
        """All images are done: publish the whole."""


class FileSink:
    """An artifact at a path. What is finished survives any end of the process as `OUT.parts/`."""

    seconds = 60.0
    left_off = ("stopped by a signal; finished images are kept", "run the same command again to continue")

    def __init__(
        self,
        path: Path,
        header: Header,
        *,
        resume: bool = True,
        overwrite: bool = False,
        notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Claim the output.

        Raises:
            CannotCreate: it exists from another run, or cannot be created.
        """
        self.path = path
        self.finished: set[int] = set()
        self.header = header
        self._parts = PartDirectory(path, header)
        self._notice = notice
        self._base: list[Path] = []
        self.complete = False
        check_writable(path)
        if path.exists() and not (overwrite and not resume):
            self._take_existing(overwrite)
        self._replace = overwrite or bool(self._base)
        if self.complete:
            self._parts.remove_leftover()
        else:
            self._parts.claim(resume=resume, overwrite=overwrite)
            with Shelf(self._parts.files(), header, drop=self._drop) as shelf:
                self.finished |= set(shelf.places)
        self._needed = set(self.finished)

    def _take_existing(self, overwrite: bool) -> None:
        try:
            with Part(self.path, str(self.path)) as part:
                self.complete = self._has_all(part)
                if self.complete or (part.header.same_work(self.header) and part.header.shard == self.header.shard):
                    self._base = [self.path]
                    self.finished = set(part.index.tolist())
                    return
                found = f"{part.header.kind} of another run (other options, inputs or images)"
        except BadInput as error:
            found = f"something else ({error.problem})"
        if not overwrite:
            raise CannotCreate(f"{self.path} exists and holds {found}", "choose another -o, or use --overwrite")

    def _has_all(self, part: Part) -> bool:
        header = part.header
        if header.work is None or not header.same_work(self.header) or header.shard not in {"", self.header.shard}:
            return False
        return not part.failures and set(part.index.tolist()) >= set(positions(header.shard, header.work.total))

    def _done_elsewhere(self) -> bool:
        """Whether another process of this run has published the whole, and removed the parts, in the meantime."""
        with suppress(BadInput), Part(self.path, str(self.path)) as part:
            self.complete = self._has_all(part)
        return self.complete

    def _drop(self, path: Path, error: Exception) -> None:
        self._notice(f"{error}; its images are made again")
        discard(path)

    def write(self, records: Sequence[Record], failures: Sequence[Failure]) -> None:
        """Publish one part beside the output."""
        self._needed.update(record.index for record in records)
        self._needed.update(failure.index for failure in failures)
        try:
            self._parts.write(records, failures)
        except CannotCreate:
            if not self._done_elsewhere():
                raise

    def close(self) -> None:
        """Join the parts into the output and remove them."""
        if self.complete:
            return
        files = [*self._base, *self._parts.files()]
        try:
            join(files, self.header, self.path, needed=self._needed, overwrite=self._replace)
        except (BadInput, CannotCreate):
            if not self._done_elsewhere():
                raise
        self._parts.remove()


class PipeSink:
    """Parts one after the other into a pipe; the reader works on the first while the next is made."""

    seconds = 2.0
    complete = False
    left_off = ("stopped by a signal; what was finished was passed on", "run the whole pipe again")

    def __init__(self, handle: int, header: Header) -> None:
        self.finished: set[int] = set()
        self._handle = handle
        self.header = header
        self._written = False

    def write(self, records: Sequence[Record], failures: Sequence[Failure]) -> None:
        """Write one part, uncompressed: it is read at once."""
        buffer = io.BytesIO()
        ordered = sorted(records, key=lambda record: record.index)
        encode(buffer, self.header, ordered, failures, compress=False)
        data = buffer.getbuffer()
        while data:
            data = data[os.write(self._handle, data) :]
        self._written = True

    def close(self) -> None:
        """Write an empty part if there was no image, so that the reader still learns the classes."""
        if not self._written:
            self.write([], [])
