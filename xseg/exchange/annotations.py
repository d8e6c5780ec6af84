"""Masks of a COCO file: which annotations belong to which image of a data set, and what they paint."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from xseg.datasets.formats import BACKGROUND
from xseg.datasets.index import UNKNOWN, Dataset, unknown_id
from xseg.errors import BadInput, InputMissing
from xseg.exchange.polygon import inside
from xseg.exchange.run_lengths import filled, run_lengths, unpacked
from xseg.exchange.wanted import Wanted

Runs = npt.NDArray[np.int64]


@dataclass
class _Listed:
    """What the file says of an image."""

    sides: tuple[Any, Any] = (None, None)
    annotations: list[dict[str, Any]] = field(default_factory=list)


class Annotations:
    """Annotations by image of a data set.

    Args:
        data: the file: a list of results, or an object with `images`, `annotations` and `categories`.
        name: what to call it in messages.
        dataset: the images and classes that are wanted; annotations of other images are passed over.

    Attributes:
        classes: names of the data set's classes; where it has none, of the categories in order of their ids.

    Raises:
        BadInput: not such a file, a category that is no class of the data set, or a name that several images bear.
        InputMissing: no image of the data set is in it.
    """

    def __init__(self, data: bytes, name: str, dataset: Dataset) -> None:
        images, annotations, categories = _tables(data, name)
        wanted = Wanted(dataset, name)
        self._name, self.classes = name, dataset.classes or _names(categories or ())
        self._numbers = _numbers(categories, self.classes)
        self._complete = images is not None
        self._listed: dict[str, _Listed] = {}
        places: dict[object, str | None] = {}
        for image in images or ():
            places[image["id"]] = place = wanted.of(image.get("file_name"), image["id"])
            if place is not None:
                self._listed[place] = _Listed((image.get("height"), image.get("width")))
        for one in annotations:
            number = one["image_id"]
            if images is None and number not in places:
                places[number] = wanted.of(None, number)
            if (place := places.get(number)) is not None:
                self._listed.setdefault(place, _Listed()).annotations.append(one)
        if not self._listed:
            found = f"{name}: no image of {dataset.location} is in it, as {dataset.items[0].path}"
            raise InputMissing(found, "images are found by file_name, or by an id that is the file's name or number")
        self._refuse_strange(categories, f"{dataset.location}")

    def bare(self, ids: Sequence[str]) -> int:
        """How many of these images have no annotation in a file that does not list its images."""
        return 0 if self._complete else sum(one not in self._listed for one in ids)

    def label_map(self, image_id: str, size: tuple[int, int]) -> npt.NDArray[Any]:
        """Class ids of an image's pixels.

        Where annotations overlap, the one of the smaller area is seen, the later of equal ones; crowds are unknown
        where nothing else is.

        Args:
            image_id: of the data set.
            size: height and width of the photograph.

        Returns:
            (H,W) uint8, 0 background, 255 unknown (uint16 and 65535 where there are more than 254 classes).

        Raises:
            InputMissing: the file lists its images, and this is none of them.
            BadInput: another size, or an annotation that cannot be read.
        """
        if self._complete and image_id not in self._listed:
            raise InputMissing(f"{image_id} is not in {self._name}", "add it, or take the image out of the list")
        listed = self._listed.get(image_id, _Listed())
        if listed.sides != (None, None) and listed.sides != size:
            raise self._size(listed.sides, size, self._name)
        unknown = unknown_id(len(self.classes))
        layers = []
        for one in listed.annotations:
            runs = self._runs(one, size)
            crowd = bool(one.get("iscrowd"))
            layers.append((not crowd, -int(runs[1::2].sum()), unknown if crowd else self._number(one), runs))
        seen = np.zeros(size, np.uint8 if unknown == UNKNOWN else np.uint16)
        for _, _, number, runs in sorted(layers, key=lambda layer: layer[:2]):
            seen[filled(runs, size)] = number
        return seen

    def _number(self, one: dict[str, Any]) -> int | None:
        return self._numbers.get(one["category_id"])

    def _refuse_strange(self, categories: list[dict[str, Any]] | None, location: str) -> None:
        used = [one for listed in self._listed.values() for one in listed.annotations if not one.get("iscrowd")]
        strange = sorted({str(one["category_id"]) for one in used if self._number(one) is None})
        if not strange:
            return
        names = {str(one["id"]): repr(one["name"]) for one in categories or ()}
        told = ", ".join(names.get(one, f"number {one}") for one in strange[:5]) + ", ..." * (len(strange) > 5)
        hint = "take their annotations out, or add the names to classes.txt"
        if categories is None:
            hint = f"without categories, numbers count the classes of the data set, 1 to {len(self.classes)}"
        raise BadInput(f"{self._name}: {told}: no such class in {location}", hint)

    def _runs(self, one: dict[str, Any], size: tuple[int, int]) -> Runs:
        """Run lengths of an annotation, down the columns of an image of this size."""
        where = f"{self._name}: annotation {one['id']}" if "id" in one else f"{self._name}: an annotation"
        found = one.get("segmentation")
        if isinstance(found, list) and found:
            polygons = [_corners(corners, size, where) for corners in found]
            return np.array(run_lengths(np.logical_or.reduce([inside(one, size) for one in polygons])))
        if not isinstance(found, dict):
            raise BadInput(f"{where} has no segmentation", "run lengths or polygons are needed, boxes are no masks")
        if found.get("size") != list(size):
            raise self._size(found.get("size"), size, where)
        return _counts(found.get("counts"), size, where)

    def _size(self, found: object, size: tuple[int, int], where: str) -> BadInput:
        told = " x ".join(map(str, found)) if isinstance(found, list | tuple) else "unknown"
        hint = "masks must lie pixel on pixel over the EXIF-rotated image"
        return BadInput(f"{where}: size {told}, the image has {size[0]} x {size[1]}", hint)


def _tables(data: bytes, name: str) -> tuple[list[Any] | None, list[Any], list[Any] | None]:
    """Images (None: not listed), annotations and categories (None: not listed)."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:  # bytes that are not UTF-8 included
        raise BadInput(f"{name}: not JSON ({error})", "write it again") from error
    if isinstance(found, list):
        found = {"annotations": found}
    if not isinstance(found, dict) or "annotations" not in found:
        raise BadInput(f"{name}: has no annotations", "needed: COCO's images, annotations and categories, or results")
    return (
        _rows(found.get("images"), {"id": (int, str)}, f"{name}: images"),
        _rows(found["annotations"], {"image_id": (int, str), "category_id": (int,)}, f"{name}: annotations") or [],
        _rows(found.get("categories"), {"id": (int,), "name": (str,)}, f"{name}: categories"),
    )


