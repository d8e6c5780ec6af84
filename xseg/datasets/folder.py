"""One directory per class, one label per image; optionally below train/, val/..."""

from dataclasses import dataclass
from typing import ClassVar

from xseg.datasets.formats import FORMATS, Listing, Place, label_ids, names_in, read_classes
from xseg.datasets.index import Item
from xseg.datasets.names import is_image, without_suffix
from xseg.errors import BadInput

SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "trainval", "eval"})


@FORMATS.register("folder")
@dataclass(frozen=True)
class Folder:
    """CLASS/image or SPLIT/CLASS/image; images deeper below a class belong to it. A single class must be forced."""

    order: ClassVar[int] = 40

    def recognises(self, place: Place) -> bool:
        """See `Format.recognises`."""
        images = [] if place.file else _images(place)
        depth = _class_depth(images)
        if depth is None:
            return False
        tops = {name.partition("/")[0] for name in images}
        named_like_splits = tops <= SPLIT_NAMES
        return named_like_splits == (depth == 1) and len({name.split("/")[depth] for name in images}) > 1

    def splits(self, place: Place) -> list[str]:
        """See `Format.splits`."""
        images = _images(place)
        return sorted({name.partition("/")[0] for name in images}) if _class_depth(images) == 1 else []

    def read(self, place: Place, split: str | None) -> Listing:
        """See `Format.read`."""
        images = _images(place)
        depth = _class_depth(images)
        if place.file or depth is None:
            needed = "CLASS/image or SPLIT/CLASS/image throughout"
            raise BadInput(f"{place.location}: --format folder needs {needed}", "move stray images into a class")
        names = {name: name.split("/")[depth] for name in images}
        classes = read_classes(place.storage) or names_in([names.values()])
        where = f"{place.location}: directory"
        return Listing(
            classes,
            tuple(
                Item(without_suffix(name), name, label_ids([names[name]], classes, where))
                for name in images
                if split is None or name.startswith(f"{split}/")
            ),
        )


def _images(place: Place) -> list[str]:
    return [name for name in place.storage.names() if is_image(name)]


def _class_depth(images: list[str]) -> int | None:
    """Which component of the names is the class: 0, or 1 below splits; None if it is neither throughout."""
    tops = {name.partition("/")[0] for name in images}
    direct = {name.partition("/")[0] for name in images if name.count("/") == 1}
    if not images or any("/" not in name for name in images):
        return None
    if direct == tops:
        return 0
    return None if direct else 1
