"""The VOC test of attribution-guided factorization: maps of the predicted classes as one soft segmentation.

Gur, Ali and Wolf 2021 (arXiv:2012.02166), as their scripts intend it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from xseg.errors import NothingScored
from xseg.scores.average_precision import grouped_average_precision
from xseg.scores.confusion import Counts, Ints, confusion_matrix, ignore_value
from xseg.scores.image_means import ImageMeans
from xseg.scores.overlap import Floats
from xseg.scores.pooled import PooledPixels
from xseg.scores.sweep import Maps, foreground_maps

UNPREDICTED = -0.1
"""What the channel of a class without a map holds, below the background's 0."""


def channels(maps: Maps, signed: bool) -> Floats:
    """Maps as the protocol wants them: (K,H,W) float64 in [0,1].

    From an unsigned map its mean is subtracted; what is left is divided by its maximum, and negative values become 0. A
    map without a positive value becomes 0: dividing it by a negative maximum, as published, would turn it around.

    Args:
        maps: (K,H,W) floats, finite.
        signed: whether their zero means something.
    """
    values = maps.astype(np.float64)
    if not signed:
        values -= values.mean(axis=(1, 2), keepdims=True)
    top = values.max(axis=(1, 2), keepdims=True, initial=-np.inf)
    return (values / np.where(top > 0, top, np.inf)).clip(0)


def soft_average_precision(values: Floats, class_id: Ints, truth: Ints, classes: int, ignore: int = 255) -> float:
    """Average precision of the softmax over all channels against the one-hot truth, over (C+1) x pixels scores.

    The background's channel is 0 and that of a class without a map -0.1. Those are equal to each other in every
    pixel, so that one group stands for them all, and K + 2 groups per pixel are ranked instead of C + 1 scores. Scores
    are ranked in float32, as published: the last bits of float64 would tell apart what only the order of a sum does.

    Args:
        values: (K,H,W) as `channels` makes them.
        class_id: (K,) ids 1..C, all different.
        truth: (H,W) class ids, `ignore` where unknown.
        classes: C.
        ignore: the label that means unknown.

    Returns:
        In [0,1]; NaN without a known pixel.
    """
    known = truth != ignore
    here = truth[known]
    raised = np.exp(values[:, known])
    absent = classes - len(raised)
    total = raised.sum(axis=0) + 1 + absent * np.exp(UNPREDICTED)
    scores = np.concatenate([[np.ones(len(here))], raised, [np.full(len(here), np.exp(UNPREDICTED))]]) / total
    own = here == np.concatenate([[0], class_id])[:, None]
    positives = np.concatenate([own, [~own.any(axis=0)]])
    totals = np.ones(positives.shape, np.int64)
    totals[-1] = absent
    return grouped_average_precision(scores.astype(np.float32).ravel(), positives.ravel(), totals.ravel())


def argmax_labels(values: Floats, class_id: Ints, dtype: npt.DTypeLike = np.uint8) -> Ints:
    """Class ids (H,W) of the highest channel; the background wins where no map is above 0, then the lowest id.

    Args:
        values: (K,H,W) as `channels` makes them.
        class_id: (K,) ascending.
        dtype: of the result.
    """
    background = np.zeros((1, *values.shape[1:]))
    winner = np.concatenate([background, values]).argmax(axis=0)
    return np.append(0, class_id)[winner].astype(dtype)


class MultilabelScore:
    """Collects images one by one, in any order.

    Args:
        classes: foreground class names, ids 1..C.
        signed: whether the zero of the maps means something.
    """

    def __init__(self, classes: Sequence[str], signed: bool) -> None:
        self.classes, self.signed = tuple(classes), signed
        self._labels, self._ignore = len(self.classes) + 1, ignore_value(len(self.classes))
        self._pixels, self._floor_pixels = PooledPixels(self._labels), PooledPixels(self._labels)
        self._means, self._floor = ImageMeans(("ap",)), ImageMeans(("ap",))
        self._counts = dict.fromkeys(("maps", "images_without_prediction", "maps_without_positive_value"), 0)

    def add(self, maps: Maps, class_id: Ints, truth: Ints, *, image: str) -> None:
        """One image; classes without a map count as not predicted.

        Args:
            maps: (K,H,W) floats.
            class_id: (K,) ids; a map of the background (0) is left out.
            truth: (H,W) class ids, 255 (65535 above 254 classes) where unknown.
            image: its id.

        Raises:
            BadInput: sizes differ, an id or label out of range, values that are not finite, or an image scored twice.
        """
        maps, ids = foreground_maps(maps, class_id, truth, self._labels, self._ignore)
        values = channels(maps, self.signed)
        found = soft_average_precision(values, ids, truth, len(self.classes), self._ignore)
        self._means.add(image, {"ap": None if np.isnan(found) else found})
        self._pixels.add(image, self._confusion(values, ids, truth))
        nothing = self._confusion(values[:0], ids[:0], truth)
        self._floor_pixels.add(image, nothing)
        self._floor.add(image, {"ap": _all_background(nothing, len(self.classes))})
        self._counts["maps"] += len(ids)
        self._counts["images_without_prediction"] += not len(ids)
        self._counts["maps_without_positive_value"] += int((values.max(axis=(1, 2), initial=0) == 0).sum())

    def _confusion(self, values: Floats, ids: Ints, truth: Ints) -> Counts:
        dtype = np.uint8 if self._ignore == 255 else np.uint16
        return confusion_matrix(argmax_labels(values, ids, dtype), truth, self._labels, self._ignore)

    def result(self, *, replicates: int = 1000, seed: int = 0) -> dict[str, Any]:
        """The scores with their 95 % intervals and those of predicting nothing, JSON-able.

        Raises:
            BadInput: no image was scored.
        """
        if not len(self._means):
            raise NothingScored("no image was scored", "check that the heatmaps and the split share their ids")
        floor = {**self._floor_pixels.accuracy(0, seed), **self._floor.summary(0, seed)}
        return {
            "images": len(self._means),
            **self._pixels.accuracy(replicates, seed),
            **self._means.summary(replicates, seed),
            "all_background": {name: floor[name] for name in ("pixel_accuracy", "ap")},
            **self._counts,
        }


def _all_background(confusion: Counts, classes: int) -> float | None:
    """Average precision without any map, from two thresholds: a * a + (1 - a) / (C + 1), a the background's share."""
    known = confusion.sum()
    if not known:
        return None
    share = float(confusion[0].sum() / known)
    return share * share + (1 - share) / (classes + 1)
