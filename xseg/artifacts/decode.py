"""HDF5 to records: one opened part, checked against the schema, with every image verified as it is read."""

from collections.abc import Iterator, Sized
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import h5py
import numpy as np

from xseg.artifacts.encode import array_digest
from xseg.artifacts.guard import MAX_PIXELS, check_file, most_for_one_image, walk
from xseg.artifacts.header import WorkList, parse_header, parse_json, sha256
from xseg.artifacts.record import Failure, Record, check_name, failures_digest
from xseg.artifacts.schema import KINDS, Ragged
from xseg.errors import BadInput

# What h5py, NumPy and Python raise on contents that no xseg wrote.
_MALFORMED = (OSError, RuntimeError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, MemoryError)
_DAMAGED = "make it again, or copy it again from where it came"
_AHEAD = 1 << 18  # values that are read at once
_EXACT = 2.0**53  # below this a product of sides is the same in float64 and in int64


class Part:
    """One HDF5 file, open for reading: a whole artifact or a part of one. Use it in a `with`."""

    def __init__(self, source: Path | BinaryIO, where: str) -> None:
        """Open and check `source`.

        Args:
            source: a path, or a seekable binary file that holds exactly one HDF5 file.
            where: name for messages.

        Raises:
            BadInput: not an artifact, or a damaged one.
        """
        self.where = where
        if isinstance(source, Path):
            check_file(source, where)
        try:
            if isinstance(source, Path):
                # Published artifacts never change, so no lock is needed; locks fail on some network disks.
                self._file = h5py.File(source, "r", locking=False)
            else:
                self._file = h5py.File(source, "r")
        except _MALFORMED as error:
            raise BadInput(f"{where}: unreadable HDF5 ({_first_line(error)})", _DAMAGED) from error
        try:
            self._check()
        except BaseException:
            self.close()
            raise

    def _check(self) -> None:
        try:
            walk(self._file, self.where)
            attributes = _read_attributes(self._file)
            kind = KINDS.get(str(attributes.get("kind")))
            self.header = parse_header(attributes, self.where, self._work() if kind and kind.per_image else None)
            self._attributes = attributes
            if KINDS[self.header.kind].per_image:
                self._read_images()
                self._require(self.content() == self.stored_content(), "the attribute content does not match the data")
            elif KINDS[self.header.kind].weights:
                self._require("config" in attributes and "weights" in self._file, "no config or no weights")
            else:
                self.result()
        except _MALFORMED as error:
            raise BadInput(f"{self.where}: damaged or incomplete ({_first_line(error)})", _DAMAGED) from error

    def __enter__(self) -> "Part":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __len__(self) -> int:
        """Number of images stored."""
        return len(self.ids)

    def _work(self) -> WorkList:
        attributes = _read_attributes(self._file["images"])
        return WorkList(int(attributes["total"]), str(attributes["worklist_sha256"]))

    def _read_images(self) -> None:
        images = self._file["images"]
        self.ids = [check_name(text, "id", self.where) for text in _texts(images["id"])]
        self.paths = [check_name(text, "path", self.where) for text in _texts(images["path"])]
        self.sources, self.digests = _texts(images["source"]), _texts(images["digest"])
        self.index = _whole_numbers(images["index"])
        self.sizes = _whole_numbers(images["size"])
        self.labels = images["labels"][()]
        self.failures = self._read_failures()
        count, total = len(self.ids), self._work().total
        columns: dict[str, Sized] = {
            "path": self.paths,
            "source": self.sources,
            "digest": self.digests,
            "index": self.index,
        }
        for name, found in columns.items():
            self._require(len(found) == count, f"images/{name} has {len(found)} entries, images/id {count}")
        self._require(self.sizes.shape == (count, 2), "images/size is not (N, 2)")
        self._require(self.labels.shape == (count, len(self.header.classes)), "images/labels is not (N, C)")
        self._require(self.labels.dtype == np.uint8, "images/labels is not uint8")
        indices = [*self.index.tolist(), *(failure.index for failure in self.failures)]
        self._require(all(0 <= index < total for index in indices), "an index lies outside the work list")
        self._arrays = {
            ragged.name: _RaggedReader(self._file, ragged, count, self._require)
            for ragged in KINDS[self.header.kind].arrays
            if ragged.required or ragged.name in self._file
        }
        self._check_work_list()
        self._check_grids()
        # Lists, because one number out of an array costs ten times as much.
        self._index: list[int] = self.index.tolist()
        self._sizes: list[list[int]] = self.sizes.tolist()

    def _read_failures(self) -> list[Failure]:
        group = self._file["failures"]
        failed = _whole_numbers(group["index"]).tolist()
        rows = list(zip(failed, _texts(group["id"]), _texts(group["reason"]), strict=True))
        digest = failures_digest(rows) if rows else None
        self._require(_read_attributes(group).get("digest") == digest, "the failures do not match their digest")
        return [Failure(index, check_name(name, "id", self.where), reason) for index, name, reason in rows]

    def _check_work_list(self) -> None:
        work = self._work()
        ids = {failure.index: failure.id for failure in self.failures}
        ids |= dict(zip(self.index.tolist(), self.ids, strict=True))
        if len(ids) == work.total:
            found = WorkList.of(ids[index] for index in range(work.total))
            self._require(found == work, "worklist_sha256 does not match the ids")

    def _check_grids(self) -> None:
        """Bound what one image needs before one is read: a shape is soon forged, and gzip hides gigabytes."""
        self._require(
            bool(((self.sizes >= 0) & (self.sizes <= MAX_PIXELS)).all() and (self.sizes.prod(1) <= MAX_PIXELS).all()),
            f"images/size has a negative side or more than {MAX_PIXELS} pixels",
        )
        needed = np.zeros(len(self), np.int64)
        for name, reader in self._arrays.items():
            grids = reader.grids
            on_image = self.header.on_image(reader.ragged)
            fits = (grids == self.sizes).all(1) if on_image else grids.astype(np.float64).prod(1) <= MAX_PIXELS
            fits |= reader.empty
            if not fits.all():
                at = int(np.argmin(fits))
                grid, size = ("x".join(map(str, sides[at].tolist())) for sides in (grids, self.sizes))
                self._require(False, f"{name} of {self.ids[at]} is {grid}, its image {size}")
            needed += reader.nbytes
        most = most_for_one_image(self._file)
        self._require(bool((needed <= most).all()), f"an image needs {needed.max(initial=0)} bytes, more than {most}")

    def _require(self, condition: bool, problem: str) -> None:
        if not condition:
            raise BadInput(f"{self.where}: {problem}", f"list every problem with: xseg validate {self.where}")

    def record(self, position: int) -> Record:
        """The image at `position` (0..len-1, in stored order), verified against its digest.

        Raises:
            BadInput: the values are not those that were written.
        """
        try:
            arrays = {name: value for ragged in self._arrays.values() for name, value in ragged.read(position)}
        except _MALFORMED as error:
            raise BadInput(f"{self.where}: {self.ids[position]}: {_first_line(error)}", _DAMAGED) from error
        height, width = self._sizes[position]
        record = Record(
            self._index[position],
            self.ids[position],
            self.paths[position],
            (height, width),
            self.sources[position],
            self.labels[position],
            arrays,
        )
        if record.digest != self.digests[position]:
            raise BadInput(f"{self.where}: the data of {record.id} is damaged (its digest does not match)", _DAMAGED)
        if name := record.not_finite():
            raise BadInput(f"{self.where}: {name} of {record.id} has values that are not finite", _DAMAGED)
        return record

    def records(self) -> Iterator[Record]:
        """Every image, in stored order, verified."""
        return (self.record(position) for position in range(len(self)))

    def content(self) -> str:
        """The digest of what is there, computed anew from the stored image digests or weights."""
        kind = KINDS[self.header.kind]
        if kind.per_image:
            return self.header.content(self.digests[i] for i in np.argsort(self.index, kind="stable"))
        if kind.weights:
            digests = [array_digest(key, array) for key, array in self.weights().items()]
            return self.header.content([sha256("config", self.config()), *digests])
        return self.header.content([sha256("result", str(self._attributes["result"]))])

    def stored_content(self) -> str:
        """The attribute `content`."""
        return str(self._attributes.get("content"))

    def config(self) -> str:
        """The JSON that rebuilds the network of a weights kind."""
        return str(self._attributes["config"])

    def result(self) -> dict[str, Any]:
        """The JSON object of a `scores` artifact."""
        found = parse_json(str(self._attributes["result"]))
        if not isinstance(found, dict):
            raise ValueError("the attribute result is not a JSON object")
        return found

    def weights(self) -> dict[str, np.ndarray]:
        """State-dict key -> array, in state-dict order."""
        try:
            return {key: dataset[()] for key, dataset in self._file["weights"].items()}
        except _MALFORMED as error:
            raise BadInput(f"{self.where}: unreadable weights ({_first_line(error)})", _DAMAGED) from error

    def array_dtypes(self) -> dict[str, str]:
        """Array name -> dtype name, for `info`."""
        return {name: reader.values.dtype.name for name, reader in self._arrays.items()}


