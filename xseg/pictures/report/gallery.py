"""The images of a report: what each run has of them, every picture kept once, and how well each is segmented."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xseg.artifacts.record import Record
from xseg.datasets.index import unknown_id
from xseg.exchange.label_map import label_map_of
from xseg.pictures.palette import colours
from xseg.pictures.report.layers import heatmap_layer, mask_layer
from xseg.runs.photographs import values_of
from xseg.scores.overlap import Floats, mean_over_classes

HEATMAPS = 6  # of one image and run that are kept, the strongest
_DIGITS = 4


@dataclass(frozen=True)
class View:
    """What a run says about one image.

    Attributes:
        heatmaps: (class id, PNG) of the strongest maps, strongest first; -1 for a map of no class.
        mask: PNG of its label map; None where it has none.
        classes: ids of the classes in the label map.
    """

    heatmaps: list[tuple[int, bytes]]
    mask: bytes | None
    classes: frozenset[int]


def view_of(record: Record, classes: int, threshold: float, longest: int) -> View:
    """What is drawn of a record of heatmaps, masks or pseudolabels.

    Args:
        record: of the run.
        classes: C of the artifact.
        threshold: background score for heatmaps without background.
        longest: pixels of the long side of label maps; heatmaps, which are smooth, have half of it.

    Raises:
        BadInput: class ids beyond C.
    """
    heatmaps: list[tuple[int, bytes]] = []
    agnostic = False
    if "maps" in record.arrays:
        class_id, scale = record.arrays["maps/class_id"], record.arrays["maps/scale"]
        agnostic = bool((class_id < 0).any())
        values = values_of(record).numpy()
        ordered = [k for k in np.argsort(-scale, kind="stable").tolist() if class_id[k] != 0]
        heatmaps = [(int(class_id[k]), heatmap_layer(values[k], longest // 2)) for k in ordered[:HEATMAPS]]
    mask = None if agnostic else label_map_of(record, classes, threshold)
    if mask is None:
        return View(heatmaps, None, frozenset())
    return View(heatmaps, mask_layer(mask, longest), foreground(mask, classes))


def foreground(mask: np.ndarray, classes: int) -> frozenset[int]:
    """Ids of the classes in a label map (H,W), without background and unknown."""
    return frozenset(np.unique(mask).tolist()) - {0, unknown_id(classes)}


@dataclass
class Picture:
    """One image of the gallery.

    Attributes:
        id: its name.
        photograph: a JPEG.
        size: height and width of the image itself.
        source: sha256 of its file.
        labels: ids of its image-level labels; None where they are not known.
        truth: PNG of the true mask; None without one.
        true_classes: ids in the true mask.
        views: by number of the run.
        ious: (L,) of each scored run, background first, NaN for absent classes.
    """

    id: str
    photograph: bytes
    size: tuple[int, int]
    source: str
    labels: frozenset[int] | None
    truth: bytes | None = None
    true_classes: frozenset[int] = frozenset()
    views: dict[int, View] = field(default_factory=dict)
    ious: dict[int, Floats] = field(default_factory=dict)

    @property
    def classes(self) -> frozenset[int]:
        """What it is found by: its labels, what is true and what any run says; if that is nothing, its heatmaps."""
        known = (self.labels or frozenset()) | self.true_classes
        known = known.union(*(view.classes for view in self.views.values()))
        mapped = {class_id for view in self.views.values() for class_id, _ in view.heatmaps}
        return known or frozenset(mapped - {-1})


def labels_of(record: Record) -> frozenset[int] | None:
    """Ids of the image-level labels of a record; None where they are not known."""
    if (record.labels > 1).any() or not len(record.labels):
        return None
    return frozenset((np.flatnonzero(record.labels) + 1).tolist())


class _Store:
    """Data URIs, each kept once."""

    def __init__(self) -> None:
        self.uris: dict[str, int] = {}

    def add(self, data: bytes | None) -> int | None:
        if data is None:
            return None
        kind = "jpeg" if data.startswith(b"\xff\xd8") else "png"
        uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        return self.uris.setdefault(uri, len(self.uris))


def gallery_json(classes: Sequence[str], runs: Sequence[str], pictures: Sequence[Picture]) -> dict[str, Any]:
    """The gallery as its page's program reads it, in this order of images.

    Returns:
        `classes` with `colours` (background first), `runs`, `pictures` (data URIs) and `images`, which name a picture
        by its place among them.
    """
    store = _Store()
    images = [_image(picture, len(runs), store) for picture in pictures]
    palette = colours(np.arange(len(classes) + 1)).tolist()
    return {
        "classes": list(classes),
        "colours": ["#{:02x}{:02x}{:02x}".format(*colour) for colour in palette],
        "runs": list(runs),
        "images": images,
        "pictures": list(store.uris),
    }


def _image(picture: Picture, runs: int, store: _Store) -> dict[str, Any]:
    height, width = picture.size
    return {
        "id": picture.id,
        "width": width,
        "height": height,
        "photograph": store.add(picture.photograph),
        "truth": store.add(picture.truth),
        "classes": sorted(picture.classes),
        "runs": [_view(picture, number, store) for number in range(runs)],
    }


def _view(picture: Picture, run: int, store: _Store) -> dict[str, Any] | None:
    view = picture.views.get(run)
    if view is None:
        return None
    found: dict[str, Any] = {
        "heatmaps": [[class_id, store.add(data)] for class_id, data in view.heatmaps],
        "mask": store.add(view.mask),
    }
    ious = picture.ious.get(run)
    if ious is not None:
        mean = mean_over_classes(ious)
        found["iou"] = None if np.isnan(mean) else round(float(mean), _DIGITS)
        found["ious"] = [[int(k), round(float(ious[k]), _DIGITS)] for k in np.flatnonzero(~np.isnan(ious))]
    return found
