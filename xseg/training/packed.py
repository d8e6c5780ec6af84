"""Records kept in memory for as long as a training lasts, their arrays compressed; a full VOC takes some 50 MB."""

import zlib
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from xseg.artifacts.record import Record


class PackedRecords:
    """A list of records whose arrays are unpacked when they are asked for.

    Args:
        records: each is packed as it comes, so that a stream need not fit into memory.

    Attributes:
        records: the same in order, without their arrays.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self.records: list[Record] = []
        self._packed: list[dict[str, tuple[bytes, np.dtype, tuple[int, ...]]]] = []
        for record in records:
            self._packed.append({name: _pack(array) for name, array in record.arrays.items()})
            self.records.append(replace(record, arrays={}))

    def __len__(self) -> int:
        return len(self.records)

    def add(self, index: int, **arrays: np.ndarray) -> None:
        """Keep more arrays of the record at `index`."""
        self._packed[index] |= {name: _pack(array) for name, array in arrays.items()}

    def arrays(self, index: int) -> dict[str, np.ndarray]:
        """The arrays of the record at `index`, read-only."""
        return {name: _unpack(*packed) for name, packed in self._packed[index].items()}


def _pack(array: np.ndarray) -> tuple[bytes, np.dtype, tuple[int, ...]]:
    return zlib.compress(np.ascontiguousarray(array).tobytes(), 1), array.dtype, array.shape


def _unpack(data: bytes, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(zlib.decompress(data), dtype).reshape(shape)
