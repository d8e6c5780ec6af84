"""One image's share of an artifact, and the digest that proves it intact."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from xseg.artifacts.header import canonical, sha256
from xseg.artifacts.text import without_controls
from xseg.errors import BadInput

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # nothing that could break or forge a listing


@dataclass(frozen=True)
class Record:
    """What an artifact stores for one image.

    Attributes:
        index: position in the work list.
        id: unique name of the image.
        path: its file, relative to the data set's root, POSIX.
        size: (height, width) in pixels after EXIF rotation.
        source: sha256 (hex) of the image file.
        labels: (C,) uint8 image-level labels: 1 present, 0 absent, 255 unknown.
        arrays: array or column name (`maps`, `maps/class_id`, ...) -> this image's values.
    """

    index: int
    id: str
    path: str
    size: tuple[int, int]
    source: str
    labels: np.ndarray
    arrays: dict[str, np.ndarray]

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) of everything stored for the image."""
        names = sorted(self.arrays)
        described = [(name, self.arrays[name].dtype.str, list(self.arrays[name].shape)) for name in names]
        head = canonical([self.index, self.id, self.path, list(self.size), self.source, described])
        data = (np.ascontiguousarray(self.arrays[name]).tobytes() for name in names)
        return sha256(head, self.labels.tobytes(), *data)

    def not_finite(self) -> str | None:
        """Name of an array with NaN or infinite values, if there is one."""
        numbers = ((name, array) for name, array in self.arrays.items() if array.dtype.kind == "f")
        return next((name for name, array in numbers if not np.isfinite(array).all()), None)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays.values())


@dataclass(frozen=True)
class Failure:
    """An image that could not be processed: position in the work list, id and the reason on one line."""

    index: int
    id: str
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", " ".join(without_controls(self.reason, " ").split()))


def failures_digest(rows: Iterable[tuple[int, str, str]]) -> str:
    """sha256 (hex) of failures, as (index, id, reason) in stored order."""
    return sha256(canonical([list(row) for row in rows]))


def check_name(text: str, what: str, where: str) -> str:
    """`text` if it is safe as an id or a relative path.

    Raises:
        BadInput: empty, absolute, with `..` or a control character.
    """
    if not text or text.startswith("/") or ".." in text.split("/") or _UNSAFE.search(text):
        raise BadInput(f"{where}: {what} {text[:80]!r} is not a plain relative name", "it was not written by xseg")
    return text
