"""Images without labels: a directory, one file, or a text file with a path a line."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from xseg.datasets.formats import FORMATS, Listing, Place, read_lines
from xseg.datasets.index import Item
from xseg.datasets.names import is_image, safe_name, without_suffix

LIST_SUFFIXES = (".txt", ".lst")


@FORMATS.register("images")
@dataclass(frozen=True)
class Images:
    """Every image below a directory or in an archive, one image, or those of a list (relative to the list)."""

    order: ClassVar[int] = 90

    def recognises(self, place: Place) -> bool:
        """See `Format.recognises`."""
        if place.file is None:
            return any(map(is_image, place.storage.names()))
        return is_image(place.file) or place.file.lower().endswith(LIST_SUFFIXES)

    def splits(self, place: Place) -> list[str]:
        """See `Format.splits`: there are none."""
        return []

    def read(self, place: Place, split: str | None) -> Listing:
        """See `Format.read`."""
        if place.file is None:
            paths = [name for name in place.storage.names() if is_image(name)]
        elif place.file.lower().endswith(LIST_SUFFIXES):
            paths = [_relative(line, place) for line in read_lines(place.storage, place.file)]
        else:
            paths = [place.file]
        return Listing((), tuple(Item(without_suffix(path), path) for path in paths))


def _relative(line: str, place: Place) -> str:
    root = place.storage.location.absolute()
    path = Path(line)
    if path.is_absolute() and path.is_relative_to(root):
        line = path.relative_to(root).as_posix()
    return safe_name(line, f"{place.location} (paths are relative to it)")
