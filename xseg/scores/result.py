"""What the segmentation protocol returns."""

from dataclasses import dataclass

from xseg.scores.confusion import Counts
from xseg.scores.overlap import Average

PerClass = dict[str, float | None]
Interval = tuple[float, float] | None


@dataclass(frozen=True)
class Best:
    """The threshold that scores best on the very images it is scored on: an oracle, to be told apart."""

    background_threshold: float
    miou: float
    interval: Interval


@dataclass(frozen=True)
class SegmentationResult:
    """Scores of one run. Fractions in [0, 1]; None where there was nothing to score.

    Attributes:
        classes: foreground names in order of id.
        images: images scored. missing: images of the split that were not there to be scored.
        miou: mean over the classes that are present (see `average`). interval: its 95 % interval over images.
        per_class_iou: TP / (TP + FP + FN) by name, "background" first.
        false_positive, false_negative: FP / (TP + FP + FN) and FN / (TP + FP + FN) by name, as SEAM's evaluation
            script has them: with the IoU they add up to 1. mean_false_positive, mean_false_negative: over classes.
        pixel_accuracy: pixels rightly labelled, of those of known truth. unknown: pixels left unlabelled, of the same.
        background_threshold: the fixed threshold; None for predictions with a background of their own.
        best: the best of the sweep, None likewise. sweep: (threshold, mIoU) for every swept threshold.
        average: how classes that are absent count. confusion: (L, L + 1) int64, rows true, last column unknown.
    """

    classes: tuple[str, ...]
    images: int
    missing: int
    miou: float | None
    interval: Interval
    per_class_iou: PerClass
    false_positive: PerClass
    false_negative: PerClass
    mean_false_positive: float | None
    mean_false_negative: float | None
    pixel_accuracy: float | None
    unknown: float | None
    background_threshold: float | None
    best: Best | None
    sweep: tuple[tuple[float, float | None], ...]
    average: Average
    replicates: int
    seed: int
    confusion: Counts
