"""What `export` writes of each image: palette PNG, a PNG for each class, NumPy arrays, psa's dictionaries, or COCO."""

import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from xseg.artifacts.record import Record
from xseg.datasets.index import unknown_id
from xseg.errors import UsageError
from xseg.exchange.coco import annotation
from xseg.exchange.label_map import label_map_of
from xseg.exchange.png import encode_mask
from xseg.runs.photographs import heatmaps_of

File = tuple[str, bytes]
"""What follows an image's id in the name of its file, and the file."""


class Format(ABC):
    """One way to write.

    Args:
        classes: names of the artifact's classes.
        threshold: background score for heatmaps without background; None: there is none.
    """

    needs_labels: ClassVar[bool] = True  #: heatmaps are decided, pixel by pixel

    def __init__(self, classes: Sequence[str], threshold: float | None) -> None:
        self.classes, self._threshold = classes, threshold

    def label_map(self, record: Record) -> np.ndarray:
        """(H,W) class ids.

        Raises:
            UsageError: heatmaps without background and no threshold.
        """
        found = label_map_of(record, len(self.classes), self._threshold)
        if found is None:
            raise UsageError(
                "these are heatmaps without a background, so that their pixels have no class yet",
                "give --threshold 0.2, make masks with xseg crf HEATMAPS --masks, or --format npy, psa or classes",
            )
        return found

    @abstractmethod
    def files(self, record: Record) -> Iterator[File]:
        """The files of an image."""

    def last(self) -> Iterator[File]:
        """What is written once all images are there; the names are whole."""
        return iter(())


class Palette(Format):
    """Class ids as a PNG in the colours of VOC."""

    def files(self, record: Record) -> Iterator[File]:
        """One."""
        yield ".png", encode_mask(self.label_map(record))


class PerClass(Format):
    """A grey PNG for each class: 255 where it is, or a heatmap from 0 to 255 (signed ones: 0 is 128)."""

    needs_labels = False

    def files(self, record: Record) -> Iterator[File]:
        """One for each class of the image."""
        if "maps" not in record.arrays:
            found = self.label_map(record)
            for number in np.unique(found[(found > 0) & (found <= len(self.classes))]).tolist():
                yield f"/{self.classes[number - 1]}.png", _grey((found == number) * 255.0)
            return
        maps, class_id = heatmaps_of(record)
        for one, number in zip(maps.numpy(), class_id.tolist(), strict=True):
            name = {0: "background", -1: "all classes"}.get(number) or self.classes[number - 1]
            yield f"/{name}.png", _grey(128 + 127 * one if (one < 0).any() else 255 * one)


class Numbers(Format):
    """`.npy`: class ids (H,W), or the heatmaps of all classes (C,H,W), those without a map 0; read back by `import`."""

    needs_labels = False

    def files(self, record: Record) -> Iterator[File]:
        """One."""
        if "maps" not in record.arrays:
            yield ".npy", _saved(self.label_map(record))
            return
        maps, class_id = heatmaps_of(record)
        first = 0 if (class_id == 0).any() else 1
        every = np.zeros((len(self.classes) + 1 - first, *record.size), np.float32)
        if (class_id < 0).any():
            raise UsageError("these heatmaps are of no class", "export them with --format classes")
        every[class_id.numpy() - first] = maps.numpy()
        yield ".npy", _saved(every)


class Psa(Format):
    """`.npy`: a dictionary from class numbers, counted from 0, to heatmaps (H,W), as psa saves its CAMs."""

    needs_labels = False

    def files(self, record: Record) -> Iterator[File]:
        """One."""
        if "maps" not in record.arrays:
            raise UsageError("psa keeps heatmaps in dictionaries, and these are masks", "use --format png, as psa does")
        maps, class_id = heatmaps_of(record)
        shift = 0 if (class_id == 0).any() else 1  # with a background, that is number 0
        named = {number - shift: one for number, one in zip(class_id.tolist(), maps.numpy(), strict=True)}
        yield ".npy", _saved(np.array(named, dtype=object))


class Coco(Format):
    """One `annotations.json` with the run lengths of each class in each image; unknown pixels are in none."""

    def __init__(self, classes: Sequence[str], threshold: float | None) -> None:
        super().__init__(classes, threshold)
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def files(self, record: Record) -> Iterator[File]:
        """None before the end."""
        found = self.label_map(record)
        height, width = record.size
        image: dict[str, Any] = {
            "id": len(self._images) + 1,
            "file_name": record.path,
            "height": height,
            "width": width,
        }
        self._images.append(image)
        for number in np.unique(found[(found > 0) & (found != unknown_id(len(self.classes)))]).tolist():
            place = len(self._annotations) + 1
            self._annotations.append(annotation(found == number, place, image["id"], number))
        return iter(())

    def last(self) -> Iterator[File]:
        """The file."""
        categories = [{"id": place + 1, "name": name} for place, name in enumerate(self.classes)]
        whole = {"images": self._images, "categories": categories, "annotations": self._annotations}
        yield "annotations.json", json.dumps(whole, ensure_ascii=False).encode()


FORMATS: dict[str, type[Format]] = {"png": Palette, "classes": PerClass, "npy": Numbers, "psa": Psa, "coco": Coco}


def _grey(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.rint(values).clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
