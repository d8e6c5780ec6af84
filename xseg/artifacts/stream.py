"""From command-line inputs to parts: files, directories of parts, `-`, lists of paths, and files laid end to end."""

import codecs
import io
import itertools
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from xseg.artifacts.decode import Part
from xseg.artifacts.guard import SIGNATURE, SUPERBLOCK, end_address
from xseg.errors import BadInput, InputMissing, UsageError

_IN_MEMORY = 256 << 20  # larger parts of a stream spool to TMPDIR
_BLOCK = 1 << 20
_MAX_LIST = 16 << 20  # bytes of a list of paths: a hundred thousand long ones
_NEITHER = "holds neither an artifact nor lines of paths"


@contextmanager
def opened(source: Path | BinaryIO, where: str) -> Iterator[Part]:
    """One part, open inside the block."""
    with Part(source, where) as part:
        yield part


@dataclass(frozen=True)
class Location:
    """Where parts are: `parts()` opens them one after the other; `again` tells whether it can be called twice."""

    where: str
    parts: Callable[[], Iterator[Part]]
    again: bool = True


def locate(inputs: Sequence[str]) -> list[Location]:
    """Resolve command-line inputs without reading any artifact.

    Args:
        inputs: paths of artifacts, directories of parts, or `-` for standard input (artifact bytes or lines of paths).

    Raises:
        UsageError: `-` more than once.
        InputMissing: no such file.
        BadInput: neither a file nor a directory, or an empty standard input.
    """
    if list(inputs).count("-") > 1:
        raise UsageError("'-' is given twice, standard input can be read once", "cat the artifacts together")
    return [location for name in inputs for location in (_standard_input() if name == "-" else _path(Path(name)))]


def parts(inputs: Sequence[str]) -> Iterator[Part]:
    """Every part of every input, in order; each is open until the next is asked for.

    Raises:
        InputMissing: no such file.
        BadInput: not an artifact, damaged, or cut off.
    """
    for location in locate(inputs):
        yield from location.parts()


@contextmanager
def first_part(name: str) -> Iterator[Part]:
    """The first part of one input, open inside the block; for artifacts that come in one piece.

    Raises:
        InputMissing, BadInput: as for `parts`.
    """
    found = parts([name])
    try:
        yield next(found)
    finally:
        found.close()  # type: ignore[attr-defined]


def _path(path: Path) -> list[Location]:
    try:
        mode = path.stat().st_mode
        if not os.access(path, os.R_OK):
            raise InputMissing(f"{path}: cannot be read", "give a file that you may read")
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else str(error)
        name = str(path)[:200]
        shown = name if name.isprintable() else repr(name)
        raise InputMissing(f"{shown}: {problem}", "give the path of an existing artifact") from error
    if stat.S_ISDIR(mode):
        found = sorted(path.glob("*.h5"))
        if not found:
            raise InputMissing(f"{path}: a directory without parts (*.h5)", "give an artifact or a directory of parts")
        return [location for file in found for location in _path(file)]
    if stat.S_ISREG(mode):
        return [Location(str(path), lambda: _file_parts(path))]
    if stat.S_ISFIFO(mode):
        return [Location(str(path), lambda: _fifo_parts(path), again=False)]
    raise BadInput(f"{path}: neither a file nor a directory", "give an artifact or a directory of parts")


def _file_parts(path: Path) -> Iterator[Part]:
    with path.open("rb") as file:
        yield from _regular_parts(file, str(path))


def _fifo_parts(path: Path) -> Iterator[Part]:
    with path.open("rb") as file:
        yield from _stream_parts(file, str(path), b"")


def _standard_input() -> list[Location]:
    where = "standard input"
    if sys.stdin is None:
        raise InputMissing(f"{where} is closed", "pipe an artifact in")
    file = sys.stdin.buffer
    if file.isatty():
        raise UsageError("'-' reads an artifact from standard input, which is a terminal", "pipe an artifact in")
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        head = os.pread(file.fileno(), len(SIGNATURE), 0)
        if head == SIGNATURE:  # read in place, as often as needed
            return [Location(where, lambda: _regular_parts(file, where))]
        return _listed(_text(file, b""))
    head = _read_up_to(file, len(SIGNATURE))
    if head == SIGNATURE:
        return [Location(where, lambda: _stream_parts(file, where, head), again=False)]
    return _listed(_text(file, head))


def _text(file: BinaryIO, head: bytes) -> str:
    """All of a list of paths. What is none, such as zeros without end, is refused at its first piece."""
    decode, pieces, length = codecs.getincrementaldecoder("utf-8")().decode, [], 0
    blocks = iter(lambda: file.read1(_BLOCK), b"")  # type: ignore[attr-defined] # what is there, without waiting
    try:
        for block in itertools.chain([head], blocks):
            length += len(block)
            if b"\0" in block:
                raise BadInput(f"standard input {_NEITHER}")
            if length > _MAX_LIST:
                raise BadInput(f"standard input {_NEITHER}: it is longer than {_MAX_LIST} bytes")
            pieces.append(decode(block))
        return "".join([*pieces, decode(b"", final=True)])
    except UnicodeDecodeError as error:
        raise BadInput(f"standard input {_NEITHER}") from error


def _listed(text: str) -> list[Location]:
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise BadInput("standard input is empty", "the command before the pipe wrote nothing")
    return [location for name in names for location in _path(Path(name))]


def _regular_parts(file: BinaryIO, where: str) -> Iterator[Part]:
    size, start, number = os.fstat(file.fileno()).st_size, 0, 0
    while start < size or number == 0:
        end = end_address(os.pread(file.fileno(), SUPERBLOCK, start), _numbered(where, number))
        if start + end > size:
            raise BadInput(
                f"{_numbered(where, number)}: cut off: {size - start} of {end} bytes", "make or copy it again"
            )
        window = io.BufferedReader(_Window(file, start, end), 1 << 16)
        with opened(window, _numbered(where, number)) as part:
            yield part
        start, number = start + end, number + 1


def _stream_parts(file: BinaryIO, where: str, head: bytes) -> Iterator[Part]:
    number = 0
    while True:
        head += _read_up_to(file, SUPERBLOCK - len(head))
        if not head and number:
            return
        if not head:
            raise BadInput(f"{where} is empty", "the command before the pipe wrote nothing")
        end = end_address(head, _numbered(where, number))
        with _spool(file, head, end, _numbered(where, number)) as data, opened(data, _numbered(where, number)) as part:
            yield part
        head, number = b"", number + 1


@contextmanager
def _spool(file: BinaryIO, head: bytes, size: int, where: str) -> Iterator[BinaryIO]:
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY, prefix="xseg-") as data:
        data.write(head)
        missing = size - len(head)
        while missing:
            block = file.read(min(missing, _BLOCK))
            if not block:
                raise BadInput(
                    f"{where}: cut off: {size - missing} of {size} bytes", "the command before the pipe did not finish"
                )
            data.write(block)
            missing -= len(block)
        data.seek(0)
        yield data  # type: ignore[misc]


def _read_up_to(file: BinaryIO, count: int) -> bytes:
    data = b""
    while len(data) < count and (block := file.read(count - len(data))):
        data += block
    return data


def _numbered(where: str, number: int) -> str:
    return f"{where} (part {number + 1})" if number else where


class _Window(io.RawIOBase):
    """The bytes start..start+size of a file, as a file."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._start, self._size, self._position = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = max(0, min(len(buffer), self._size - self._position))
        data = os.pread(self._file.fileno(), count, self._start + self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
