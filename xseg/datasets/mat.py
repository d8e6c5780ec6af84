"""The images and masks of a MATLAB file as files by name, so that a .mat is one more archive."""

import os
import threading
from pathlib import Path

import numpy as np

from xseg.artifacts.mat import SegmentationFile
from xseg.datasets.names import safe_name
from xseg.errors import InputMissing

IMAGES, MASKS = "images/", "masks/"


class MatStorage:
    """A `Storage` with `images/000000.ppm`, `masks/000000.pgm` and so on; every process opens its own handle.

    The names do not lie in the .mat, which only has arrays: each is told as the bytes of the plainest image file, whose
    digest therefore depends on the pixels alone.
    """

    def __init__(self, location: Path) -> None:
        self.location = location
        self._lock = threading.Lock()
        self._open: tuple[int, SegmentationFile] | None = None
        self._count = len(self._file())

    def __len__(self) -> int:
        """How many images it has."""
        return self._count

    def names(self) -> list[str]:
        """See `Storage.names`."""
        return [image_name(number) for number in range(self._count)] + [mask_name(n) for n in range(self._count)]

    def children(self, directory: str = "") -> list[str]:
        """See `Storage.children`."""
        if not directory:
            return [IMAGES, MASKS]
        inside = f"{directory.rstrip('/')}/"
        return [name.removeprefix(inside) for name in self.names() if name.startswith(inside)]

    def exists(self, name: str) -> bool:
        """See `Storage.exists`."""
        return self._number(name) is not None

    def read(self, name: str) -> bytes:
        """See `Storage.read`: binary PPM (colour) or PGM (mask)."""
        number = self._number(name)
        if number is None:
            raise InputMissing(f"{self.location}: {name} is not in it", "restore it, or give its place: --images")
        if name.endswith(".ppm"):
            return _portable(b"P6", self._file().image(number))
        return _portable(b"P5", self._file().mask(number))

    def _number(self, name: str) -> int | None:
        name = safe_name(name, str(self.location))
        stem = name.removeprefix(IMAGES).removeprefix(MASKS)[:-4]
        if not (stem.isascii() and stem.isdigit()):
            return None
        number = int(stem)
        return number if number < self._count and name in (image_name(number), mask_name(number)) else None

    def _file(self) -> SegmentationFile:
        with self._lock:
            if self._open is None or self._open[0] != os.getpid():
                self._open = os.getpid(), SegmentationFile(self.location)
            return self._open[1]

    def __reduce__(self) -> tuple[type, tuple[Path]]:
        return type(self), (self.location,)  # a worker process opens its own


def image_name(number: int) -> str:
    """Path of an image."""
    return f"{IMAGES}{number:06}.ppm"


def mask_name(number: int) -> str:
    """Path of a mask."""
    return f"{MASKS}{number:06}.pgm"


def _portable(magic: bytes, pixels: np.ndarray) -> bytes:
    height, width = pixels.shape[:2]
    return b"%s %d %d 255\n" % (magic, width, height) + pixels.tobytes()
