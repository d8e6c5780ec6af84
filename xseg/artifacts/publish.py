"""Files that appear under their final name whole or not at all."""

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from xseg.errors import CannotCreate, OutputFailed


def publish(path: Path, write: Callable[[BinaryIO], object], *, overwrite: bool = False) -> None:
    """Write a file beside `path`, flush it to disk, then give it its name in one step.

    Args:
        path: the final name.
        write: fills the open binary file.
        overwrite: replace a file that has the name; otherwise it stays.

    Raises:
        CannotCreate: the name is taken or the directory cannot be written.
        OutputFailed: the disk is full or fails; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    with output_errors(path):
        try:
            with temporary.open("xb+") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            if overwrite:
                temporary.replace(path)
            else:
                _link(temporary, path)
            sync_directory(path.parent)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Tell operating-system errors about the output `path` as what they mean to the user."""
    try:
        yield
    except FileExistsError as error:
        raise CannotCreate(f"{path} exists already", "use --overwrite to replace it") from error
    except (PermissionError, FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise CannotCreate(f"{path}: {error.strerror}", "choose a directory that exists and can be written") from error
    except OSError as error:
        if error.errno == errno.EROFS:
            raise CannotCreate(f"{path}: {error.strerror}", "choose a directory that can be written") from error
        raise OutputFailed(f"{path}: {error.strerror}", "free some space and run again") from error
    except OutputFailed as error:
        raise OutputFailed(f"{path}: {error.problem}", error.hint) from error


def _link(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError as error:
        # Some network disks have no hard links; the check is then not atomic, but nothing is ever half-written.
        if error.errno not in {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}:
            raise
        if path.exists():
            raise FileExistsError(errno.EEXIST, "exists", str(path)) from error
        temporary.rename(path)


def sync_directory(directory: Path) -> None:
    """Make new names in `directory` survive a power cut, where the system can."""
    with suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def check_writable(path: Path) -> None:
    """Find out before hours of work that `path` cannot be created.

    Raises:
        CannotCreate: the directory is not there or not writable, or `path` is a directory.
    """
    if path.is_dir():
        raise CannotCreate(f"{path} is a directory", "give the name of a file")
    if not path.parent.is_dir():
        raise CannotCreate(f"{path.parent}: no such directory", f"create it: mkdir -p {path.parent}")
    probe = path.with_name(f".{path.name}.{os.getpid()}.probe")
    with output_errors(path):
        try:
            probe.touch()
        finally:
            with suppress(OSError):
                probe.unlink()
