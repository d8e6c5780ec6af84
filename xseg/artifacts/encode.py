"""Records to HDF5: one function that writes a complete artifact into any seekable binary file."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeVar

import h5py
import numpy as np

from xseg.artifacts.header import Header, canonical, sha256
from xseg.artifacts.record import Failure, Record, check_name, failures_digest
from xseg.artifacts.schema import CHUNK, KINDS, SMALL
from xseg.errors import OutputFailed

T = TypeVar("T")


class _ErrorKeepingFile(io.RawIOBase):
    """A file HDF5 may write to although the disk can fill up.

    HDF5 crashes the process when a write fails while it closes a file. So a failure is kept instead of raised, and
    told by `check` once HDF5 is done. Any call may fail: a buffered file writes when it is asked to seek.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._position = 0
        self._error: OSError | None = None

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            self._position = self._try(lambda: self._file.seek(0, io.SEEK_END), self._position) + offset
        else:
            self._position = offset + (self._position if whence == io.SEEK_CUR else 0)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - a writable buffer
        data = self._try(lambda: (self._file.seek(self._position), self._file.read(len(buffer)))[1], bytes(len(buffer)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def write(self, data: Any) -> int:  # noqa: ANN401 - a readable buffer
        self._try(lambda: (self._file.seek(self._position), self._file.write(data))[1], 0)
        self._position += len(data)
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        end = self._position if size is None else size
        return self._try(lambda: self._file.truncate(end), end)

    def _try(self, action: Callable[[], T], otherwise: T) -> T:
        if self._error is None:
            try:
                return action()
            except OSError as error:
                self._error = error
        return otherwise

    def check(self) -> None:
        """Raise the kept failure."""
        if self._error is not None:
            raise OutputFailed(
                f"cannot write: {self._error.strerror or self._error}", "free some space and run again"
            ) from self._error


@contextmanager
def _created(file: BinaryIO) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """A new HDF5 file inside `file`, and a check for writes that have failed so far."""
    guarded = _ErrorKeepingFile(file)
    try:
        with h5py.File(guarded, "w", libver=("v110", "v110")) as target:
            yield target, guarded.check
    except Exception:
        guarded.check()  # a kept failure explains whatever HDF5 made of it
        raise
    guarded.check()


def encode(
    file: BinaryIO,
    header: Header,
    records: Iterable[Record],
    failures: Sequence[Failure] = (),
    *,
    compress: bool = True,
) -> str:
    """Write an artifact of a per-image kind.

    Args:
        file: binary, readable, writable, seekable, empty.
        header: identity; its kind names the arrays.
        records: in index order; consumed once, so that memory stays bounded.
        failures: images that could not be processed.
        compress: gzip-1 + shuffle; off for bytes that only travel through a pipe.

    Returns:
        The artifact's `content` digest.

    Raises:
        BadInput: an id or path that no reader would accept.
        OutputFailed: the file cannot be written, as on a full disk.
    """
    if header.work is None:
        raise ValueError(f"{header.kind} needs a work list")
    with _created(file) as (target, check):
        columns = _Columns(target, header, compress)
        for record in records:
            columns.add(record)
            check()  # no need to go on for hours once the disk is full
        columns.close(len(header.classes))
        _attributes(target["images"], {"total": header.work.total, "worklist_sha256": header.work.sha256})
        _failures(target.create_group("failures"), failures)
        content = header.content(record.digest for record in columns.heads)
        _attributes(target, header.attributes(content))
    return content


def encode_weights(file: BinaryIO, header: Header, config: str, arrays: dict[str, np.ndarray]) -> str:
    """Write an artifact that holds a network: `weights/<state-dict key>` and a JSON `config` to rebuild the module.

    Returns:
        The artifact's `content` digest.
    """
    with _created(file) as (target, check):
        group = target.create_group("weights", track_order=True)
        digests = [sha256("config", config)]
        for key, array in arrays.items():
            _dataset(group, key, array, compress=True)
            check()
            digests.append(array_digest(key, array))
        content = header.content(digests)
        _attributes(target, {**header.attributes(content), "config": config})
    return content


def encode_result(file: BinaryIO, header: Header, result: str) -> str:
    """Write an artifact that holds one JSON object (`scores`).

    Returns:
        The artifact's `content` digest.
    """
    with _created(file) as (target, _):
        content = header.content([sha256("result", result)])
        _attributes(target, {**header.attributes(content), "result": result})
    return content


def array_digest(key: str, array: np.ndarray) -> str:
    """sha256 of one named weight, dtype and shape included."""
    return sha256(key, canonical([array.dtype.str, list(array.shape)]), np.ascontiguousarray(array).tobytes())


def _failures(group: h5py.Group, failures: Sequence[Failure]) -> None:
    _dataset(group, "index", np.array([failure.index for failure in failures], np.int64), compress=False)
    _strings(group, "id", [check_name(failure.id, "id", "output") for failure in failures])
    _strings(group, "reason", [failure.reason for failure in failures])
    if failures:
        rows = ((failure.index, failure.id, failure.reason) for failure in failures)
        _attributes(group, {"digest": failures_digest(rows)})


class _Head:
    """The small part of a record that is kept until the arrays are written."""

    def __init__(self, record: Record) -> None:
        self.index, self.id, self.path, self.size = record.index, record.id, record.path, record.size
        self.source, self.labels, self.digest = record.source, record.labels, record.digest


class _Columns:
    """Ragged arrays grown image by image; only whole chunks are handed to HDF5."""

    def __init__(self, target: h5py.File, header: Header, compress: bool) -> None:
        kind = KINDS[header.kind]
        self.heads: list[_Head] = []
        self._target = target
        self._header, self._kind = header, kind
        self._growing: dict[str, _Growing] = {}
        self._shapes: dict[str, list[tuple[int, ...]]] = {ragged.name: [] for ragged in kind.arrays}
        self._compress = compress

    def add(self, record: Record) -> None:
        check_name(record.id, "id", "output")
        check_name(record.path, "path", record.id)
        if self.heads and record.index <= self.heads[-1].index:
            raise ValueError(f"{record.id}: index {record.index} after {self.heads[-1].index}, needed rising ones")
        self.heads.append(_Head(record))
        for ragged in self._kind.arrays:
            if ragged.name not in record.arrays:
                if ragged.required:
                    raise ValueError(f"{record.id}: no {ragged.name}")
                continue
            array = record.arrays[ragged.name]
            if len(array) and self._header.on_image(ragged) and array.shape[-2:] != record.size:
                raise ValueError(f"{record.id}: {ragged.name} is {array.shape}, its image {record.size}")
            self._append(f"{ragged.name}/values", array)
            self._shapes[ragged.name].append(array.shape)
            for column in ragged.columns:
                self._append(f"{ragged.name}/{column}", record.arrays[f"{ragged.name}/{column}"])

    def _append(self, name: str, array: np.ndarray) -> None:
        if name not in self._growing:
            self._growing[name] = _Growing(self._target, name, array.dtype, self._compress)
        self._growing[name].append(array.reshape(-1))

    def close(self, classes: int) -> None:
        for ragged in self._kind.arrays:
            shapes = self._shapes[ragged.name]
            if not shapes and not ragged.required:
                continue
            if len(shapes) != len(self.heads):
                raise ValueError(f"{ragged.name}: in {len(shapes)} of {len(self.heads)} images, needed all or none")
            if not shapes:
                self._append(f"{ragged.name}/values", np.zeros(0, ragged.dtypes[0]))
                for column, dtype in ragged.columns.items():
                    self._append(f"{ragged.name}/{column}", np.zeros(0, dtype))
            sizes = [int(np.prod(shape, dtype=np.int64)) for shape in shapes]
            group = self._target.require_group(ragged.name)
            _dataset(group, "offsets", np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64), True)
            _dataset(group, "shape", np.array(shapes, np.int32).reshape(len(shapes), ragged.ndim), True)
        for growing in self._growing.values():
            growing.close()
        group = self._target.require_group("images")
        heads = self.heads
        _strings(group, "id", [head.id for head in heads])
        _strings(group, "path", [head.path for head in heads])
        _strings(group, "source", [head.source for head in heads])
        _strings(group, "digest", [head.digest for head in heads])
        _dataset(group, "index", np.array([head.index for head in heads], np.int64), True)
        _dataset(group, "size", np.array([head.size for head in heads], np.int32).reshape(-1, 2), True)
        labels = [head.labels for head in heads]
        _dataset(group, "labels", np.stack(labels) if labels else np.zeros((0, classes), np.uint8), True)


class _Growing:
    """A 1-D array that grows in steps of one chunk; contiguous when it stays small."""

    def __init__(self, target: h5py.File, name: str, dtype: np.dtype, compress: bool) -> None:
        self._target, self._name, self._dtype, self._compress = target, name, dtype, compress
        self._pending: list[np.ndarray] = []
        self._waiting = 0
        self._dataset: h5py.Dataset | None = None

    def append(self, values: np.ndarray) -> None:
        if values.dtype != self._dtype:
            raise ValueError(f"{self._name} is {self._dtype}, an image has {values.dtype}")
        self._pending.append(values)
        self._waiting += values.size
        if self._waiting >= 4 * CHUNK:
            self._flush(self._waiting // CHUNK * CHUNK)

    def close(self) -> None:
        if self._dataset is None and self._waiting < SMALL:
            values = np.concatenate(self._pending) if self._pending else np.zeros(0, self._dtype)
            self._target.create_dataset(self._name, data=values, track_times=False)
        else:
            self._flush(self._waiting)

    def _flush(self, count: int) -> None:
        values = np.concatenate(self._pending)
        self._pending, self._waiting = [values[count:]], self._waiting - count
        if self._dataset is None:
            self._dataset = self._target.create_dataset(
                self._name,
                (0,),
                self._dtype,
                maxshape=(None,),
                chunks=(CHUNK,),
                track_times=False,
                **_filters(self._compress),
            )
        start = self._dataset.shape[0]
        self._dataset.resize((start + count,))
        self._dataset[start:] = values[:count]


def _filters(compress: bool) -> dict[str, Any]:
    return {"compression": "gzip", "compression_opts": 1, "shuffle": True} if compress else {}


def _dataset(group: h5py.Group, name: str, array: np.ndarray, compress: bool) -> None:
    chunked = compress and array.size >= SMALL
    group.create_dataset(name, data=array, track_times=False, **(_filters(True) if chunked else {}))


def _strings(group: h5py.Group, name: str, texts: Sequence[str]) -> None:
    encoded = [text.encode() for text in texts]
    dtype = h5py.string_dtype("utf-8", max(map(len, encoded), default=1) or 1)
    group.create_dataset(name, data=np.array(encoded, dtype=dtype), track_times=False)


def _attributes(target: h5py.Group, values: dict[str, str | int]) -> None:
    for name, value in values.items():
        if isinstance(value, str):
            data = value.encode()
            target.attrs.create(name, np.array(data, dtype=h5py.string_dtype("utf-8", max(len(data), 1))))
        else:
            target.attrs.create(name, value, dtype=np.int64)
