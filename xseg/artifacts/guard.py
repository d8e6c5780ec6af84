"""Checks on a file nobody vouches for, before anything in it is read.

HDF5 can point outside itself (external links, external storage, virtual datasets), load code (filters), and
declare terabytes in a few bytes. None of that belongs in an artifact, so all of it is refused.
"""

import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from xseg.artifacts.schema import KINDS
from xseg.errors import BadInput

SIGNATURE = b"\x89HDF\r\n\x1a\n"
SUPERBLOCK = 48  # bytes of a version 2 or 3 superblock with 8-byte offsets
_MAX_PART = 1 << 44
_MAX_CHUNK = 64 << 20
_MAX_OBJECTS = 100_000
MAX_PIXELS = 1 << 27  # of an image that is read; no grid is finer
# What is read whole may take so many times the file, and a little more. Trained weights shrink by a tenth, integer
# columns of images tenfold beside ids and digests that do not shrink at all; only zeros shrink a thousandfold, and
# few arrays (a fresh bias or buffer) are all zeros.
_WHOLE_RATIO, _WHOLE_SPARE = 20, 64 << 20
# What one image's maps may take. Maps are often zero almost everywhere, or all over in one image, but not gigabytes
# of them in a file of a few megabytes. The bound on all maps is that of gzip itself: they are never in memory at once.
_IMAGE_RATIO, _IMAGE_SPARE = 100, 512 << 20
_GZIP_RATIO = 1100
_READ_BY_IMAGE = {f"/{ragged.name}/values" for kind in KINDS.values() for ragged in kind.arrays}
# gzip, shuffle, fletcher32, lzf
_FILTERS = {1, 2, 3, 32000}
_HINT = "it was not written by xseg, or was changed since"


def end_address(superblock: bytes, where: str) -> int:
    """Length in bytes of the HDF5 file that starts with `superblock`.

    Raises:
        BadInput: no HDF5 signature, an unknown superblock, a userblock, or a size that cannot be.
    """
    if not superblock.startswith(SIGNATURE):
        raise BadInput(f"{where}: not an HDF5 file", "inputs are artifacts made by xseg commands")
    if len(superblock) < SUPERBLOCK:
        raise BadInput(f"{where}: cut off within its first {SUPERBLOCK} bytes", "make or copy it again")
    version, offsets, lengths = superblock[8], superblock[9], superblock[10]
    base, _extension, end = struct.unpack_from("<QQQ", superblock, 12)
    if version not in {2, 3} or offsets != 8 or lengths != 8 or base != 0 or not SUPERBLOCK <= end <= _MAX_PART:
        found = f"superblock version {version}, base {base}, end {end}"
        raise BadInput(f"{where}: an HDF5 file of a form xseg does not write ({found})", _HINT)
    return end


def check_file(path: Path, where: str) -> None:
    """Make sure that `path` is a regular file that holds exactly one HDF5 file.

    Raises:
        BadInput: something else; a FIFO, for one, would wait for ever.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadInput(f"{where}: not a regular file", _HINT)
        with path.open("rb") as file:
            end, size = end_address(file.read(SUPERBLOCK), where), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise BadInput(f"{where}: {error.strerror}", "make or copy it again") from error
    if end != size:
        raise BadInput(f"{where}: has {size} bytes, its first artifact {end}", "make or copy it again")


def walk(file: h5py.File, where: str) -> None:
    """Visit every object and attribute; refuse whatever an artifact has no use for.

    Raises:
        BadInput: says which object and why.
    """
    length, whole = file.id.get_filesize(), 0
    for name, thing in _objects(file, where):
        for problem in _attribute_problems(thing):
            raise BadInput(f"{where}: {name}: {problem}", _HINT)
        if isinstance(thing, h5py.Dataset):
            for problem in array_problems(thing, length):
                raise BadInput(f"{where}: {name}: {problem}", _HINT)
            whole += _declared(thing) if name not in _READ_BY_IMAGE else 0
            if whole > _WHOLE_RATIO * length + _WHOLE_SPARE:
                raise BadInput(f"{where}: its arrays declare {whole} bytes or more, the file has {length}", _HINT)


def most_for_one_image(file: h5py.File) -> int:
    """How many bytes one image of `file` may need in memory."""
    return _IMAGE_RATIO * file.id.get_filesize() + _IMAGE_SPARE


@dataclass
class _Seen:
    addresses: set[int]
    count: int = 0


def _objects(file: h5py.File, where: str) -> Iterator[tuple[str, h5py.Group | h5py.Dataset]]:
    seen = _Seen({h5py.h5o.get_info(file.id).addr})
    stack: list[h5py.Group] = [file["/"]]
    yield "/", stack[0]
    while stack:
        group = stack.pop()
        for name in group:
            full = f"{group.name.rstrip('/')}/{name}"
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise BadInput(f"{where}: {full} is a link to elsewhere", _HINT)
            thing = group[name]
            seen.count += 1
            address = h5py.h5o.get_info(thing.id).addr
            if address in seen.addresses or seen.count > _MAX_OBJECTS:
                raise BadInput(f"{where}: {full} is reached twice, or there are too many objects", _HINT)
            seen.addresses.add(address)
            if isinstance(thing, h5py.Group):
                stack.append(thing)
            elif not isinstance(thing, h5py.Dataset):
                raise BadInput(f"{where}: {full} is neither a group nor an array", _HINT)
            yield full, thing


def _attribute_problems(thing: h5py.Group | h5py.Dataset) -> Iterator[str]:
    if len(thing.attrs) > 1000:
        yield "too many attributes"
    for name in thing.attrs:
        attribute = thing.attrs.get_id(name)
        if attribute.dtype.kind not in "biufS" or attribute.dtype.itemsize * _count(attribute.shape) > _MAX_CHUNK:
            yield f"attribute {name!r} has dtype {attribute.dtype}"


def array_problems(dataset: h5py.Dataset, length: int) -> Iterator[str]:
    """Why an array may not be read from a file of `length` bytes: where or how it is stored, its dtype or its size."""
    yield from placement_problems(dataset)
    dtype = dataset.dtype
    if dtype.kind not in "biufS" or dtype.hasobject or dtype.subdtype is not None:
        yield f"dtype {dtype} has no place in an artifact"
        return
    size, stored = _declared(dataset), dataset.id.get_storage_size()
    # An array that was never written reads as its fill value, from no bytes at all; chunks may share their bytes.
    if (size and not stored) or size > max(_MAX_CHUNK, _GZIP_RATIO * min(stored, length)):
        yield f"declares {size} bytes but stores {stored}"


def placement_problems(dataset: h5py.Dataset) -> Iterator[str]:
    """Why an array's bytes may not be fetched, whatever they mean: not in this file, or packed in unknown ways."""
    layout = dataset.id.get_create_plist()
    if layout.get_external_count():
        yield "its values lie in another file"
    if layout.get_layout() == h5py.h5d.VIRTUAL:
        yield "it is a virtual dataset"
    filters = {layout.get_filter(i)[0] for i in range(layout.get_nfilters())}
    if filters - _FILTERS:
        yield f"filter {min(filters - _FILTERS)} is not one xseg uses"
    if layout.get_layout() == h5py.h5d.CHUNKED and _count(layout.get_chunk()) * dataset.dtype.itemsize > _MAX_CHUNK:
        yield "its chunks are too large"


def _declared(dataset: h5py.Dataset) -> int:
    return _count(dataset.shape) * dataset.dtype.itemsize


def _count(shape: tuple[int, ...] | None) -> int:
    return int(np.prod(shape, dtype=object)) if shape else 1
