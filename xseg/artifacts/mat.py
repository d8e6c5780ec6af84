"""Images and masks inside a MATLAB file, as ImageNet-Segmentation is handed out (Guillaumin et al. 2014).

A MATLAB 7.3 file is an HDF5 file behind 512 bytes of text. `/value/img` and `/value/gt` hold one reference per image:
to an array (3,W,H) uint8, and to a cell, which holds a reference to an array (W,H), or to that array itself. MATLAB
counts columns first, so every array is the transpose of its picture. Nobody vouches for such a file: references stay in
the file by nature, and what they lead to is checked like an artifact's arrays before it is read.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from xseg.artifacts.guard import MAX_PIXELS, SIGNATURE, array_problems, placement_problems
from xseg.errors import BadInput

_USERBLOCK, _TITLE = 512, b"MATLAB 7.3"
_MOST = 1_000_000  # images; the published file has 4,276
_IMAGES, _MASKS = "img", "gt"
_HINT = "needed gtsegs_ijcv.mat of Guillaumin et al., or a file like it: /value/img and /value/gt, saved with -v7.3"
_MALFORMED = (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, MemoryError)


class SegmentationFile:
    """Reads one image or mask at a time.

    Args:
        path: of the .mat file.

    Raises:
        BadInput: not a regular file, not of this form, or with something in it that points elsewhere.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _check_header(path)
        try:
            self._file = h5py.File(path, "r", locking=False)
        except _MALFORMED as error:
            raise BadInput(f"{path}: unreadable HDF5", "copy it again") from error
        try:
            self._references = {name: self._listed(name) for name in (_IMAGES, _MASKS)}
            images, masks = map(len, self._references.values())
            if images != masks or not 0 < images <= _MOST:
                raise BadInput(f"{path}: {images} images and {masks} masks", _HINT)
        except BaseException:
            self._file.close()
            raise

    def __len__(self) -> int:
        return len(self._references[_IMAGES])

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def image(self, number: int) -> np.ndarray:
        """Image `number`: (H,W,3) uint8.

        Raises:
            BadInput: what is there is no such array.
        """
        array = self._array(self._references[_IMAGES][number], f"image {number}")
        if array.ndim != 3 or array.shape[0] != 3 or array.dtype != np.uint8:
            raise BadInput(f"{self.path}: image {number} is {_form(array)}, needed (3, width, height) uint8", _HINT)
        return np.ascontiguousarray(array.transpose(2, 1, 0))

    def mask(self, number: int) -> np.ndarray:
        """Mask `number`, the first where there are several: (H,W) uint8, 0 background, 1 foreground, 255 unknown.

        Negative values mean unknown, too, as in the published scripts.

        Raises:
            BadInput: what is there is no such array, or holds other values.
        """
        array = self._array(self._references[_MASKS][number], f"mask {number}")
        if array.ndim != 2 or array.dtype.kind not in "biu":
            raise BadInput(f"{self.path}: mask {number} is {_form(array)}, needed (width, height) integers", _HINT)
        strange = array[(array > 1) & (array != 255)]
        if len(strange):
            raise BadInput(f"{self.path}: mask {number} holds {strange[0]}, needed 0 and 1", _HINT)
        values = array.astype(np.uint8)
        values[array < 0] = 255
        return np.ascontiguousarray(values.T)

    def _listed(self, name: str) -> np.ndarray:
        """The references of `/value/NAME`, one per image."""
        try:
            group: Any = self._file
            for part in ("value", name):
                if not isinstance(group.get(part, getlink=True), h5py.HardLink):
                    raise BadInput(f"{self.path}: has no /value/{name} of its own", _HINT)
                group = group[part]
            return self._references_in(group, f"/value/{name}", _MOST)
        except _MALFORMED as error:
            raise self._damaged(f"/value/{name}") from error

    def _references_in(self, dataset: Any, name: str, most: int) -> np.ndarray:  # noqa: ANN401
        if not isinstance(dataset, h5py.Dataset) or h5py.check_ref_dtype(dataset.dtype) is not h5py.Reference:
            raise BadInput(f"{self.path}: {name} is no list of references", _HINT)
        if problem := next(placement_problems(dataset), None):
            raise BadInput(f"{self.path}: {name}: {problem}", _HINT)
        if max(dataset.shape, default=1) != dataset.size or not 0 < dataset.size <= most:
            raise BadInput(f"{self.path}: {name} has the shape {dataset.shape}, needed one reference per image", _HINT)
        return dataset[()].ravel()

    def _array(self, reference: h5py.Reference, name: str) -> np.ndarray:
        """The numbers a reference leads to, through one cell at most."""
        try:
            found = self._file[reference]
            if isinstance(found, h5py.Dataset) and h5py.check_ref_dtype(found.dtype) is not None:
                found = self._file[self._references_in(found, name, _MOST)[0]]
            if not isinstance(found, h5py.Dataset):
                raise BadInput(f"{self.path}: {name} is no array", _HINT)
            if problem := next(array_problems(found, self._file.id.get_filesize()), None):
                raise BadInput(f"{self.path}: {name}: {problem}", _HINT)
            if found.ndim not in (2, 3) or np.prod(found.shape[-2:], dtype=object) > MAX_PIXELS:
                raise BadInput(f"{self.path}: {name} has the shape {found.shape}", _HINT)
            return np.asarray(found[()])
        except _MALFORMED as error:
            raise self._damaged(name) from error

    def _damaged(self, name: str) -> BadInput:
        return BadInput(f"{self.path}: {name} cannot be read", "the file is damaged: copy it again")


def _check_header(path: Path) -> None:
    """Refuse what is no MATLAB 7.3 file before HDF5 looks at it.

    Raises:
        BadInput: a device, an older MATLAB file, or something else.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadInput(f"{path}: not a regular file", _HINT)
        with path.open("rb") as file:
            head = file.read(_USERBLOCK + len(SIGNATURE))
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})", "check its permissions") from error
    if head.startswith(_TITLE) and len(head) < _USERBLOCK + len(SIGNATURE):
        raise BadInput(f"{path}: cut off after {len(head)} bytes", "copy it again")
    if not head.startswith(_TITLE) or not head.endswith(SIGNATURE):
        found = head[:20].split(b",")[0]
        what = found.decode("ascii") if found.startswith(b"MATLAB") and found.isascii() else "something else"
        raise BadInput(f"{path}: not a MATLAB 7.3 file but {what}", _HINT)


def _form(array: np.ndarray) -> str:
    return f"{array.shape} {array.dtype}"
