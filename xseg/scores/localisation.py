"""The localisation protocol: how much of a map lies inside the object, and whether its maximum does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from xseg.errors import BadInput, NothingScored
from xseg.scores.confusion import Ints, check_same_size, ignore_value, label_codes
from xseg.scores.image_means import ImageMeans, mean_of
from xseg.scores.overlap import Floats
from xseg.scores.sweep import Maps, order_maps, thresholds_below

Mask = npt.NDArray[np.bool_]
Values = npt.NDArray[np.float32]

SWEEP: tuple[float, ...] = tuple(k / 10 for k in range(1, 10))
MEASURES = ("energy", "pointing")
TRUTH_COUNTS = ("maps", "empty_maps", "maps_of_absent_classes")
REFERENCE_COUNTS = ("maps", "empty_maps", "maps_without_reference", "empty_references")


def energy_inside(positive: Values, mask: Mask, known: Mask | None = None) -> float | None:
    """Share of a map inside a mask: sum(A * M) / sum(A), in float64.

    With the true mask of the class the energy-based pointing game (Wang et al. 2020, Score-CAM, arXiv:1910.01279); with
    another classifier's thresholded map the localisation score of U-Net classifiers (paper 002).

    Args:
        positive: (H,W) float32 >= 0; multiplying it by a positive number changes nothing.
        mask: (H,W) where the object is.
        known: (H,W) the pixels that count; None: all.

    Returns:
        A fraction; None for a map that is 0 everywhere.
    """
    known = np.ones_like(mask) if known is None else known
    inside = float(positive[mask & known].sum(dtype=np.float64))
    total = inside + float(positive[~mask & known].sum(dtype=np.float64))
    return inside / total if total > 0 else None


def pointing(positive: Values, mask: Mask, known: Mask) -> float | None:
    """Whether a map's maximum lies inside a mask (the pointing game of Zhang et al. 2018, arXiv:1608.00507).

    Args:
        positive: (H,W) float32 >= 0.
        mask: (H,W) where the maximum should be.
        known: (H,W) the pixels among which it is looked for.

    Returns:
        1 or 0; where several pixels have the maximum, the fraction of them that is inside, which is what a draw among
        them gives on average. None for a map that is 0 everywhere.
    """
    values = positive[known]
    best = values.max(initial=0)
    return float(mask[known][values == best].mean()) if best > 0 else None


def near(mask: Mask, tolerance: int) -> Mask:
    """The pixels at most `tolerance` pixels (Euclidean, centre to centre) from one of the mask.

    A disc is a stack of rows: every row of the mask is widened as the disc is wide there, and moved up or down.

    Args:
        mask: (H,W).
        tolerance: in pixels; 0 gives the mask itself.
    """
    if not tolerance:
        return mask
    height, width = mask.shape
    counted = np.zeros((height, width + 1), np.int32)
    np.cumsum(mask, axis=1, out=counted[:, 1:])
    column = np.arange(width)
    out = np.zeros_like(mask)
    for down in range(min(tolerance, height - 1) + 1):
        reach = int((tolerance**2 - down**2) ** 0.5)
        widened = counted[:, np.minimum(column + reach + 1, width)] > counted[:, np.maximum(column - reach, 0)]
        out[down:] |= widened[: height - down]
        out[: height - down] |= widened[down:]
    return out


@dataclass(frozen=True)
class InTruth:
    """One image against its mask.

    Attributes:
        measures: means over the maps that count, by name; None without one.
        floor: the same of a uniform map in place of each of them.
        counts: by name: maps that count, maps without positive values, maps of classes that the truth does not hold.
    """

    measures: dict[str, float | None]
    floor: dict[str, float | None]
    counts: dict[str, int]


def locate_in_truth(maps: Maps, class_id: Ints, truth: Ints, classes: int, tolerance: int = 0) -> InTruth:
    """Compare an image's maps with the true masks of their classes.

    Args:
        maps: (K,H,W) floats, finite; negative values count as 0.
        class_id: (K,) ids 1..classes, all different; a map of the background (0) is left out.
        truth: (H,W) class ids, 0 the background, 255 (65535 above 254 classes) where unknown: left out.
        classes: number of foreground classes.
        tolerance: pixels by which a maximum may miss the mask.

    Raises:
        BadInput: sizes differ, an id or label out of range, or values that are not finite.
    """
    positive, ids = _positive(maps, class_id, classes)
    check_same_size(positive.shape[1:], truth.shape, "a heatmap")
    ignore = ignore_value(classes)
    label_codes(truth, classes + 1, ignore, "the ground truth")
    known = truth != ignore
    uniform = np.ones(truth.shape, np.float32)
    rows: list[tuple[float | None, ...]] = []
    counts = dict.fromkeys(TRUTH_COUNTS, 0)
    for one, name in zip(positive, ids, strict=True):
        mask = truth == name
        if not mask.any():
            counts["maps_of_absent_classes"] += 1
        elif not one[known].any():
            counts["empty_maps"] += 1
        else:
            counts["maps"] += 1
            target = near(mask, tolerance)
            shares = [energy_inside(values, mask, known) for values in (one, uniform)]
            hits = [pointing(values, target, known) for values in (one, uniform)]
            rows.append((*shares, *hits))
    energy, area, hit, near_area = (mean_of(column) for column in np.array(rows, np.float64).reshape(-1, 4).T)
    return InTruth({"energy": energy, "pointing": hit}, {"energy": area, "pointing": near_area}, counts)


@dataclass(frozen=True)
class InReference:
    """One image against the maps of another classifier, at S thresholds.

    Attributes:
        score: (S,) means over the maps that count; NaN without one.
        floor: (S,) the same of a uniform map in place of each of them: the area of the reference.
        counts: by name: maps that count, maps without positive values, maps whose class the reference does not
            explain, and maps whose reference has no positive values.
    """

    score: Floats
    floor: Floats
    counts: dict[str, int]


def locate_in_reference(
    maps: Maps,
    class_id: Ints,
    reference: Maps,
    reference_id: Ints,
    classes: int,
    thresholds: Sequence[float] = SWEEP,
) -> InReference:
    """Score maps by paper 002's s = sum(A * M) / sum(A), M a thresholded map of the same class from another classifier.

    The reference's positive part is divided by its maximum; M is where it is above the threshold, compared in float32.

    Args:
        maps: (K,H,W) floats, finite; negative values count as 0.
        class_id: (K,) ids 1..classes, all different; a map of the background (0) is left out.
        reference: (J,H,W) floats, finite.
        reference_id: (J,) as `class_id`.
        classes: number of foreground classes.
        thresholds: S increasing fractions in [0, 1): no mask is empty.

    Raises:
        BadInput: sizes differ, an id out of range, or values that are not finite.
    """
    positive, ids = _positive(maps, class_id, classes)
    others, other_ids = _positive(reference, reference_id, classes)
    check_same_size(positive.shape[1:], others.shape[1:], "a heatmap")
    rows: list[Floats] = []
    counts = dict.fromkeys(REFERENCE_COUNTS, 0)
    for one, name in zip(positive, ids, strict=True):
        found = np.flatnonzero(other_ids == name)
        if not len(found):
            counts["maps_without_reference"] += 1
        elif not others[found[0]].any():
            counts["empty_references"] += 1
        elif not one.any():
            counts["empty_maps"] += 1
        else:
            counts["maps"] += 1
            rows.append(_swept(one, others[found[0]], tuple(thresholds)))
    if not rows:
        nothing = np.full(len(thresholds), np.nan)
        return InReference(nothing, nothing, counts)
    score, floor = np.mean(rows, axis=0)
    return InReference(score, floor, counts)


def _swept(positive: Values, reference: Values, thresholds: tuple[float, ...]) -> Floats:
    """Shares of a map, and of a uniform one, inside a reference at every threshold: (2,S), from one histogram."""
    level = thresholds_below(reference / reference.max(), thresholds).ravel()
    bins = len(thresholds) + 1
    histograms = [np.bincount(level, weights, minlength=bins) for weights in (positive.ravel(), None)]
    # above threshold number s: everything that lies above more than s thresholds
    above = np.array(histograms, np.float64)[:, ::-1].cumsum(axis=1)[:, ::-1]
    return above[:, 1:] / above[:, :1]


def _positive(maps: Maps, class_id: Ints, classes: int) -> tuple[Values, Ints]:
    """The positive parts of the maps of foreground classes, and their ids."""
    ordered, ids = order_maps(maps, class_id, 0, classes + 1)
    if not np.isfinite(ordered).all():
        raise BadInput("a heatmap holds values that are not finite", "make it again: xseg explain")
    return ordered[ids > 0].clip(0), ids[ids > 0]


class _Counted:
    """Counts summed over images."""

    def __init__(self, names: Sequence[str]) -> None:
        self._counts = dict.fromkeys(names, 0)

    def _count(self, counts: Mapping[str, int]) -> None:
        for name, count in counts.items():
            self._counts[name] += count


class TruthScore(_Counted):
    """Collects what `locate_in_truth` found, image by image, in any order.

    Args:
        tolerance: that was used.
    """

    def __init__(self, tolerance: int = 0) -> None:
        super().__init__(TRUTH_COUNTS)
        self._tolerance = tolerance
        self._means, self._floors = ImageMeans(MEASURES), ImageMeans(MEASURES)

    def add(self, image: str, found: InTruth) -> None:
        """One image.

        Raises:
            BadInput: it was scored before.
        """
        if found.counts["maps"]:
            self._means.add(image, found.measures)
            self._floors.add(image, found.floor)
        self._count(found.counts)

    def result(self, *, replicates: int = 1000, seed: int = 0) -> dict[str, Any]:
        """Counts, means over images with their 95 % intervals, and the floor, JSON-able.

        Raises:
            BadInput: no map has both positive values and a class that is in its image's mask.
        """
        if not len(self._means):
            raise NothingScored(
                "no map could be scored against the ground truth"
                f" ({self._counts['empty_maps']} without positive values,"
                f" {self._counts['maps_of_absent_classes']} of classes that their mask does not hold)",
                "explain the classes that are in the images (--targets labels), by a method with positive values",
            )
        floor = self._floors.summary(0, seed)
        return {
            "images": len(self._means),
            **self._counts,
            "tolerance": self._tolerance,
            **self._means.summary(replicates, seed),
            "uniform_map": {name: floor[name] for name in MEASURES},
        }


class ReferenceScore(_Counted):
    """Collects what `locate_in_reference` found, image by image, in any order.

    Args:
        threshold: the one whose score is named; the sweep stands beside it.
    """

    def __init__(self, threshold: float) -> None:
        super().__init__(REFERENCE_COUNTS)
        self.threshold = threshold
        self.thresholds = tuple(sorted({threshold, *SWEEP}))
        self._names = [f"{value}" for value in self.thresholds]
        self._means, self._floors = ImageMeans(self._names), ImageMeans(self._names)

    def add(self, image: str, found: InReference) -> None:
        """One image.

        Raises:
            BadInput: it was scored before.
        """
        if found.counts["maps"]:
            self._means.add(image, dict(zip(self._names, found.score.tolist(), strict=True)))
            self._floors.add(image, dict(zip(self._names, found.floor.tolist(), strict=True)))
        self._count(found.counts)

    def result(self, *, replicates: int = 1000, seed: int = 0) -> dict[str, Any]:
        """Counts, the mean over images with its 95 % interval, the floor, and all of it at every threshold, JSON-able.

        Raises:
            BadInput: no map has both positive values and a reference.
        """
        if not len(self._means):
            raise NothingScored(
                "no map could be scored against the reference"
                f" ({self._counts['empty_maps']} without positive values,"
                f" {self._counts['maps_without_reference']} of classes that it does not explain,"
                f" {self._counts['empty_references']} where it has no positive values)",
                "explain the same images and classes with both, such as --targets labels",
            )
        means, floors = self._means.summary(replicates, seed), self._floors.summary(0, seed)
        sweep = [
            {
                "threshold": threshold,
                "score": means[name],
                "score_interval": means[f"{name}_interval"],
                "uniform_map": {"score": floors[name]},
            }
            for threshold, name in zip(self.thresholds, self._names, strict=True)
        ]
        named = sweep[self.thresholds.index(self.threshold)]
        return {"images": len(self._means), **self._counts, **named, "sweep": sweep}
