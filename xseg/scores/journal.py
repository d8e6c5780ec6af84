"""What was measured image by image, beside an output that is not whole yet: a run that was cut off goes on there."""

import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xseg.artifacts.header import Header
from xseg.artifacts.publish import output_errors
from xseg.errors import CannotCreate, Stopped
from xseg.runs.runtime import Runtime


class Journal:
    """The file `OUT.journal`: a line that names the run, then one for each image, each with its CRC-32.

    A line is written in one piece when its image is done. One that a crash cut off ends what is read, and what comes
    next takes its place; another run's journal is never used.

    Args:
        output: the final path OUT; None keeps nothing.
        run: identity of the run.
        overwrite: another run's journal may be replaced.

    Attributes:
        path: of the file; None without an output.

    Raises:
        CannotCreate: it is something else, or another run's.
    """

    def __init__(self, output: Path | None, run: str, *, overwrite: bool = False) -> None:
        self.path = None if output is None else output.with_name(output.name + ".journal")
        self._found: dict[str, Any] = {}
        self._opening = _line(run)  # what still has to be written before the next line
        self._whole = 0  # bytes of whole lines
        if self.path is not None and self.path.exists():
            self._read(self.path, overwrite)

    def _read(self, path: Path, overwrite: bool) -> None:
        data = path.read_bytes()
        if data.startswith(self._opening):
            lines = list(_whole_lines(data[len(self._opening) :]))
            self._whole = len(self._opening) + sum(size for _, size in lines)
            self._opening = b""
            self._found = dict(entry for entry, _ in lines)
        elif not (overwrite or self._opening.startswith(data)):  # of a first line that was cut off nothing is lost
            raise CannotCreate(f"{path} is not the journal of this run", "choose another -o, or remove it")

    def __len__(self) -> int:
        """How many images are done."""
        return len(self._found)

    def get(self, key: str) -> Any:  # noqa: ANN401 - any JSON
        """What was added under `key`; None if nothing was."""
        return self._found.get(key)

    def add(self, key: str, value: object) -> None:
        """Keep a JSON-able value.

        Raises:
            OutputFailed: it cannot be written, as on a full disk.
        """
        self._found[key] = value
        if self.path is None:
            return
        text = self._opening + _line([key, value])
        with output_errors(self.path), self.path.open("r+b" if self.path.exists() else "w+b") as file:
            file.truncate(self._whole)
            file.seek(self._whole)
            file.write(text)
        self._opening, self._whole = b"", self._whole + len(text)

    def remove(self) -> None:
        """Forget everything: the output is whole."""
        self._found = {}
        if self.path is not None:
            self.path.unlink(missing_ok=True)


@contextmanager
def journal_of(header: Header, runtime: Runtime) -> Iterator[Journal]:
    """The journal of the result that `header` identifies, gone at the end of a block that ends well.

    Raises:
        CannotCreate: something else is in its place.
        Stopped: a signal ended the block; how much is kept is told.
    """
    journal = Journal(runtime.target.path, header.run, overwrite=runtime.overwrite)
    if len(journal):
        runtime.reporter.note(f"measured already: {len(journal)} images, in {journal.path}")
    try:
        yield journal
    except Stopped as stopped:
        if journal.path is None or not len(journal):
            raise
        kept = f"stopped by a signal; {len(journal)} images are kept in {journal.path}"
        raise runtime.stop.stopped(kept, "the same command continues") from stopped
    journal.remove()


def _line(value: object) -> bytes:
    text = json.dumps(value, ensure_ascii=False).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _whole_lines(data: bytes) -> Iterator[tuple[Any, int]]:
    """Values and sizes of the lines up to the first that is damaged."""
    for line in data.splitlines(keepends=True):
        sum_, _, text = line.rstrip(b"\n").partition(b" ")
        if not line.endswith(b"\n") or sum_ != b"%08x" % zlib.crc32(text):
            return
        yield json.loads(text), len(line)