def _rows(found: object, needed: dict[str, tuple[type, ...]], where: str) -> list[Any] | None:
    if found is None:
        return None
    if not isinstance(found, list):
        raise BadInput(f"{where}: not a list", "write it as COCO does")
    for place, row in enumerate(found):
        wrong = [key for key, kinds in needed.items() if not isinstance(row, dict) or type(row.get(key)) not in kinds]
        if wrong:
            raise BadInput(f"{where}: number {place} has no {wrong[0]} that can be read", "write it as COCO does")
    return found


def _names(categories: Iterable[dict[str, Any]]) -> tuple[str, ...]:
    ordered = sorted(categories, key=lambda one: one["id"])
    return tuple(dict.fromkeys(one["name"] for one in ordered if one["name"] != BACKGROUND))


def _numbers(categories: list[dict[str, Any]] | None, classes: Sequence[str]) -> dict[int, int]:
    """Class ids by category id."""
    if categories is None:
        return {number: number for number in range(1, len(classes) + 1)}
    ids = {BACKGROUND: 0} | {name: number for number, name in enumerate(classes, 1)}
    return {one["id"]: ids[one["name"]] for one in categories if one["name"] in ids}


def _counts(found: object, size: tuple[int, int], where: str) -> Runs:
    try:
        runs = unpacked(found) if isinstance(found, str) else np.array(found)
    except ValueError as error:
        raise BadInput(f"{where}: {error}", "write its counts again") from error
    pixels = size[0] * size[1]
    if runs.ndim != 1 or runs.dtype.kind != "i" or (runs < 0).any() or runs.max(initial=0) > pixels:
        raise BadInput(f"{where}: its counts are no run lengths", "write them as COCO does, as text or numbers")
    if runs.sum() != pixels:
        raise BadInput(f"{where}: its runs have {runs.sum()} pixels, the image {pixels}", "write its counts again")
    return runs


def _corners(found: object, size: tuple[int, int], where: str) -> npt.NDArray[np.float64]:
    try:
        flat = np.array(found, np.float64)
    except (ValueError, TypeError) as error:
        raise BadInput(f"{where}: a polygon that is no list of numbers", "write it as x, y, x, y, ...") from error
    if flat.ndim != 1 or len(flat) < 6 or len(flat) % 2:
        raise BadInput(f"{where}: a polygon of {flat.size} numbers", "needed: x, y of three corners or more")
    corners, sides = flat.reshape(-1, 2), np.array(size[::-1])
    if not ((-sides <= corners) & (corners <= 2 * sides)).all():
        raise BadInput(f"{where}: a polygon that leaves the image by more than its size", "corners are in pixels: x, y")
    return corners
