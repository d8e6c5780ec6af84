"""Files that appear under their final name whole or not at all."""

import errno
import glob
import os
import secrets
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
    if path.is_symlink():
        path = path.resolve()  # the link stays, what it points at is replaced
    temporary = _temporary(path)
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


def _temporary(path: Path) -> Path:
    # Process ids come again, in containers always the same ones: only a random name is new.
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def remove_leftovers(path: Path) -> None:
    """Delete what processes of this machine that were killed while they wrote `path` left beside it."""
    prefix = f".{path.name}.{socket.gethostname()}."
    for found in path.parent.glob(f"{glob.escape(prefix)}*.tmp"):
        number = found.name[len(prefix) :].partition(".")[0]
        if number.isdecimal() and not _alive(int(number)):
            with suppress(OSError):
                found.unlink()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


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
        if error.errno in {errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}:
            raise CannotCreate(f"{path}: {error.strerror}", "choose another name or directory") from error
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
    """Find out before hours of work that `path` cannot be created; remove what killed processes left beside it.

    Raises:
        CannotCreate: the directory is not there or not writable, or `path` is no regular file.
    """
    probe = _temporary(path)  # its name is the longest that will be needed
    with output_errors(path):
        if path.is_dir():
            raise CannotCreate(f"{path} is a directory", "give the name of a file")
        if path.is_symlink() and not path.exists():
            raise CannotCreate(f"{path} is a link to nowhere", "remove it, or give another name")
        if path.exists() and not path.is_file():
            raise CannotCreate(f"{path} is not a regular file", "give the name of a file, or - for standard output")
        if not path.parent.is_dir():
            raise CannotCreate(f"{path.parent}: no such directory", f"create it: mkdir -p {path.parent}")
        remove_leftovers(path)
        try:
            probe.touch()
        finally:
            with suppress(OSError):
                probe.unlink()
