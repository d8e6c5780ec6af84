"""Bootstrap intervals: resample images, pool their counts, score again (Efron's percentile interval)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from xseg.errors import BadInput
from xseg.scores.counts import CountTable
from xseg.scores.overlap import Average, Floats, iou, mean_over_classes
from xseg.seeding import generator

CHUNK = 64


@dataclass(frozen=True)
class PairedDifference:
    """mIoU of one run minus another's on the same images, with its 95 % interval."""

    difference: float
    interval: tuple[float, float]
    images: int


def draws(images: int, replicates: int, seed: int) -> Iterator[Floats]:
    """How often each image is drawn, in chunks of (<= 64, images): `images` draws with replacement per row."""
    rng = generator(seed, "bootstrap", images)
    for start in range(0, replicates, CHUNK):
        rows = min(CHUNK, replicates - start)
        picked = rng.integers(0, images, size=(rows, images))
        yield np.stack([np.bincount(row, minlength=images) for row in picked]).astype(np.float64)


def pooled_counts(table: CountTable, weights: Floats) -> Floats:
    """True positives, predicted and true pixels of the set with each image counted `weights` times.

    Args:
        table: counts of N images.
        weights: (B, N) numbers of repetitions.

    Returns:
        (B, L, 3) float64. Sums are whole numbers below 2^53, so exact.
    """
    sums = np.zeros((len(weights), table.labels, 3))
    ends = np.searchsorted(table.class_id, np.arange(table.labels + 1))
    for label in range(table.labels):
        rows = slice(ends[label], ends[label + 1])
        sums[:, label] = weights[:, table.image[rows]] @ table.counts[rows].astype(np.float64)
    return sums


def pooled_mean_iou(table: CountTable, weights: Floats, average: Average) -> Floats:
    """Mean IoU of the set with each image counted `weights` times: (B,) float64, NaN where no class is left.

    Args:
        table: counts of N images.
        weights: (B, N) numbers of repetitions.
        average: see `xseg.scores.overlap.over_union`.
    """
    sums = pooled_counts(table, weights)
    return mean_over_classes(iou(sums[..., 0], sums[..., 1], sums[..., 2], average))


def pooled_accuracy(table: CountTable, weights: Floats) -> Floats:
    """Share of the pixels of known truth that are right, likewise: (B,) float64, NaN where no truth is known."""
    right, _, known = np.moveaxis(pooled_counts(table, weights).sum(axis=1), -1, 0)
    return np.divide(right, known, out=np.full(known.shape, np.nan), where=known > 0)


def bootstrap_mean_iou(table: CountTable, replicates: int, seed: int, average: Average = "present") -> Floats:
    """Mean IoU of `replicates` resampled sets: (replicates,) float64."""
    chunks = [pooled_mean_iou(table, weights, average) for weights in draws(len(table.images), replicates, seed)]
    return np.concatenate(chunks) if chunks else np.zeros(0)


def interval(values: Floats, level: float = 0.95) -> tuple[float, float] | None:
    """The central `level` of the values that are numbers; None without any."""
    values = values[~np.isnan(values)]
    if not values.size:
        return None
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_difference(
    first: CountTable, second: CountTable, *, replicates: int = 1000, seed: int = 0, average: Average = "present"
) -> PairedDifference:
    """`first` minus `second` in mIoU, both resampled with the same images in every replicate.

    Pairing removes what the runs share, that some images are hard: the interval is narrower than that of two
    independent runs, and the difference is significant at 5 % where it leaves out 0.

    Raises:
        BadInput: the runs did not score the same images with the same truth, or scored no known pixel.
    """
    if first.images != second.images or first.labels != second.labels:
        raise BadInput("the two runs were not scored on the same images and classes", "score both on one split")
    if (first.totals()[:, 2] != second.totals()[:, 2]).any():
        raise BadInput("the two runs were scored against different masks", "score both on one split")
    once = np.ones((1, len(first.images)))
    point = pooled_mean_iou(first, once, average) - pooled_mean_iou(second, once, average)
    values = bootstrap_mean_iou(first, replicates, seed, average) - bootstrap_mean_iou(
        second, replicates, seed, average
    )
    limits = interval(values)
    if limits is None or np.isnan(point[0]):
        raise BadInput("no pixel of known truth was scored", "check the masks of the split")
    return PairedDifference(float(point[0]), limits, len(first.images))
