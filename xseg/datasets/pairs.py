"""Images in one directory, their masks under the same names in the one beside it."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from xseg.datasets.decode import decode_mask
from xseg.datasets.formats import CLASSES_FILE, FORMATS, Listing, Place, read_classes, read_lines
from xseg.datasets.index import UNKNOWN, UNKNOWN_WIDE, Item
from xseg.datasets.names import is_image, safe_name, without_suffix
from xseg.datasets.storage import Storage
from xseg.errors import BadInput

IMAGE_DIRECTORIES = ("images", "image", "imgs", "img", "photos")
MASK_DIRECTORIES = ("masks", "mask", "labels", "label", "annotations", "gt", "groundtruth")


@FORMATS.register("pairs")
@dataclass(frozen=True)
class Pairs:
    """images/ and masks/ (or similar names), else the only two directories if one holds index masks of the other.

    Masks give no image-level labels: those would let the ground truth into weakly supervised training. Without
    classes.txt the classes are named by their ids, up to the largest in any mask. Splits are NAME.txt lists beside
    the directories, else subdirectories of the images.
    """

    order: ClassVar[int] = 30

    def recognises(self, place: Place) -> bool:
        """See `Format.recognises`."""
        return place.file is None and _directories(place.storage) is not None

    def splits(self, place: Place) -> list[str]:
        """See `Format.splits`."""
        return sorted(_lists(place.storage) or _subdirectories(place))

    def read(self, place: Place, split: str | None) -> Listing:
        """See `Format.read`."""
        directories = None if place.file else _directories(place.storage)
        if directories is None:
            needed = "images/ and masks/, or two directories of images and index masks with equal names"
            raise BadInput(f"{place.location}: --format pairs needs {needed}", "rename the directories")
        images, masks = (_below(place.storage, directory) for directory in directories)
        stems = sorted(images) if split is None else self._listed(place, split, images, directories[0])
        items = tuple(
            Item(f"{directories[0]}/{stem}", images.get(stem, f"{directories[0]}/{stem}"), None, masks.get(stem))
            for stem in stems
        )
        classes = read_classes(place.storage)
        return Listing(_numbered(place.storage, masks) if classes is None else classes, items)

    def _listed(self, place: Place, split: str, images: dict[str, str], directory: str) -> list[str]:
        lists = _lists(place.storage)
        if split not in lists:
            return sorted(stem for stem in images if stem.startswith(f"{split}/"))
        where = f"{place.location}: {lists[split]}"
        names = [safe_name(line, where) for line in read_lines(place.storage, lists[split])]
        return [without_suffix(name).removeprefix(f"{directory}/") for name in names]


def _lists(storage: Storage) -> dict[str, str]:
    names = (child for child in storage.children() if child.endswith(".txt") and child != CLASSES_FILE)
    return {name.removesuffix(".txt"): name for name in names if not name.lower().startswith("readme")}


def _subdirectories(place: Place) -> list[str]:
    directories = _directories(place.storage)
    children = place.storage.children(directories[0]) if directories else []
    return [child.rstrip("/") for child in children if child.endswith("/")]


def _below(storage: Storage, directory: str) -> dict[str, str]:
    """Files of a directory by path below it, without suffix."""
    found: dict[str, str] = {}
    names = [name for name in storage.names() if name.startswith(f"{directory}/") and is_image(name)]
    for name in names:
        stem = without_suffix(name.removeprefix(f"{directory}/"))
        if stem in found:
            raise BadInput(f"{storage.location}: {found[stem]} and {name} share an id", "keep one of them")
        found[stem] = name
    return found


def _directories(storage: Storage) -> tuple[str, str] | None:
    """Names of the image and the mask directory."""
    children = [child.rstrip("/") for child in storage.children() if child.endswith("/")]
    images = [name for name in children if name.lower() in IMAGE_DIRECTORIES]
    masks = [name for name in children if name.lower() in MASK_DIRECTORIES]
    if len(images) == len(masks) == 1 and _below(storage, masks[0]):
        return images[0], masks[0]
    return _by_content(storage, *children) if len(children) == 2 else None


def _by_content(storage: Storage, first: str, second: str) -> tuple[str, str] | None:
    """The two directories in the order images, masks; None if neither holds index masks for images of the other."""
    try:
        found = {first: _below(storage, first), second: _below(storage, second)}
    except BadInput:
        return None  # two files with one stem: these are not pairs
    for images, masks in ((first, second), (second, first)):
        matched = found[masks] and found[masks].keys() <= found[images].keys()
        if matched and _is_mask(storage, min(found[masks].values())):
            return None if _is_mask(storage, min(found[images].values())) else (images, masks)
    return None


def _is_mask(storage: Storage, name: str) -> bool:
    try:
        decode_mask(storage.read(name), name)
    except BadInput:
        return False
    return True


def _numbered(storage: Storage, masks: dict[str, str]) -> tuple[str, ...]:
    largest, only_unknown = 0, False
    for name in masks.values():
        mask = decode_mask(storage.read(name), name)
        unknown = UNKNOWN if mask.dtype == np.uint8 else UNKNOWN_WIDE
        largest = max(largest, int(mask[mask != unknown].max(initial=0)))
        only_unknown |= bool((mask == unknown).any())
    if only_unknown and not largest:
        found = f"the masks hold only 0 and {UNKNOWN}, and {UNKNOWN} means unknown"
        raise BadInput(f"{storage.location}: {found}", f"store the foreground as 1, or add {CLASSES_FILE}")
    return tuple(str(number) for number in range(1, largest + 1))
