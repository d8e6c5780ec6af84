"""ImageNet-Segmentation: one map of an image, cut into foreground and background.

The protocol of Gur, Ali and Wolf 2021 (arXiv:2012.02166) and of Chefer, Gur and Wolf 2021 (arXiv:2012.09838), as their
scripts compute it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from xseg.errors import BadInput, NothingScored
from xseg.scores.average_precision import average_precision, hard_average_precision
from xseg.scores.confusion import Counts, Ints, check_same_size, confusion_matrix
from xseg.scores.image_means import ImageMeans
from xseg.scores.pooled import PooledPixels

Preset = Literal["agf", "chefer"]
Rule = Literal["positive", "above-mean"]
Map = npt.NDArray[np.floating]
MEASURES = ("ap_hard", "ap_soft", "f1")
_UNKNOWN = 255


def rule_of(preset: Preset, signed: bool) -> Rule:
    """What makes a pixel foreground: a positive value for signed maps under `agf`, else one above the map's mean."""
    return "positive" if preset == "agf" and signed else "above-mean"


@dataclass(frozen=True)
class Cut:
    """One image.

    Attributes:
        confusion: (2,3) int64 as `confusion_matrix` gives it.
        measures: `ap_hard`, `ap_soft` and `f1`; None where the image has none.
        constant: the map is the same everywhere.
        finite: the map holds numbers only.
    """

    confusion: Counts
    measures: dict[str, float | None]
    constant: bool
    finite: bool


def cut(values: Map, truth: Ints, rule: Rule) -> Cut:
    """Score one map.

    As published, a map with a value that is not finite is taken for 0 everywhere, and one that is the same everywhere
    has no foreground; its min-max is 0/0, and both channels of the soft scores are 0 then.

    Args:
        values: (H,W) floats.
        truth: (H,W) 0 background, 1 foreground, 255 unknown.
        rule: which values are foreground.

    Raises:
        BadInput: sizes differ, or another label in the truth.
    """
    check_same_size(values.shape, truth.shape, "a heatmap")
    finite = bool(np.isfinite(values).all())
    values = values.astype(np.float32) if finite else np.zeros(values.shape, np.float32)
    # in float64 the mean of equal values is that value, so that a constant map has nothing above it
    threshold = 0.0 if rule == "positive" else values.mean(dtype=np.float64)
    confusion = confusion_matrix((values > threshold).astype(np.uint8), truth, 2, _UNKNOWN)
    low, high = values.min(initial=np.inf), values.max(initial=-np.inf)
    measures = {
        "ap_hard": hard_average_precision(int(confusion[:, :2].trace()), int(confusion.sum())),
        "ap_soft": _soft_average_precision(values, truth),
        "f1": _f1(confusion),
    }
    known = {name: None if np.isnan(value) else value for name, value in measures.items()}
    return Cut(confusion, known, bool(low >= high), finite)


def _soft_average_precision(values: Map, truth: Ints) -> float:
    """Of [1 - R, R] against the one-hot [background, foreground], concatenated; R is the min-max in float32."""
    known = truth != _UNKNOWN
    low, high = values.min(initial=np.inf), values.max(initial=-np.inf)
    foreground = truth[known] == 1
    one_hot = np.concatenate([~foreground, foreground])
    if not low < high:
        return average_precision(np.zeros(len(one_hot), np.float32), one_hot)
    share = ((values - low) / (high - low))[known]
    return average_precision(np.concatenate([1 - share, share]), one_hot)


def _f1(confusion: Counts) -> float:
    """2 TP / (2 TP + FP + FN) of the foreground; NaN where neither truth nor prediction has any."""
    true_positive, predicted, truth = confusion[1, 1], confusion[:, 1].sum(), confusion[1].sum()
    return float(2 * true_positive / (predicted + truth)) if predicted + truth else float("nan")


def foreground_truth(mask: Ints, label: int | None, ignore: int) -> Ints:
    """(H,W) uint8: 1 where the mask has `label` (None: any class), 255 where it has `ignore`, else 0."""
    truth = (mask > 0 if label is None else mask == label).astype(np.uint8)
    truth[mask == ignore] = _UNKNOWN
    return truth


def one_map(maps: Map, class_id: Ints, label: int | None) -> tuple[Map | None, bool]:
    """The one map of an image that is scored; a background channel is none.

    Args:
        maps: (K,H,W).
        class_id: (K,) ids, -1 for a map of no class.
        label: the image's class, which chooses among several maps; None where it is not known.

    Returns:
        (H,W), or None without a map; and whether it explains another class than `label`.

    Raises:
        BadInput: several maps and nothing to choose by.
    """
    maps, class_id = maps[class_id != 0], class_id[class_id != 0]
    wanted = np.flatnonzero(class_id == label) if label is not None else np.zeros(0, np.intp)
    if len(wanted) == 1:
        return maps[wanted[0]], False
    if len(maps) > 1:
        why = "none of them of the image's class" if label is not None else "the image's class is not known"
        raise BadInput(f"{len(maps)} maps, and {why}", "explain one class per image: --targets top1")
    if not len(maps):
        return None, False
    return maps[0], label is not None and bool(class_id[0] > 0)


class ForegroundScore:
    """Collects images one by one, in any order.

    Args:
        rule: which values are foreground.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._pixels, self._means = PooledPixels(2), ImageMeans(MEASURES)
        self._counts = dict.fromkeys(
            ("constant_maps", "maps_not_finite", "images_without_map", "maps_of_another_class"), 0
        )

    def add(self, maps: Map, class_id: Ints, truth: Ints, *, label: int | None = None, image: str) -> None:
        """One image; without a map it is all background.

        Args:
            maps: (K,H,W) floats.
            class_id: (K,) ids, see `one_map`.
            truth: (H,W) 0 background, 1 foreground, 255 unknown.
            label: the image's class if it is known.
            image: its id.

        Raises:
            BadInput: see `cut` and `one_map`, or an image scored twice.
        """
        values, other = one_map(maps, class_id, label)
        found = cut(np.zeros(truth.shape, np.float32) if values is None else values, truth, self.rule)
        self._means.add(image, found.measures)
        self._pixels.add(image, found.confusion)
        self._counts["images_without_map"] += values is None
        self._counts["maps_of_another_class"] += other
        self._counts["maps_not_finite"] += not found.finite
        self._counts["constant_maps"] += found.finite and found.constant and values is not None

    def result(self, *, replicates: int = 1000, seed: int = 0) -> dict[str, Any]:
        """The scores with their 95 % intervals, JSON-able; None where there was nothing to score.

        Raises:
            BadInput: no image was scored.
        """
        if not len(self._means):
            raise NothingScored("no image was scored", "check that the heatmaps and the split share their ids")
        ious: Sequence[float | None] = self._pixels.per_class()
        return {
            "images": len(self._means),
            **self._pixels.accuracy(replicates, seed),
            **self._means.summary(replicates, seed),
            **self._pixels.mean_iou(replicates, seed),
            "iou": dict(zip(("background", "foreground"), ious, strict=True)),
            **self._counts,
        }
