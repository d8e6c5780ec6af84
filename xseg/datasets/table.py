"""A csv with `path,classes` and, if wanted, `split` and `mask`; paths are relative to the csv."""

from dataclasses import dataclass
from typing import ClassVar

from xseg.datasets.formats import (
    FORMATS,
    Listing,
    Place,
    label_ids,
    names_in,
    read_classes,
    read_table,
    split_names,
)
from xseg.datasets.index import Item
from xseg.datasets.names import safe_name, without_suffix
from xseg.errors import BadInput

COLUMNS = ("path", "classes")


@FORMATS.register("csv")
@dataclass(frozen=True)
class Table:
    """The csv itself, or the directory or archive with one such csv at its top. An empty `classes` means none there.

    Names come from classes.txt beside it, else those that occur, sorted.
    """

    order: ClassVar[int] = 20

    def recognises(self, place: Place) -> bool:
        """See `Format.recognises`."""
        return (place.file or "").lower().endswith(".csv") or (place.file is None and bool(_tables(place)))

    def splits(self, place: Place) -> list[str]:
        """See `Format.splits`."""
        return sorted({row["split"] for row in _rows(place) if row.get("split")})

    def read(self, place: Place, split: str | None) -> Listing:
        """See `Format.read`."""
        rows = _rows(place)
        where = f"{place.storage.location}: {_table(place)}"
        listed = read_classes(place.storage)
        groups = split_names([row["classes"] for row in rows], listed)
        classes = listed or names_in(groups)
        items = []
        for row, names in zip(rows, groups, strict=True):
            path = safe_name(row["path"], where)
            mask = safe_name(row["mask"], where) if row.get("mask") else None
            if split is None or row.get("split") == split:
                items.append(Item(without_suffix(path), path, label_ids(names, classes, f"{where}: {path}"), mask))
        return Listing(classes, tuple(items))


def _rows(place: Place) -> list[dict[str, str]]:
    return read_table(place.storage, _table(place), COLUMNS)


def _tables(place: Place) -> list[str]:
    found = []
    for name in place.storage.children():
        if name.lower().endswith(".csv"):
            header = place.storage.read(name)[:4096].decode("utf-8-sig", "replace").lower().partition("\n")[0]
            columns = {column.strip().strip('"') for column in header.split(",")}
            found += [name] if columns >= set(COLUMNS) else []
    return found


def _table(place: Place) -> str:
    if place.file is not None:
        return place.file
    found = _tables(place)
    if len(found) != 1:
        what = f"{len(found)} ({', '.join(found)})" if found else "none"
        needed = f"one .csv with the columns {','.join(COLUMNS)}"
        raise BadInput(f"{place.location}: needed {needed}, found {what}", "give the csv itself")
    return found[0]
