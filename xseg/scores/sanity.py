"""The sanity protocol: do heatmaps change when the weights, or the labels they were learned from, are randomised?"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from xseg.scores.image_means import ImageMeans, mean_of
from xseg.scores.map_comparison import MEASURES, SeenMap, compare

Compared = list[dict[str, float | None]]
"""The measures of every map of an image."""


def compare_all(originals: Sequence[SeenMap | None], maps: np.ndarray) -> Compared:
    """Compare each of K maps with its original.

    Args:
        originals: K maps, seen before.
        maps: (K,h,w) raw, of the same grid.
    """
    return [compare(first, SeenMap.of(second)) for first, second in zip(originals, maps, strict=True)]


def stored_difference(stored: np.ndarray, again: np.ndarray) -> float:
    """Largest difference between raw maps (K,h,w) and the same maps made again, as a fraction of each map's maximum.

    Infinite for other shapes or values that are not finite.
    """
    if stored.shape != again.shape or not (np.isfinite(stored).all() and np.isfinite(again).all()):
        return float("inf")
    top = np.maximum(np.abs(stored), np.abs(again)).max(axis=(1, 2), initial=0)
    apart = np.abs(stored - again).max(axis=(1, 2), initial=0)
    return float(np.divide(apart, top, out=np.zeros_like(apart), where=top > 0).max(initial=0))


class StageScore:
    """The comparisons at one stage of the randomisation.

    Args:
        stage: its name. redrawn: number of weights drawn anew; None: the whole classifier was trained anew.
    """

    def __init__(self, stage: str, redrawn: int | None) -> None:
        self.stage, self.redrawn = stage, redrawn
        self._means = ImageMeans(MEASURES)
        self._undefined = dict.fromkeys(MEASURES, 0)

    def add(self, image: str, compared: Compared) -> None:
        """The maps of one image: their means count, and how many have none."""
        values = {name: [one[name] for one in compared] for name in MEASURES}
        self._means.add(image, {name: mean_of(np.array(found, np.float64)) for name, found in values.items()})
        for name, found in values.items():
            self._undefined[name] += found.count(None)

    def result(self, replicates: int, seed: int) -> dict[str, Any]:
        """Means over images with their intervals, JSON-able; `undefined`: maps without the measure."""
        return {
            "stage": self.stage,
            "redrawn": self.redrawn,
            **self._means.summary(replicates, seed),
            "undefined": dict(self._undefined),
        }
