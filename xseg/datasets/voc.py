"""PASCAL VOC layout: JPEGImages/, SegmentationClass/, ImageSets/Segmentation/SPLIT.txt, labels in XML or labels.csv."""

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import ClassVar
from xml.parsers import expat

from xseg.datasets.formats import (
    FORMATS,
    Listing,
    Place,
    label_ids,
    names_in,
    read_classes,
    read_lines,
    read_table,
    split_names,
)
from xseg.datasets.index import Item
from xseg.datasets.names import is_image, safe_name, without_suffix
from xseg.datasets.storage import Storage
from xseg.errors import BadInput

IMAGES, MASKS, ANNOTATIONS, LABELS = "JPEGImages", "SegmentationClass", "Annotations", "labels.csv"
LISTS = ("ImageSets/Segmentation", "ImageSets/Main")
_MAX_XML = 16 << 20


@FORMATS.register("voc")
@dataclass(frozen=True)
class Voc:
    """VOC: the id is the stem. `labels.csv` (`id,classes`) goes before Annotations/*.xml.

    Objects marked difficult or truncated count as present, as in psa and irn. Without classes.txt the names are
    those that occur, sorted.
    """

    order: ClassVar[int] = 10

    def recognises(self, place: Place) -> bool:
        """See `Format.recognises`."""
        return place.file is None and f"{IMAGES}/" in place.storage.children()

    def splits(self, place: Place) -> list[str]:
        """See `Format.splits`."""
        return sorted(_lists(place.storage))

    def read(self, place: Place, split: str | None) -> Listing:
        """See `Format.read`."""
        storage = place.storage
        images = _by_stem(storage, IMAGES)
        listed: dict[str, str] = {}
        if not self.recognises(place):
            raise BadInput(f"{place.location}: --format voc needs {IMAGES}/", "give the directory that holds it")
        if split is None:
            ids = sorted(images)
        else:
            ids, listed = _read_list(storage, _lists(storage)[split])
        masks = _by_stem(storage, MASKS) | listed
        names = _names_from_csv(storage)
        if names is None:
            names = _names_from_xml(storage, ids)
        classes = read_classes(storage)
        if classes is None:
            every = names if storage.exists(LABELS) else _names_from_xml(storage, list(_by_stem(storage, ANNOTATIONS)))
            classes = names_in(every.values())
        items = (
            Item(
                id=stem,
                path=images.get(stem, f"{IMAGES}/{stem}.jpg"),
                labels=label_ids(names[stem], classes, f"{place.location}: {stem}") if stem in names else None,
                mask=masks.get(stem),
            )
            for stem in ids
        )
        return Listing(classes, tuple(items))


def _by_stem(storage: Storage, directory: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for child in storage.children(directory):
        if not is_image(child) and not child.endswith(".xml"):
            continue
        stem = PurePosixPath(child).stem
        if stem in found:
            raise BadInput(f"{storage.location}: {found[stem]} and {directory}/{child} share an id", "keep one")
        found[stem] = f"{directory}/{child}"
    return found


def _lists(storage: Storage) -> dict[str, str]:
    found: dict[str, str] = {}
    for directory in reversed(LISTS):
        names = (child for child in storage.children(directory) if child.endswith(".txt"))
        found |= {name.removesuffix(".txt"): f"{directory}/{name}" for name in names}
    return found


def _read_list(storage: Storage, name: str) -> tuple[list[str], dict[str, str]]:
    """Ids in order, and masks where the list names them: lines `ID` or `/JPEGImages/ID.jpg /DIRECTORY/ID.png`."""
    where = f"{storage.location}: {name}"
    ids, masks = [], {}
    for line in read_lines(storage, name):
        first, *rest = line.split()
        path = safe_name(first.lstrip("/"), where)
        stem = PurePosixPath(without_suffix(path)).name if "/" in first else path
        if rest and "/" not in rest[0]:
            raise BadInput(f"{where}: found {line!r}, needed one id a line", "lists of one class are no splits")
        ids.append(stem)
        if rest:
            masks[stem] = safe_name(rest[0].lstrip("/"), where)
    return ids, masks


def _names_from_csv(storage: Storage) -> dict[str, list[str]] | None:
    if not storage.exists(LABELS):
        return None
    rows = read_table(storage, LABELS, ("id", "classes"))
    groups = split_names([row["classes"] for row in rows], read_classes(storage))
    names: dict[str, list[str]] = {}
    for row, group in zip(rows, groups, strict=True):
        if row["id"] in names:
            raise BadInput(f"{storage.location}: {LABELS} has two rows for {row['id']!r}", "keep one row for each id")
        names[row["id"]] = group
    return names


def _names_from_xml(storage: Storage, stems: list[str]) -> dict[str, list[str]]:
    paths = {stem: f"{ANNOTATIONS}/{stem}.xml" for stem in stems}
    return {stem: object_names(storage.read(path), path) for stem, path in paths.items() if storage.exists(path)}


def object_names(data: bytes, name: str) -> list[str]:
    """Class names of the objects in one annotation; parts of objects (heads, hands) do not count.

    Raises:
        BadInput: not XML, or with a document type, which could name entities that grow or read other files.
    """
    hint = "restore it, or list the labels in labels.csv (id,classes)"
    if len(data) > _MAX_XML:
        raise BadInput(f"{name}: {len(data)} bytes, an annotation has at most {_MAX_XML}", hint)

    def refuse(*_: object) -> None:
        raise BadInput(f"{name}: a document type, needed a plain annotation", hint)

    guard = expat.ParserCreate()
    guard.StartDoctypeDeclHandler = refuse  # entities can only be declared there
    try:
        guard.Parse(data, True)
        root = ElementTree.fromstring(data)
    except (expat.ExpatError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise BadInput(f"{name}: not XML ({error})", hint) from error
    names = [(element.findtext("name") or "").strip() for element in root.iter("object")]
    if not all(names):
        raise BadInput(f"{name}: an object without a name", hint)
    return names
