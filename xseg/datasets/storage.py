"""Where a data set's files lie: a directory, a tar, a zip or a .mat, read by name and never outside of it."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from xseg.datasets.archives import TarStorage, ZipStorage
from xseg.datasets.mat import MatStorage
from xseg.datasets.names import check_size, is_archive, is_shown, safe_name
from xseg.errors import BadInput, InputMissing

FOLLOW_LINKS = "XSEG_FOLLOW_LINKS"


class Storage(Protocol):
    """Read-only files by root-relative POSIX name; safe to use from several threads and after a fork."""

    @property
    def location(self) -> Path:
        """The directory or archive itself."""

    def names(self) -> list[str]:
        """Every file, sorted; hidden ones and macOS leftovers are left out."""

    def children(self, directory: str = "") -> list[str]:
        """What lies directly in `directory`, sorted; directories end with a slash. Empty if it is not there."""

    def exists(self, name: str) -> bool:
        """Whether `name` is there as a file."""

    def read(self, name: str) -> bytes:
        """The bytes of one file.

        Raises:
            InputMissing: it is not there.
            BadInput: the name leaves the root, the file is a device, is damaged or too big.
        """


def open_storage(location: str | Path) -> Storage:
    """The storage for a directory, `.tar`, `.tar.gz` (and .bz2, .xz), `.zip` or the `.mat` of ImageNet-Segmentation.

    An archive whose files all lie below one directory counts from that directory, unless images lie right in it.

    Raises:
        InputMissing: nothing is there.
        BadInput: neither a directory nor a readable archive, or one with a name that leaves it.
    """
    location = Path(location)
    try:
        mode = location.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputMissing(f"{location}: not there", "check the path") from error
    except OSError as error:
        raise BadInput(f"{location}: cannot be read ({error.strerror})", "check its permissions") from error
    if stat.S_ISDIR(mode):
        return DirectoryStorage(location)
    if stat.S_ISREG(mode) and is_archive(location):
        kinds: dict[str, Callable[[Path], Storage]] = {".zip": ZipStorage, ".mat": MatStorage}
        return kinds.get(location.suffix.lower(), TarStorage)(location)
    raise BadInput(
        f"{location}: neither a directory nor a .tar, .tar.gz, .zip or .mat", "give the directory of the images"
    )


class DirectoryStorage:
    """Files below a directory. Links that leave it are refused unless XSEG_FOLLOW_LINKS=1 says they are wanted."""

    def __init__(self, location: Path) -> None:
        self.location = location
        self._root = Path(os.path.realpath(location))
        self._follow = os.environ.get(FOLLOW_LINKS, "") not in {"", "0"}

    def names(self) -> list[str]:
        """See `Storage.names`."""
        return sorted(self._walk("", frozenset({str(self._root)})))

    def _walk(self, directory: str, above: frozenset[str]) -> Iterator[str]:
        for child in self.children(directory):
            name = directory + child
            if not child.endswith("/"):
                yield name
                continue
            real = os.path.realpath(self._root / name)
            if real not in above:  # a link to a directory above would never end
                yield from self._walk(name, above | {real})

    def children(self, directory: str = "") -> list[str]:
        """See `Storage.children`."""
        path = self._inside(directory) if directory else self._root
        try:
            with os.scandir(path) as entries:
                found = [entry.name + "/" * entry.is_dir() for entry in entries if is_shown(entry.name)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise BadInput(f"{path}: cannot be listed ({error.strerror})", "check its permissions") from error
        for name in found:
            safe_name(name, str(path))
        return sorted(found)

    def exists(self, name: str) -> bool:
        """See `Storage.exists`."""
        return (self._root / safe_name(name, str(self.location))).is_file()

    def read(self, name: str) -> bytes:
        """See `Storage.read`."""
        path = self._inside(name)
        try:
            # Non-blocking, so that a pipe lying there cannot hang the run before it is refused.
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            hint = "restore it, or give its place: --images"
            raise InputMissing(f"{self.location / name}: not there", hint) from error
        except OSError as error:
            raise BadInput(f"{path}: cannot be read ({error.strerror})", "check its permissions") from error
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BadInput(f"{path}: not a regular file", "only files are read, no devices or pipes")
            check_size(path, status.st_size)
            return file.read()

    def _inside(self, name: str) -> Path:
        path = self._root / safe_name(name, str(self.location))
        if not self._follow and not Path(os.path.realpath(path)).is_relative_to(self._root):
            hint = f"copy it in, give the directory it points to, or set {FOLLOW_LINKS}=1 if the link is wanted"
            raise BadInput(f"{path}: a link that leaves {self.location}", hint)
        return path