class _RaggedReader:
    """Slices of one ragged array, image by image.

    Attributes:
        values: all images' values, end to end.
        grids: (N, 2) height and width of each image's array; (N, 1) the length of a vector.
        empty: (N,) whether an image has no map at all, and so no grid.
        nbytes: (N,) what each image's share needs in memory.
    """

    def __init__(self, file: h5py.File, ragged: Ragged, count: int, require: Any) -> None:  # noqa: ANN401
        group = file[ragged.name]
        self.ragged = ragged
        self.values: h5py.Dataset = group["values"]
        self._columns = {f"{ragged.name}/{column}": group[column][()] for column in ragged.columns}
        offsets, shapes = _whole_numbers(group["offsets"]), _whole_numbers(group["shape"])
        name = ragged.name
        require(
            offsets.shape == (count + 1,) and shapes.shape == (count, ragged.ndim), f"{name}: wrong number of images"
        )
        require(
            self.values.ndim == 1 and self.values.dtype.name in ragged.dtypes, f"{name}/values: {self.values.dtype}"
        )
        require(bool((shapes >= 0).all()), f"{name}/shape has a negative side")
        require(bool((shapes.astype(np.float64).prod(1) < _EXACT).all()), f"{name}/shape has a side that cannot be")
        sizes = shapes.prod(1)
        require(
            int(offsets[0]) == 0 and np.array_equal(np.diff(offsets), sizes),
            f"{name}/offsets do not follow from {name}/shape",
        )
        require(int(offsets[-1]) == self.values.shape[0], f"{name}/values has {self.values.shape[0]} entries")
        rows = np.concatenate([[0], np.cumsum(shapes[:, 0])]).astype(np.int64)
        for column, dtype in ragged.columns.items():
            found = self._columns[f"{ragged.name}/{column}"]
            require(
                found.dtype == dtype and found.shape == (rows[-1],), f"{name}/{column} is {found.dtype}{found.shape}"
            )
        # Lists, because one number out of an array costs ten times as much.
        self._offsets: list[int] = offsets.tolist()
        self._shapes: list[list[int]] = shapes.tolist()
        self._rows: list[int] = rows.tolist()
        self._ahead: tuple[int, np.ndarray] = 0, np.empty(0, self.values.dtype)
        self.grids = shapes[:, -2:]
        self.empty = shapes[:, 0] == 0 if ragged.columns else np.zeros(count, bool)
        per_row = sum(np.dtype(dtype).itemsize for dtype in ragged.columns.values())
        self.nbytes = sizes * self.values.dtype.itemsize + np.diff(rows) * per_row

    def read(self, position: int) -> Iterator[tuple[str, np.ndarray]]:
        start, stop = self._offsets[position : position + 2]
        yield self.ragged.name, self._between(start, stop).reshape(self._shapes[position])
        first, last = self._rows[position : position + 2]
        for name, values in self._columns.items():
            yield name, values[first:last]

    def _between(self, start: int, stop: int) -> np.ndarray:
        """Values; read some way ahead where images come in turn: a call into HDF5 costs as much as an image."""
        first, ahead = self._ahead
        if first <= start and stop <= first + len(ahead):
            return ahead[start - first : stop - first]
        if first <= start <= first + len(ahead):
            with suppress(*_MALFORMED):  # damage further on is told when its image comes
                self._ahead = start, self.values[start : max(stop, start + _AHEAD)]
                return self._ahead[1][: stop - start]
        return self.values[start:stop]


def _read_attributes(thing: h5py.Group) -> dict[str, str | int]:
    return {name: _plain(value) for name, value in thing.attrs.items()}


def _plain(value: Any) -> str | int:  # noqa: ANN401 - whatever h5py returns
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, str | int | np.integer):
        return value if isinstance(value, str) else int(value)
    raise ValueError("an attribute is neither text nor a whole number")


def _whole_numbers(dataset: h5py.Dataset) -> np.ndarray:
    if dataset.dtype.kind not in "iu":
        raise ValueError(f"{dataset.name} does not hold whole numbers")
    return dataset[()].astype(np.int64)


def _texts(dataset: h5py.Dataset) -> list[str]:
    if dataset.dtype.kind != "S" or dataset.ndim != 1:
        raise ValueError(f"{dataset.name} does not hold fixed-length text")
    return [bytes(text).decode() for text in dataset[()].tolist()]


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
