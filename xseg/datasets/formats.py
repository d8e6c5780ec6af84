"""What a data set format is, and the reading of lists, class names and csv tables that formats share.

A new format is one file with a class registered in `FORMATS`; nothing else has to change.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from xseg.datasets.index import Item
from xseg.datasets.storage import Storage
from xseg.errors import BadInput
from xseg.registry import Registry

BACKGROUND = "background"
CLASSES_FILE = "classes.txt"


@dataclass(frozen=True)
class Place:
    """What the user pointed at: `location`, the storage around it, and the file's name in there if it is one file."""

    location: Path
    storage: Storage
    file: str | None = None


@dataclass(frozen=True)
class Listing:
    """What a format found: class names and items, in work-list order."""

    classes: tuple[str, ...]
    items: tuple[Item, ...]


class Format(Protocol):
    """One way of laying out a data set. `order`: the lower, the earlier it is tried when none is forced."""

    order: ClassVar[int]

    def recognises(self, place: Place) -> bool:
        """Whether this is certainly that format; must be cheap."""

    def splits(self, place: Place) -> list[str]:
        """Names of its lists, sorted."""

    def read(self, place: Place, split: str | None) -> Listing:
        """The images of one of its `splits`, or all for None.

        Raises:
            BadInput: the place is not laid out that way; says what is missing.
        """


FORMATS: Registry[Format] = Registry("dataset format", group="xseg.datasets")


def read_text(storage: Storage, name: str) -> str:
    """A UTF-8 file, with or without byte order mark.

    Raises:
        BadInput: other bytes.
    """
    try:
        return storage.read(name).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{storage.location}: {name} is not UTF-8 text", "save it as UTF-8") from error


def read_lines(storage: Storage, name: str) -> list[str]:
    """Lines without surrounding blanks, empty ones left out."""
    return [line for line in map(str.strip, read_text(storage, name).splitlines()) if line]


def read_classes(storage: Storage) -> tuple[str, ...] | None:
    """Names in classes.txt (a leading `background` is dropped), None without that file.

    Raises:
        BadInput: it is empty, or a name comes twice.
    """
    if not storage.exists(CLASSES_FILE):
        return None
    names = read_lines(storage, CLASSES_FILE)
    if names and names[0].lower() == BACKGROUND:
        names = names[1:]
    if not names or len(set(names)) < len(names):
        found = "no class" if not names else f"{next(n for n in names if names.count(n) > 1)!r} twice"
        raise BadInput(f"{storage.location}: {CLASSES_FILE} lists {found}", "one class name a line, each once")
    return tuple(names)


def read_table(storage: Storage, name: str, needed: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a csv file by lower-case column name.

    Raises:
        BadInput: a needed column is missing, or a row has another number of fields than the header.
    """
    where = f"{storage.location}: {name}"
    reader = csv.reader(io.StringIO(read_text(storage, name), newline=""), strict=True)
    try:
        header = [column.strip().lower() for column in next(reader, [])]
        if absent := [column for column in needed if column not in header]:
            found = ",".join(header) or "nothing"
            raise BadInput(f"{where} needs the columns {','.join(needed)}, found {found}", f"add {', '.join(absent)}")
        rows = []
        for fields in reader:
            if fields and len(fields) != len(header):
                hint = "put quotes around a field that holds a comma"
                raise BadInput(f"{where} line {reader.line_num}: {len(fields)} fields, needed {len(header)}", hint)
            if fields:
                rows.append(dict(zip(header, map(str.strip, fields), strict=True)))
    except csv.Error as error:
        raise BadInput(f"{where} line {reader.line_num}: not csv ({error})", "check its quotes") from error
    return rows


def split_names(fields: Sequence[str], classes: Iterable[str] | None) -> list[list[str]]:
    """Class names of each field of a `classes` column.

    If any field holds `;` the whole column is separated by `;`, else by blanks; so names with blanks are written
    `traffic light;person`, or `traffic light;` alone. A field that is a known class name as a whole stays whole.
    """
    known = set(classes or ())
    separator = ";" if any(";" in field for field in fields) else None
    return [
        [field] if field in known else [name for name in map(str.strip, field.split(separator)) if name]
        for field in fields
    ]


def label_ids(names: Iterable[str], classes: Sequence[str], where: str) -> tuple[int, ...]:
    """Ids 1..C of class names, ascending, each once.

    Raises:
        BadInput: a name is not one of the classes.
    """
    index = {name: number for number, name in enumerate(classes, 1)}
    names = set(names) - {BACKGROUND}
    if strange := sorted(names - index.keys()):
        hint = f"add it to {CLASSES_FILE}; in a csv, names with blanks are separated by ';'"
        raise BadInput(f"{where}: unknown class {strange[0]!r}", hint)
    return tuple(sorted(index[name] for name in names))


def names_in(groups: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """All class names that occur, sorted, without background."""
    return tuple(sorted({name for group in groups for name in group} - {BACKGROUND}))
