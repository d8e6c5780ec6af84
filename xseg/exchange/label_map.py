"""What is seen in a record: one class per pixel, whatever kind of artifact it came from."""

import numpy as np

from xseg.artifacts.record import Record
from xseg.datasets.index import unknown_id
from xseg.runs.photographs import heatmaps_of
from xseg.scores.sweep import order_maps, strongest


def label_map_of(record: Record, classes: int, threshold: float | None = None) -> np.ndarray | None:
    """Classes of a record's pixels: its mask or confident labels, or the strongest of its heatmaps.

    Args:
        record: of masks, pseudolabels or heatmaps.
        classes: C of the artifact.
        threshold: background score in [0, 1] for heatmaps without background; those with one are compared with it.

    Returns:
        (H, W) uint8 ids, 0 background, 255 unknown (uint16 and 65535 where C > 254); None for heatmaps without
        background when no threshold is given.

    Raises:
        BadInput: class ids beyond C, or values that are not numbers.
    """
    for name in ("masks", "labels"):
        if name in record.arrays:
            return record.arrays[name]
    maps, class_id = heatmaps_of(record)
    dtype = np.uint8 if unknown_id(classes) == 255 else np.uint16
    if (class_id == 0).any():
        ordered, ids = order_maps(maps.numpy(), class_id.numpy(), 0, classes + 1)
        return ids[strongest(ordered)[1]].astype(dtype)
    if threshold is None:
        return None
    if not len(class_id):
        return np.zeros(record.size, dtype)
    ordered, ids = order_maps(maps.numpy(), class_id.numpy(), 1, classes + 1)
    score, place = strongest(ordered)
    return np.where(score > threshold, ids[place], 0).astype(dtype)
