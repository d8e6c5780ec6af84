"""The segmentation protocol: mIoU over a whole set, at a fixed threshold and swept, with bootstrap intervals."""

from collections.abc import Sequence

import numpy as np

from xseg.errors import BadInput, NothingScored
from xseg.scores.bootstrap import bootstrap_mean_iou, interval
from xseg.scores.confusion import Counts, Ints, check_same_size, confusion_matrix, ignore_value
from xseg.scores.counts import CountTable, ImageCounts, count_table, curve_totals, mask_counts
from xseg.scores.overlap import Average, Floats, check_average, iou, mean_over_classes, over_union
from xseg.scores.result import Best, PerClass, SegmentationResult
from xseg.scores.sweep import SWEEP, Maps, order_maps, strongest, sweep_image


class SegmentationScore:
    """Collects images one by one; their order, and how they are split over shards, does not matter.

    Kept per image: a few KiB of counts (only classes it holds, every threshold), never pixels.

    Args:
        classes: foreground class names, ids 1..C.
        ignore: label of unknown pixels; default 255, or 65535 above 254 classes.
        threshold: the fixed background threshold for maps without background.
        thresholds: the sweep, increasing.
        average: "present" leaves classes out that are in neither truth nor prediction; "psa" adds 1e-10 to the
            union and counts them as 0, as the scripts of SEAM and MCTformer do.
    """

    def __init__(
        self,
        classes: Sequence[str],
        *,
        ignore: int | None = None,
        threshold: float = 0.2,
        thresholds: Sequence[float] = SWEEP,
        average: Average = "present",
    ) -> None:
        check_average(average)
        self.classes = tuple(classes)
        self.labels = len(self.classes) + 1
        if len({"background", *self.classes}) != self.labels:
            raise BadInput(f"class names are not different, or one is 'background': {', '.join(self.classes)}")
        self.ignore = ignore_value(len(self.classes)) if ignore is None else ignore
        self.threshold = float(threshold)
        self.sweep = tuple(sorted({float(t) for t in thresholds}))
        self.average = average
        # a fixed threshold off the sweep is counted along, but never a candidate for the best
        self._settings = tuple(sorted({*self.sweep, self.threshold}))
        self._swept: bool | None = None
        self._images: dict[str, ImageCounts] = {}
        self._missing: set[str] = set()
        self._confusion = np.zeros((self.labels, self.labels + 1), np.int64)

    def add_mask(self, prediction: Ints, truth: Ints, *, image: str) -> None:
        """Score a label map.

        Args:
            prediction: (H, W) class ids; unknown pixels count as misses of their true class, not as false positives.
            truth: (H, W) class ids, `ignore` where unknown.
            image: its id.

        Raises:
            BadInput: a mask of another size, a label out of range, or an image scored twice.
        """
        self._check_new(image, swept=False)
        confusion = confusion_matrix(prediction, truth, self.labels, self.ignore)
        self._add(image, mask_counts(confusion), confusion, swept=False)

    def add_maps(self, maps: Maps, class_id: Ints, truth: Ints, *, image: str) -> None:
        """Score heatmaps without background at every threshold; see `xseg.scores.sweep.sweep_image`.

        Args:
            maps: (K, H, W) floats in the unit of the thresholds (CAMs are scored normalised to a maximum of 1).
            class_id: (K,) ids 1..C.
            truth: (H, W) class ids, `ignore` where unknown.
            image: its id.

        Raises:
            BadInput: maps of another size, a class id or label out of range, values that are not numbers, or an
                image scored twice.
        """
        self._check_new(image, swept=True)
        swept = sweep_image(maps, class_id, truth, self._settings, self.labels, self.ignore)
        confusion = swept.confusion(self._settings.index(self.threshold), self.labels)
        self._add(image, swept.counts(self.labels), confusion, swept=True)

    def add_maps_with_background(self, maps: Maps, class_id: Ints, truth: Ints, *, image: str) -> None:
        """Score heatmaps of which one is the background (id 0): their argmax, ties to the lowest id.

        Raises:
            BadInput: as `add_maps`, or no map of class 0.
        """
        ordered, ids = order_maps(maps, class_id, 0, self.labels)
        check_same_size(ordered.shape[1:], truth.shape, "a heatmap")
        if not len(ids) or ids[0] != 0:
            raise BadInput("the heatmaps have no background channel (class id 0)", "score them at a threshold")
        self.add_mask(ids[strongest(ordered)[1]], truth, image=image)

    def add_missing(self, image: str) -> None:
        """Note an image of the split that has no prediction; it is counted, not scored."""
        self._missing.add(image)

    def merge(self, other: "SegmentationScore") -> None:
        """Take over the images of another shard.

        Raises:
            BadInput: an image that both scored.
            ValueError: other classes, thresholds or averaging.
        """
        for name in ("classes", "ignore", "_settings", "threshold", "sweep", "average"):
            if getattr(self, name) != getattr(other, name):
                raise ValueError(f"{name} differs: {getattr(other, name)}, needed {getattr(self, name)}")
        for image in other._images:
            self._check_new(image, swept=bool(other._swept))
        self._swept = other._swept if self._swept is None else self._swept
        self._images |= other._images
        self._missing |= other._missing
        self._confusion += other._confusion

    def table(self, threshold: float | None = None) -> CountTable:
        """Per-image counts at a threshold (default the fixed one), for intervals and paired differences."""
        setting = self._fixed if threshold is None or not self._swept else self._settings.index(threshold)
        return count_table(self._images, self.labels, setting)

    def curve(self) -> tuple[tuple[float, float], ...]:
        """(threshold, mIoU) of the sweep, NaN where nothing could be scored; empty unless maps were swept."""
        if not self._swept:
            return ()
        true_positive, predicted, truth = curve_totals(self._images, self.labels, len(self._settings))
        means = mean_over_classes(iou(true_positive, predicted, truth, self.average))
        return tuple((t, float(m)) for t, m in zip(self._settings, means, strict=True) if t in self.sweep)

    def best_threshold(self) -> tuple[float, float] | None:
        """(threshold, mIoU) where the sweep is highest, the lowest of equals; None if there is nothing to sweep."""
        curve = [point for point in self.curve() if not np.isnan(point[1])]
        return max(curve, key=lambda point: point[1], default=None)

    def result(self, *, replicates: int = 1000, seed: int = 0) -> SegmentationResult:
        """All scores of the images so far.

        Args:
            replicates: bootstrap sets; 0 for no interval.
            seed: of the bootstrap.

        Returns:
            The scores; the interval of `best` keeps the best threshold, it does not choose again in each set.

        Raises:
            BadInput: no image was scored.
        """
        if not self._images:
            raise NothingScored("no image was scored", "check that the predictions and the split share their ids")
        table = self.table()
        true_positive, predicted, truth = table.totals().T
        union = truth + predicted - true_positive
        per_class = iou(true_positive, predicted, truth, self.average)
        false_positive = over_union(predicted - true_positive, union, self.average)
        false_negative = over_union(truth - true_positive, union, self.average)
        return SegmentationResult(
            classes=self.classes,
            images=len(self._images),
            missing=len(self._missing),
            miou=_number(mean_over_classes(per_class)),
            interval=interval(bootstrap_mean_iou(table, replicates, seed, self.average)),
            per_class_iou=self._by_name(per_class),
            false_positive=self._by_name(false_positive),
            false_negative=self._by_name(false_negative),
            mean_false_positive=_number(mean_over_classes(false_positive)),
            mean_false_negative=_number(mean_over_classes(false_negative)),
            pixel_accuracy=_number(over_union(true_positive.sum(), truth.sum())),
            unknown=_number(over_union(self._confusion[:, -1].sum(), truth.sum())),
            background_threshold=self.threshold if self._swept else None,
            best=self._best(replicates, seed),
            sweep=tuple((t, _number(m)) for t, m in self.curve()),
            average=self.average,
            replicates=replicates,
            seed=seed,
            confusion=self._confusion.copy(),
        )

    @property
    def _fixed(self) -> int:
        return self._settings.index(self.threshold) if self._swept else 0

    def _best(self, replicates: int, seed: int) -> Best | None:
        best = self.best_threshold()
        if best is None:
            return None
        resampled = bootstrap_mean_iou(self.table(best[0]), replicates, seed, self.average)
        return Best(best[0], best[1], interval(resampled))

    def _by_name(self, values: Floats) -> PerClass:
        return {name: _number(value) for name, value in zip(("background", *self.classes), values, strict=True)}

    def _check_new(self, image: str, *, swept: bool) -> None:
        if image in self._images:
            raise BadInput(f"image {image} was scored twice", "give each image once")
        if self._swept is not None and self._swept != swept:
            raise BadInput("maps without background and masks in one run", "score them as two runs")

    def _add(self, image: str, counts: ImageCounts, confusion: Counts, *, swept: bool) -> None:
        self._swept = swept
        self._images[image] = counts
        self._confusion += confusion


def tune_threshold(score: SegmentationScore) -> float:
    """The background threshold with the highest mIoU on a tuning split, to be fixed before another split is scored.

    Raises:
        BadInput: the tuning split gave nothing to sweep.
    """
    best = score.best_threshold()
    if best is None:
        raise BadInput("no threshold can be tuned: no map without background and with known truth was scored")
    return best[0]


def _number(value: Floats | float) -> float | None:
    return None if np.isnan(value) else float(value)
