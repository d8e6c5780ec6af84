"""Tar and zip files read by name, without unpacking them to disk."""

import bz2
import errno
import gzip
import lzma
import os
import stat
import tarfile
import tempfile
import threading
import weakref
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from xseg.datasets.names import check_size, is_image, is_shown, safe_name
from xseg.errors import BadInput, InputMissing, OutputFailed

_HOPS = 16
_CHUNK = 1 << 20


class _Archive:
    """What tar and zip share: a table of members, links resolved, one wrapping directory taken off."""

    def __init__(self, location: Path) -> None:
        self.location = location
        self._table: dict[str, Any] = {}
        self._tree: dict[str, set[str]] = {}

    def _index(self, members: Mapping[str, Any], links: Mapping[str, str]) -> None:
        resolved = {name: members[self._target(name, members, links)] for name in links}
        table = {**members, **resolved}
        prefix = _wrapping(table)
        self._table = {name.removeprefix(prefix): entry for name, entry in table.items() if name.startswith(prefix)}
        for name in filter(is_shown, self._table):
            parts = name.split("/")
            for depth, part in enumerate(parts):
                directory = "".join(f"{above}/" for above in parts[:depth])
                self._tree.setdefault(directory, set()).add(part + "/" * (depth < len(parts) - 1))

    def _target(self, link: str, members: Mapping[str, Any], links: Mapping[str, str]) -> str:
        target = link
        for _ in range(_HOPS):
            if target not in links:
                break
            target = links[target]
        if target not in members:
            raise BadInput(f"{self.location}: the link {link!r} leads to no file in it", "pack the files themselves")
        return target

    def _beside(self, link: str, target: str) -> str:
        """The member that a symbolic link stored as `link` points to."""
        path = os.path.normpath(PurePosixPath(link).parent / target)
        if path.startswith(("/", "..")):
            raise BadInput(f"{self.location}: the link {link!r} leaves the archive ({target})", "pack the file itself")
        return path

    def names(self) -> list[str]:
        """See `Storage.names`."""
        return sorted(filter(is_shown, self._table))

    def children(self, directory: str = "") -> list[str]:
        """See `Storage.children`."""
        return sorted(self._tree.get(f"{directory.rstrip('/')}/" if directory else "", ()))

    def exists(self, name: str) -> bool:
        """See `Storage.exists`."""
        return safe_name(name, str(self.location)) in self._table

    def read(self, name: str) -> bytes:
        """See `Storage.read`."""
        entry = self._table.get(safe_name(name, str(self.location)))
        if entry is None:
            raise InputMissing(f"{self.location}: {name} is not in it", "restore it, or give its place: --images")
        return self._extract(name, entry)

    def _extract(self, name: str, entry: Any) -> bytes:  # noqa: ANN401 - each archive has its own kind of entry
        raise NotImplementedError

    def __reduce__(self) -> tuple[type, tuple[Path]]:
        return type(self), (self.location,)  # a worker process opens its own


def _wrapping(names: Mapping[str, Any]) -> str:
    """Directory that holds everything, "" if there is none or images lie directly in it."""
    shown = [name for name in names if is_shown(name)]
    prefix = ""
    while shown:
        heads = {name[len(prefix) :].partition("/")[0] for name in shown}
        head = f"{prefix}{heads.pop()}/"
        below = [name[len(head) :] for name in shown if name.startswith(head)]
        if heads or len(below) < len(shown) or any("/" not in name and is_image(name) for name in below):
            break
        prefix = head
    return prefix


