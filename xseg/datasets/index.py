"""A data set as the program sees it: items in work-list order, class names, and how to read one image or mask."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from xseg.datasets.decode import decode_image, decode_mask, image_size
from xseg.datasets.source import digest
from xseg.datasets.storage import Storage
from xseg.errors import BadInput, InputMissing

UNKNOWN = 255
UNKNOWN_WIDE = 65535
NARROW_CLASSES = 254  # more classes than this need uint16 label maps


def unknown_id(classes: int) -> int:
    """The id that marks an unknown pixel in label maps of `classes` foreground classes: 255, or 65535 beyond 254."""
    return UNKNOWN if classes <= NARROW_CLASSES else UNKNOWN_WIDE


@dataclass(frozen=True)
class Item:
    """One image.

    Attributes:
        id: unique in its data set; root-relative POSIX path without suffix (VOC: the stem).
        path: of the image, root-relative POSIX; the file may be missing, which reading it will tell.
        labels: ids 1..C of the classes present, ascending; () for an image known to hold none, None where unknown.
        mask: path of the label map, root-relative POSIX, or None.
    """

    id: str
    path: str
    labels: tuple[int, ...] | None = None
    mask: str | None = None


_LABEL_HINTS = {
    "voc": "add labels.csv (id,classes) or Annotations/*.xml",
    "pairs": "make a csv of path,classes for training; masks are for evaluation",
    "imagenet-seg": "it has masks only: explain it with --targets top1, and train on something else",
    "images": "make a csv of path,classes, or one directory per class with nothing else beside them (a single class, or"
    " directories inside of directories: --format folder)",
}


@dataclass(frozen=True)
class Dataset:
    """Images in work-list order with what is known of them.

    Attributes:
        location: as the user gave it (a directory, an archive, a csv, a list or one image).
        format: name of the format it was read as.
        split: name of the list that was picked, None for all images.
        classes: names of the foreground classes; class id k is `classes[k - 1]`.
        items: the work list.
        storage: where the files lie; its location is `root`.
    """

    location: Path
    format: str
    split: str | None
    classes: tuple[str, ...]
    items: tuple[Item, ...]
    storage: Storage

    def __len__(self) -> int:
        return len(self.items)

    @property
    def root(self) -> Path:
        """Directory or archive that every `path` is relative to."""
        return self.storage.location

    @property
    def has_labels(self) -> bool:
        """Whether any image has image-level labels. Masks do not count as labels."""
        return any(item.labels is not None for item in self.items)

    @property
    def has_masks(self) -> bool:
        """Whether any image has a mask."""
        return any(item.mask is not None for item in self.items)

    @cached_property
    def by_id(self) -> dict[str, Item]:
        """Items by id."""
        return {item.id: item for item in self.items}

    def limited(self, count: int | None) -> "Dataset":
        """The first `count` images, all of them for None."""
        return self if count is None else replace(self, items=self.items[:count])

    def selected(self, ids: Iterable[str]) -> "Dataset":
        """The images with these ids, in the order of the work list.

        Raises:
            BadInput: an id is not in the data set.
        """
        wanted = set(ids)
        if absent := sorted(wanted - self.by_id.keys()):
            raise BadInput(f"{self._name}: has no image {absent[0]!r} ({len(absent)} absent)", "check the ids")
        return replace(self, items=tuple(item for item in self.items if item.id in wanted))

    def require_labels(self) -> "Dataset":
        """The data set itself, if image-level labels of every image are known.

        Raises:
            BadInput: they are not, or there is no class at all.
        """
        bare = [item.id for item in self.items if item.labels is None]
        if not bare and self.classes:
            return self
        found = f"{len(bare)} of {len(self.items)} images have none"
        if bare and len(bare) < len(self.items):
            hint = f"add the row or annotation of {bare[0]!r}, leave these images out, or explain --targets predicted"
        elif not bare:
            found, hint = "the label column names no class", "write the classes of each image into it"
        else:
            hint = _LABEL_HINTS.get(self.format, _LABEL_HINTS["images"])
        raise BadInput(f"{self._name} (read as {self.format}): image-level labels are needed, {found}", hint)

    def require_masks(self) -> "Dataset":
        """The data set itself, if it has masks; a single missing mask is told when it is read.

        Raises:
            BadInput: no image has a mask.
        """
        if not self.has_masks:
            hint = "add SegmentationClass/ (voc), masks/ (pairs) or a mask column (csv)"
            raise BadInput(f"{self._name} (read as {self.format}): masks are needed, no image has one", hint)
        return self

    def require_classes(self, minimum: int, purpose: str) -> "Dataset":
        """The data set itself, if it has at least `minimum` classes.

        Raises:
            BadInput: fewer; the message says what they are needed for.
        """
        if len(self.classes) < minimum:
            found = f"{len(self.classes)} class{'es' * (len(self.classes) != 1)}"
            raise BadInput(f"{self._name}: {purpose} needs {minimum} classes or more, found {found}", "add classes")
        return self

    def read_bytes(self, item: Item) -> bytes:
        """The image file as it is.

        Raises:
            InputMissing: the file is not there.
        """
        return self.storage.read(item.path)

    def read_image(self, item: Item) -> np.ndarray:
        """The image, EXIF-rotated: (H, W, 3) uint8.

        Raises:
            InputMissing: the file is not there.
            BadInput: it is damaged or not an image that is read.
        """
        return self.read_verified(item)[0]

    def read_verified(self, item: Item) -> tuple[np.ndarray, str]:
        """The image as `read_image` gives it, and the sha256 (hex) of its file."""
        data = self.read_bytes(item)
        return decode_image(data, item.path), digest(data)

    def read_mask(self, item: Item, size: tuple[int, int] | None = None) -> np.ndarray:
        """Class ids of every pixel: (H, W) uint8 with 255 unknown, or uint16 with 65535 where C > 254.

        Args:
            item: an item of this data set.
            size: (height, width) that the mask must have; None: that of the image, whose header is read for it.

        Raises:
            InputMissing: the image has no mask, or its file is not there.
            BadInput: damaged, in colours, of another size than the image, or with an id beyond the classes.
        """
        if item.mask is None:
            raise InputMissing(f"{item.id}: has no mask in {self._name}", "add it, or leave the image out of the list")
        mask = decode_mask(self.storage.read(item.mask), item.mask)
        needed = size or image_size(self.read_bytes(item), item.path)
        if mask.shape != tuple(needed):
            found = f"{mask.shape[0]} x {mask.shape[1]} pixels"
            hint = "masks must lie pixel on pixel over the EXIF-rotated image"
            raise BadInput(f"{item.mask}: {found}, the image has {needed[0]} x {needed[1]}", hint)
        return self._checked_ids(mask, item.mask)

    def _checked_ids(self, mask: np.ndarray, name: str) -> np.ndarray:
        count, unknown = len(self.classes), unknown_id(len(self.classes))
        ignore = UNKNOWN if mask.dtype == np.uint8 else UNKNOWN_WIDE
        present = np.bincount(mask.ravel()).nonzero()[0]
        if strange := [int(value) for value in present if value > count and value not in {ignore, unknown}]:
            found = f"found {', '.join(map(str, strange[:5]))}"
            hint = "check classes.txt (without background), or map the ids"
            raise BadInput(f"{name}: ids must be 0..{count} or {unknown}, {found}", hint)
        kind = np.uint8 if unknown == UNKNOWN else np.uint16
        if mask.dtype == kind:
            return mask
        ids = mask.astype(kind)
        ids[mask == ignore] = unknown
        return ids

    def label_vector(self, item: Item) -> np.ndarray:
        """(C,) uint8: 1 present, 0 absent; all 255 where the labels are unknown."""
        if item.labels is None:
            return np.full(len(self.classes), UNKNOWN, np.uint8)
        vector = np.zeros(len(self.classes), np.uint8)
        vector[np.asarray(item.labels, np.int64) - 1] = 1
        return vector

    @property
    def _name(self) -> str:
        return f"{self.location}" + (f" (split {self.split})" if self.split else "")
