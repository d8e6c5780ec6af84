"""From what the user typed to a checked `Dataset`: storage, format, split."""

from collections import Counter
from pathlib import Path

from xseg.datasets.formats import FORMATS, Listing, Place
from xseg.datasets.index import Dataset
from xseg.datasets.names import is_archive, safe_name
from xseg.datasets.storage import open_storage
from xseg.errors import BadInput, UsageError


def open_dataset(
    location: str | Path,
    *,
    format: str | None = None,
    split: str | None = None,
    default_split: str | None = None,
    images: Path | None = None,
) -> Dataset:
    """Read the index of a data set; image files are not touched, so a missing one is told when it is read.

    Args:
        location: a directory, .tar(.gz), .zip, .csv, text list of paths, or one image.
        format: a name in `FORMATS`; None recognises it.
        split: the list to take; None takes all images.
        default_split: taken when `split` is None and the data set has a list of that name (trainers: `train`).
        images: a directory, .tar or .zip that the paths in lists are relative to; None: where the lists are.

    Raises:
        InputMissing: nothing is at `location`, or `images`.
        UsageError: unknown format or split; the message names those that exist.
        BadInput: not laid out as the format needs, no image in it, or two images with one id.
    """
    place = _place(Path(location))
    name = format or _recognise(place)
    reader = FORMATS.create(name)
    available = reader.splits(place) if split or default_split else []
    if split is None and default_split in available:
        split = default_split
    if split is not None and split not in available:
        hint = f"it has: {', '.join(available)}" if available else "leave --split out: it has no lists"
        raise UsageError(f"--split {split}: no such list in {location} (read as {name})", hint)
    listing = reader.read(place, split)
    _check(listing, f"{location}" + (f" (split {split})" if split else ""))
    return Dataset(
        Path(location), name, split, listing.classes, listing.items, open_storage(images) if images else place.storage
    )


def splits_of(location: str | Path, *, format: str | None = None) -> list[str]:
    """Names of the lists of a data set, sorted; its images are not looked for.

    Raises:
        InputMissing: nothing is at `location`.
        UsageError: unknown format.
        BadInput: none of the formats.
    """
    place = _place(Path(location))
    return FORMATS.create(format or _recognise(place)).splits(place)


def _place(location: Path) -> Place:
    if location.is_file() and not is_archive(location):
        return Place(location, open_storage(location.parent), location.name)
    return Place(location, open_storage(location))


def _recognise(place: Place) -> str:
    for name, format_class in sorted(FORMATS, key=lambda entry: entry[1].order):
        if format_class().recognises(place):
            if name == "images":
                _refuse_outer_directory(place)
            return name
    needed = f"a data set in one of the formats {', '.join(FORMATS.names())}"
    raise BadInput(f"{place.location}: no image found, needed {needed}", "check the path, or force --format")


def _refuse_outer_directory(place: Place) -> None:
    # One level too high, masks would silently be taken for images.
    for child in place.storage.children() if place.file is None else ():
        if child.endswith("/") and "JPEGImages/" in place.storage.children(child):
            inside = place.location / child.rstrip("/")
            raise BadInput(f"{place.location}: the data set lies deeper", f"give {inside}, or force --format images")


def _check(listing: Listing, where: str) -> None:
    if not listing.items:
        raise BadInput(f"{where}: an empty list, needed one image or more", "check the list or directory")
    identity, count = Counter(item.id for item in listing.items).most_common(1)[0]
    if count > 1:
        raise BadInput(f"{where}: the id {identity!r} comes {count} times", "ids are paths without suffix: keep one")
    for item in listing.items:
        safe_name(item.id, where)
    for name in listing.classes:
        if not name.isprintable():
            raise BadInput(f"{where}: the class name {name!r} has control characters", "rename the class")
