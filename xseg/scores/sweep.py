"""Heatmaps without background, scored at every background threshold in one pass."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xseg.errors import BadInput
from xseg.scores.confusion import Counts, Ints, check_same_size, label_codes
from xseg.scores.counts import ImageCounts, compact
from xseg.shapes import check_shapes

Maps = npt.NDArray[np.floating]
SWEEP: tuple[float, ...] = tuple(k / 100 for k in range(100))
"""The thresholds 0.00, 0.01 ... 0.99. SEAM and MCTformer stop at 0.59; nothing is lost by going on."""


@dataclass(frozen=True)
class SweptImage:
    """One image at S thresholds: `cumulative` (G, K, S) counts pixels of true label g given to class k.

    Attributes:
        true_label: (G,) the labels its truth holds.
        class_id: (K,) the classes of its maps.
        cumulative: (G, K, S) int64 pixels predicted as foreground.
        truth: (G,) int64 pixels of each true label.
    """

    true_label: Ints
    class_id: Ints
    cumulative: Counts
    truth: Counts

    def confusion(self, setting: int, labels: int) -> Counts:
        """The (labels, labels + 1) confusion matrix at one threshold; its last column is 0."""
        out = np.zeros((labels, labels + 1), np.int64)
        foreground = self.cumulative[:, :, setting]
        out[np.ix_(self.true_label, self.class_id)] = foreground
        out[self.true_label, 0] = self.truth - foreground.sum(axis=1)
        return out

    def counts(self, labels: int) -> ImageCounts:
        """True positives, predicted and true pixels per class at every threshold."""
        settings = self.cumulative.shape[2]
        true_positive = np.zeros((settings, labels), np.int64)
        predicted = np.zeros((settings, labels), np.int64)
        truth = np.zeros(labels, np.int64)
        truth[self.true_label] = self.truth
        predicted[:, self.class_id] = self.cumulative.sum(axis=0).T
        predicted[:, 0] = self.truth.sum() - predicted.sum(axis=1)
        rows, columns = np.nonzero(self.true_label[:, None] == self.class_id[None])
        true_positive[:, self.class_id[columns]] = self.cumulative[rows, columns].T
        true_positive[:, 0] = truth[0] - self.cumulative[self.true_label == 0].sum(axis=(0, 1))
        return compact(np.arange(labels), true_positive, predicted, truth)


def foreground_maps(
    maps: Maps, class_id: Ints, truth: Ints, labels: int, ignore: int
) -> tuple[npt.NDArray[np.float32], Ints]:
    """The maps (K',H,W) of an image's classes and their ids (K',), in order of id, that fit its truth.

    Args:
        maps: (K,H,W) floats.
        class_id: (K,) ids; a map of the background (0) is left out.
        truth: (H,W) class ids, `ignore` where unknown.
        labels: number of classes, the background included.
        ignore: the value of unknown pixels.

    Raises:
        BadInput: sizes differ, an id or label out of range, or values that are not finite.
    """
    maps, ids = order_maps(maps, class_id, 0, labels)
    check_same_size(maps.shape[1:], truth.shape, "a heatmap")
    label_codes(truth, labels, ignore, "the ground truth")
    if not np.isfinite(maps).all():
        raise BadInput("a heatmap holds values that are not finite", "make it again: xseg explain")
    return maps[ids > 0], ids[ids > 0]


def order_maps(maps: Maps, class_id: Ints, first: int, labels: int) -> tuple[npt.NDArray[np.float32], Ints]:
    """Maps as float32 in order of class id, so that ties fall the same way however they were stored.

    Args:
        maps: (K, H, W) floats.
        class_id: (K,) class ids.
        first: lowest id allowed: 1 for maps without background, 0 with.
        labels: number of class ids, background included.

    Raises:
        BadInput: an id out of range, such as a class-agnostic map (-1).
        ValueError: shapes that do not fit, maps that are not floats, or two maps of one class.
    """
    check_shapes(maps=(maps, "K H W"), class_id=(class_id, "K"))
    if not np.issubdtype(maps.dtype, np.floating):
        raise ValueError(f"maps has dtype {maps.dtype}, needed floats")
    class_id = np.asarray(class_id)
    outside = class_id[(class_id < first) | (class_id >= labels)]
    if outside.size:
        hint = "class-agnostic maps have no class to score" if outside[0] < 0 else "check the class list"
        raise BadInput(f"a heatmap of class id {outside[0]}, needed {first}..{labels - 1}", hint)
    if len(np.unique(class_id)) < len(class_id):
        raise ValueError(f"class_id is {class_id.tolist()}, needed different ids")
    order = np.argsort(class_id)
    if (order[1:] < order[:-1]).any():
        maps, class_id = maps[order], class_id[order]
    return maps.astype(np.float32, copy=False), class_id.astype(np.intp)


def strongest(maps: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.intp]]:
    """The highest value at each pixel and the first map that has it; (H, W) each, from (K, H, W), K >= 1.

    Raises:
        BadInput: a value that is not a number.
    """
    if np.isnan(maps.max(initial=-np.inf)):
        raise BadInput("a heatmap holds values that are not numbers", "make it again: xseg explain")
    best = maps[0].copy()
    winner = np.zeros(best.shape, np.intp)
    for k in range(1, len(maps)):
        higher = maps[k] > best
        np.copyto(best, maps[k], where=higher)
        winner[higher] = k
    return best, winner


def thresholds_below(score: npt.NDArray[np.float32], thresholds: tuple[float, ...]) -> npt.NDArray[np.intp]:
    """How many thresholds lie strictly below each score: it is foreground at exactly those.

    Args:
        score: any shape, float32.
        thresholds: increasing; compared as the float32 nearest to each.
    """
    grid = np.asarray(thresholds, np.float32)
    if tuple(thresholds) != SWEEP[: len(thresholds)]:
        return np.searchsorted(grid, score.ravel(), side="left").reshape(score.shape)
    # On the even grid the nearest threshold is found by rounding, and one exact comparison decides: 4 times faster.
    nearest = np.rint(np.clip(score, 0, len(grid) / 100) * np.float32(100)).astype(np.intp)
    padded = np.append(grid, np.float32(np.inf))
    return nearest + (score > padded[nearest])


def sweep_image(
    maps: Maps, class_id: Ints, truth: Ints, thresholds: tuple[float, ...], labels: int, ignore: int
) -> SweptImage:
    """Count an image at all thresholds by one histogram over (true label, strongest class, thresholds below it).

    At threshold t the prediction is the argmax over [t, maps...]: the strongest class where its value is above t,
    background elsewhere; a tie goes to background, then to the lowest class id. Values are compared in float32, to
    the float32 nearest to t: maps kept in float16 are used as they were stored (a value of 0.2 became 0.19995 and
    is background at t = 0.2), which moves a decision only for values within 0.00025 of the threshold.

    Args:
        maps: (K, H, W) floats, K may be 0: all background then.
        class_id: (K,) ids 1..labels-1.
        truth: (H, W) class ids, `ignore` where unknown.
        thresholds: S increasing values.
        labels: number of class ids, background included.
        ignore: the label that means unknown.

    Raises:
        BadInput: sizes differ, an id or label out of range, or values that are not numbers.
    """
    maps, ids = order_maps(maps, class_id, 1, labels)
    check_same_size(maps.shape[1:], truth.shape, "a heatmap")
    code = label_codes(truth, labels, ignore, "the ground truth")
    pixels = np.bincount(code.ravel(), minlength=labels + 1)
    held = np.flatnonzero(pixels)
    known = held[held < labels]
    steps = len(thresholds) + 1
    if not len(ids):
        cumulative = np.zeros((len(known), 0, steps - 1), np.int64)
        return SweptImage(known, ids, cumulative, pixels[known].astype(np.int64))
    score, winner = strongest(maps)
    row = np.zeros(labels + 1, np.intp)
    row[held] = np.arange(len(held))
    cell = (row[code] * len(ids) + winner) * steps + thresholds_below(score, thresholds)
    shape = (len(held), len(ids), steps)
    histogram = np.bincount(cell.ravel(), minlength=shape[0] * shape[1] * shape[2]).reshape(shape)
    # foreground at threshold number s: pixels above more than s thresholds
    above = histogram[:, :, ::-1].cumsum(axis=2)[:, :, ::-1][:, :, 1:]
    return SweptImage(known, ids, above[: len(known)].astype(np.int64, copy=False), pixels[known].astype(np.int64))