class TarStorage(_Archive):
    """A tar, read at the members' offsets; a compressed one is first unpacked into an unnamed file in TMPDIR."""

    def __init__(self, location: Path) -> None:
        super().__init__(location)
        with location.open("rb") as file:
            magic = file.read(6)
        self._handle = _uncompressed(location, magic) if magic[:2] in {b"\x1f\x8b", b"BZ", b"\xfd7"} else None
        if self._handle is None:
            self._handle = os.open(location, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._handle)
        try:
            with os.fdopen(os.dup(self._handle), "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
                self._index(*self._members(tar))
        except tarfile.TarError as error:
            raise BadInput(f"{location}: not a complete tar ({error})", "copy it again") from error

    def _members(self, tar: tarfile.TarFile) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
        members: dict[str, tuple[int, int]] = {}
        links: dict[str, str] = {}
        for member in tar:
            if member.isdir():
                continue
            name = safe_name(member.name, str(self.location))
            if member.issym():
                links[name] = self._beside(name, member.linkname)
            elif member.islnk():
                links[name] = safe_name(member.linkname, str(self.location))
            elif member.isfile() and not member.issparse():
                members[name] = (member.offset_data, member.size)
                links.pop(name, None)
            else:
                raise BadInput(f"{self.location}: {name} is not a plain file", "pack files, links and directories only")
        return members, links

    def _extract(self, name: str, entry: tuple[int, int]) -> bytes:
        offset, size = entry
        check_size(f"{self.location}: {name}", size)
        assert self._handle is not None
        data = os.pread(self._handle, size, offset)  # no shared position: safe in threads and after a fork
        while len(data) < size:
            more = os.pread(self._handle, size - len(data), offset + len(data))
            if not more:
                raise BadInput(f"{self.location}: ends inside {name}", "copy it again")
            data += more
        return data


def _uncompressed(location: Path, magic: bytes) -> int:
    """Descriptor of an unnamed temporary file that holds the plain tar."""
    opener: Any = {b"\x1f": gzip.open, b"B": bz2.open, b"\xfd": lzma.open}[magic[:1]]
    with tempfile.TemporaryFile() as plain:
        try:
            with opener(location, "rb") as packed:
                while block := packed.read(_CHUNK):
                    plain.write(block)
            plain.flush()
        except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
            if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
                hint = "set TMPDIR to a larger disk, or unpack it yourself"
                raise OutputFailed(f"{location}: no room to unpack it in {tempfile.gettempdir()}", hint) from error
            raise BadInput(f"{location}: damaged or cut short ({error})", "copy it again") from error
        plain.seek(0)
        return os.dup(plain.fileno())


class ZipStorage(_Archive):
    """A zip; every process opens its own handle, because the read position is shared after a fork."""

    def __init__(self, location: Path) -> None:
        super().__init__(location)
        self._lock = threading.Lock()
        self._open: tuple[int, zipfile.ZipFile] | None = None
        members: dict[str, zipfile.ZipInfo] = {}
        links: dict[str, str] = {}
        for info in self._file().infolist():
            if info.is_dir():
                continue
            name = safe_name(info.filename, str(location))
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind == stat.S_IFLNK:
                links[name] = self._beside(name, os.fsdecode(self._extract(name, info)))
            elif kind in {0, stat.S_IFREG}:
                members[name] = info
            else:
                raise BadInput(f"{location}: {name} is not a plain file", "pack files, links and directories only")
        self._index(members, links)

    def _file(self) -> zipfile.ZipFile:
        with self._lock:
            if self._open is None or self._open[0] != os.getpid():
                try:
                    self._open = os.getpid(), zipfile.ZipFile(self.location)
                except zipfile.BadZipFile as error:
                    raise BadInput(f"{self.location}: not a complete zip ({error})", "copy it again") from error
            return self._open[1]

    def _extract(self, name: str, entry: zipfile.ZipInfo) -> bytes:
        check_size(f"{self.location}: {name}", entry.file_size)
        try:
            member: Any
            with self._file().open(entry) as member:
                return _bounded(member, entry.file_size)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise BadInput(f"{self.location}: {name} cannot be unpacked ({error})", "pack it again") from error


def _bounded(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    file.read(1)  # reaches the end, where the check sum is verified
    return data
