"""Pixel accuracy and mean IoU over a whole set, with bootstrap intervals over its images."""

from typing import Any

import numpy as np

from xseg.scores.bootstrap import draws, interval, pooled_accuracy, pooled_mean_iou
from xseg.scores.confusion import Counts
from xseg.scores.counts import CountTable, ImageCounts, count_table, mask_counts
from xseg.scores.overlap import Floats, iou


class PooledPixels:
    """Collects confusion matrices of images, in any order; an image is known by its id.

    Args:
        labels: number of class ids, background included.
    """

    def __init__(self, labels: int) -> None:
        self._labels = labels
        self._images: dict[str, ImageCounts] = {}

    def add(self, image: str, confusion: Counts) -> None:
        """One image: (L, L + 1) as `confusion_matrix` gives it."""
        self._images[image] = mask_counts(confusion)

    def table(self) -> CountTable:
        """Counts of every image."""
        return count_table(self._images, self._labels, 0)

    def accuracy(self, replicates: int, seed: int) -> dict[str, Any]:
        """`{pixel_accuracy, pixel_accuracy_interval}`: right pixels of all those of known truth, None without any."""
        table = self.table()
        return _named(
            "pixel_accuracy", [pooled_accuracy(table, weights) for weights in _weights(table, replicates, seed)]
        )

    def mean_iou(self, replicates: int, seed: int) -> dict[str, Any]:
        """`{miou, miou_interval}`: mean over the classes that occur in truth or prediction."""
        table = self.table()
        found = [pooled_mean_iou(table, weights, "present") for weights in _weights(table, replicates, seed)]
        return _named("miou", found)

    def per_class(self) -> list[float | None]:
        """IoU of every class id; None for one that occurs in neither truth nor prediction."""
        true_positive, predicted, truth = self.table().totals().T
        return [None if np.isnan(one) else float(one) for one in iou(true_positive, predicted, truth, "present")]


def _weights(table: CountTable, replicates: int, seed: int) -> list[Floats]:
    """The set as it is, then its resamples."""
    count = len(table.images)
    return [np.ones((1, count)), *draws(count, replicates if count else 0, seed)]


def _named(name: str, values: list[Floats]) -> dict[str, Any]:
    once, *resampled = values
    limits = interval(np.concatenate(resampled)) if resampled else None
    value = None if np.isnan(once[0]) else float(once[0])
    return {name: value, f"{name}_interval": None if limits is None else list(limits)}
