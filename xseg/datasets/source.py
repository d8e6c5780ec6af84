"""Images of an artifact, found again by path and known by their sha256."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xseg.datasets.decode import decode_image
from xseg.datasets.names import is_archive
from xseg.datasets.storage import Storage, open_storage
from xseg.errors import BadInput, InputMissing


def digest(data: bytes) -> str:
    """sha256 of `data` as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


class ImageSource:
    """Looks for images in several places, in order.

    Args:
        roots: directories or archives (a csv or list file stands for its directory); those that are not there
            are passed over and named when an image is missing.
    """

    def __init__(self, roots: Sequence[str | Path]) -> None:
        places = [Path(root) for root in roots]
        self.roots = tuple(place if place.is_dir() or is_archive(place) else _directory(place) for place in places)
        self._storages: list[Storage] = [open_storage(root) for root in self.roots if root.exists()]

    def read(self, path: str, expected_sha256: str | None = None) -> np.ndarray:
        """The image, EXIF-rotated: (H, W, 3) uint8.

        Args:
            path: root-relative POSIX path.
            expected_sha256: hex digest of the file it must be; None takes any.

        Raises:
            InputMissing: no root has it.
            BadInput: it was replaced by another file, or is damaged.
        """
        return decode_image(self.read_bytes(path, expected_sha256), path)

    def read_bytes(self, path: str, expected_sha256: str | None = None) -> bytes:
        """The file as `read` finds it, not decoded."""
        replaced: Path | None = None
        for storage in self._storages:
            if not storage.exists(path):
                continue
            data = storage.read(path)
            if expected_sha256 is None or digest(data) == expected_sha256:
                return data
            replaced = replaced or storage.location
        if replaced:
            hint = "give the images of that run: --images DIR, or run the steps again from the start"
            raise BadInput(f"{replaced}: {path} was replaced since the artifact was made", hint)
        looked = ", ".join(f"{root}{'' if root.exists() else ' (not there)'}" for root in self.roots) or "no directory"
        raise InputMissing(f"{path}: not found, looked in {looked}", "say where the images are: --images DIR")


def _directory(place: Path) -> Path:
    return place.parent if place.is_file() else place
