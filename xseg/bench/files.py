"""Cases about files: many maps of different sizes, written and read, against a group for each image."""

import io
from collections.abc import Iterable, Iterator
from functools import cache

import h5py
import numpy as np
import torch
from torch import Tensor

from xseg.artifacts import Header, Part, Record, WorkList
from xseg.artifacts.encode import encode
from xseg.bench.measure import Case

IMAGES = 1000
_LEVELS = 256  # maps are stored as uint8
_CLASSES = ("cat", "dog", "sofa")


def file_cases() -> list[Case]:
    """Writing and reading."""
    return [writing_case(), reading_case()]


@cache
def _records() -> tuple[Record, ...]:
    """Smooth maps of one to three classes, of sizes like those of photographs at stride 8."""
    rng = np.random.default_rng(0)
    found = []
    for index in range(IMAGES):
        height, width, count = rng.integers(28, 64), rng.integers(28, 64), 1 + index % 3
        phase = rng.random((count, 2, 1, 1)) * 6
        rows, columns = np.ogrid[:height, :width]
        maps = np.sin(rows / 9 + phase[:, 0]) * np.sin(columns / 7 + phase[:, 1])
        arrays: dict[str, np.ndarray] = {
            "maps": ((maps + 1) / 2 * (_LEVELS - 1)).astype(np.uint8),
            "maps/class_id": np.arange(1, count + 1, dtype=np.int32),
            "maps/scale": np.ones(count, np.float32),
        }
        labels = (np.arange(3) < count).astype(np.uint8)
        found.append(Record(index, f"{index:06}", f"{index:06}.jpg", (375, 500), f"{index:064x}", labels, arrays))
    return tuple(found)


def _header() -> Header:
    extra = {"signed": False, "class_specific": True, "map_size": "model"}
    work = WorkList.of(record.id for record in _records())
    return Header("heatmaps", _CLASSES, "explain", {"method": "cam"}, extra=extra, work=work)


def _ours() -> bytes:
    buffer = io.BytesIO()
    encode(buffer, _header(), _records())
    return buffer.getvalue()


def _grouped() -> bytes:
    """The common layout: a group for each image, its arrays as gzip-4 data sets."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as target:
        for record in _records():
            group = target.create_group(record.id)
            group.attrs["path"], group.attrs["source"] = record.path, record.source
            group.create_dataset("labels", data=record.labels, compression="gzip", compression_opts=4)
            for name, array in record.arrays.items():
                group.create_dataset(name.replace("/", "_"), data=array, compression="gzip", compression_opts=4)
    return buffer.getvalue()


def _ours_read(data: bytes) -> Iterator[np.ndarray]:
    with Part(io.BytesIO(data), "memory") as part:
        for record in part.records():
            yield record.arrays["maps"]


def _grouped_read(data: bytes) -> Iterator[np.ndarray]:
    with h5py.File(io.BytesIO(data), "r") as source:
        for group in source.values():
            for name in ("labels", "maps_class_id", "maps_scale"):
                group[name][...]
            yield group["maps"][...]


def _sums(maps: Iterable[np.ndarray]) -> Tensor:
    return torch.tensor([int(one.sum()) for one in maps])


def writing_case() -> Case:
    """With all digests; the gate is what is read back."""
    return Case(
        f"artifact of {IMAGES} images written, against a gzip-4 group an image",
        lambda: torch.frombuffer(bytearray(_grouped()), dtype=torch.uint8),
        lambda: torch.frombuffer(bytearray(_ours()), dtype=torch.uint8),
        0,
        expected=lambda: _sums(record.arrays["maps"] for record in _records()),
        compared=lambda data: _sums(_ours_read(data.numpy().tobytes())),
    )


def reading_case() -> Case:
    """With our digests checked; the peer has none."""

    @cache
    def files() -> tuple[bytes, bytes]:
        return _grouped(), _ours()

    return Case(
        f"artifact of {IMAGES} images read, against a gzip-4 group an image",
        lambda: _sums(_grouped_read(files()[0])),
        lambda: _sums(_ours_read(files()[1])),
        0,
    )
