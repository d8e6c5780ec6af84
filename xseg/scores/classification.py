"""The classification protocol: how well a classifier ranks, decides, and knows how sure it may be."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from xseg.classifier.metrics import average_precision
from xseg.errors import BadInput, NothingScored
from xseg.scores.calibration import binned, calibration_error, reliability
from xseg.scores.estimates import Estimate, Statistic, estimate, ratio
from xseg.scores.overlap import Floats, mean_over_classes
from xseg.shapes import check_shapes

Activation = Literal["sigmoid", "softmax"]

UNKNOWN = 255
DECISIONS = ("precision", "recall", "f1")


def log_probabilities(logits: np.ndarray, activation: Activation) -> Floats:
    """Logarithms of class probabilities, float64; those near 1 keep their order, which float32 loses.

    Args:
        logits: (N,C).
        activation: `sigmoid` or `softmax`.
    """
    values = logits.astype(np.float64)
    if activation == "sigmoid":
        return -np.logaddexp(0, -values)
    values = values - values.max(axis=1, keepdims=True)
    return values - np.log(np.exp(values).sum(axis=1, keepdims=True))


def resampled_precision(scores: Floats, labels: np.ndarray) -> Statistic:
    """Average precision of each class, and last its mean over classes, with images repeated.

    As `xseg.classifier.metrics.average_precision`, which it equals where every image counts once.

    Args:
        scores: (N,C) any increasing function of the class probability.
        labels: (N,C) uint8: 1 present, 0 absent, 255 unknown (left out).
    """

    def statistic(weights: Floats) -> Floats:
        columns = [_precision(scores[:, c], labels[:, c], weights) for c in range(labels.shape[1])]
        per_class = np.stack(columns, axis=1)
        return np.concatenate([per_class, mean_over_classes(per_class)[:, None]], axis=1)

    return statistic


def _precision(scores: Floats, labels: np.ndarray, weights: Floats) -> Floats:
    """(B,) average precisions of one class; NaN in a resample without a present image."""
    known = np.flatnonzero(labels != UNKNOWN)
    order = known[np.argsort(-scores[known], kind="stable")]
    present = labels[order] == 1
    if not present.any():
        return np.full(len(weights), np.nan)
    drawn = weights[:, order]
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    above = drawn.cumsum(axis=1)[:, ends]
    hits = (drawn * present).cumsum(axis=1)[:, ends]
    precision = np.divide(hits, above, out=np.zeros(hits.shape), where=above > 0)
    found = (np.diff(hits, axis=1, prepend=0.0) * precision).sum(axis=1)
    return np.divide(found, hits[:, -1], out=np.full(len(weights), np.nan), where=hits[:, -1] > 0)


def decisions(probability: Floats, labels: np.ndarray, threshold: float) -> dict[str, Statistic]:
    """Precision, recall and F1 of "probability above the threshold": `macro` and `micro`, three numbers each.

    Macro is the mean over the classes that occur in labels or predictions, with 0 for 0 / 0; micro pools all pairs of
    image and class.

    Args:
        probability: (N,C) in [0, 1].
        labels: (N,C) uint8: 1 present, 0 absent, 255 unknown (left out).
        threshold: in [0, 1].
    """
    chosen = probability > threshold
    cases = (chosen & (labels == 1), chosen & (labels == 0), ~chosen & (labels == 1))
    counts = [case.astype(np.float64) for case in cases]

    def macro(weights: Floats) -> Floats:
        right, wrong, missed = (weights @ count for count in counts)
        rates = _rates(right, wrong, missed)
        rates[:, right + wrong + missed == 0] = np.nan
        return mean_over_classes(rates).T

    def micro(weights: Floats) -> Floats:
        return _rates(*((weights @ count).sum(axis=1) for count in counts)).T

    return {"macro": macro, "micro": micro}


def _rates(right: Floats, wrong: Floats, missed: Floats) -> Floats:
    pairs = ((right, right + wrong), (right, right + missed), (2 * right, 2 * right + wrong + missed))
    return np.stack([np.divide(a, b, out=np.zeros(a.shape), where=b > 0) for a, b in pairs])


def in_top(scores: Floats, answer: np.ndarray, k: int) -> Floats:
    """Whether the right class is among the k most probable ones: (N,) 1 or 0.

    Where classes have equal scores, the share of the orders among them in which it is: a classifier that says the same
    to everything gets k / C.

    Args:
        scores: (N,C).
        answer: (N,) the right class, 0..C-1.
        k: how many may be named.
    """
    own = np.take_along_axis(scores, answer[:, None], axis=1)
    higher = (scores > own).sum(axis=1)
    equal = (scores == own).sum(axis=1)
    return np.clip((k - higher) / equal, 0, 1)


class ClassificationScore:
    """Collects logits and labels image by image, in any order.

    Args:
        classes: the classifier's class names.
        activation: what makes probabilities of its logits.
        threshold: probability above which a class counts as predicted, for `sigmoid`.
    """

    def __init__(self, classes: Sequence[str], activation: Activation, threshold: float = 0.5) -> None:
        self.classes, self._activation, self._threshold = tuple(classes), activation, threshold
        self._rows: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def add(self, image: str, logits: np.ndarray, labels: np.ndarray) -> None:
        """One image.

        Args:
            image: its id.
            logits: (C,) floats.
            labels: (C,) uint8: 1 present, 0 absent, 255 unknown.

        Raises:
            BadInput: logits that are not finite, or an image scored twice.
        """
        check_shapes(logits=(logits, f"{len(self.classes)}"), labels=(labels, f"{len(self.classes)}"))
        if not np.isfinite(logits).all():
            raise BadInput(f"{image}: the classifier's logits are not finite", "look at its weights: xseg info FILE")
        if image in self._rows:
            raise BadInput(f"image {image} was scored twice", "give each image once")
        self._rows[image] = logits, labels

    def result(self, *, replicates: int = 1000, seed: int = 0) -> dict[str, Any]:
        """All numbers with their 95 % intervals over images, JSON-able.

        Raises:
            BadInput: no image, or none in which a class is known to be present.
        """
        # in order of id, so that neither the order nor shards matter, to the last bit
        rows = [self._rows[image] for image in sorted(self._rows)]
        if not rows or not any((labels == 1).any() for _, labels in rows):
            raise NothingScored("no image with a class was scored", "check the labels of the split")
        logits, labels = (np.stack(column) for column in zip(*rows, strict=True))
        scores = log_probabilities(logits, self._activation)
        parts = self._decided(logits, scores, labels, replicates, seed)
        return {
            "images": len(rows),
            "activation": self._activation,
            "unknown_labels": int((labels == UNKNOWN).sum()),
            **self._ranked(scores, labels, replicates, seed),
            **parts,
        }

    def _ranked(self, scores: Floats, labels: np.ndarray, replicates: int, seed: int) -> dict[str, Any]:
        per_class = average_precision(scores, labels)
        found = estimate({"ap": resampled_precision(scores, labels)}, len(labels), replicates, seed)["ap"]
        mean = float(mean_over_classes(per_class))
        named = [None if np.isnan(value) else float(value) for value in per_class]
        return {
            "map": mean,
            "map_interval": found.intervals[-1],
            "per_class_ap": dict(zip(self.classes, named, strict=True)),
            "per_class_ap_interval": dict(zip(self.classes, found.intervals[:-1], strict=True)),
            "per_class_images": dict(zip(self.classes, (labels == 1).sum(axis=0).tolist(), strict=True)),
        }

    def _decided(
        self, logits: np.ndarray, scores: Floats, labels: np.ndarray, replicates: int, seed: int
    ) -> dict[str, Any]:
        if self._activation == "sigmoid":
            return {
                "accuracy": None,
                "decisions": _decision_part(np.exp(scores), labels, self._threshold, replicates, seed),
                "calibration": _sigmoid_calibration(logits, scores, labels, replicates, seed),
            }
        single = (labels == 1).sum(axis=1) == 1
        if not single.any():
            return {"accuracy": None, "decisions": None, "calibration": None}
        answer = (labels == 1).argmax(axis=1)
        return {
            "accuracy": _accuracy_part(scores, answer, single, replicates, seed),
            "decisions": None,
            "calibration": _softmax_calibration(scores, answer, single, replicates, seed),
        }


def _decision_part(
    probability: Floats, labels: np.ndarray, threshold: float, replicates: int, seed: int
) -> dict[str, Any]:
    found = estimate(decisions(probability, labels, threshold), len(labels), replicates, seed)
    part: dict[str, Any] = {"threshold": threshold}
    for kind, rates in found.items():
        for name, value, limits in zip(DECISIONS, rates.values, rates.intervals, strict=True):
            part |= {f"{kind}_{name}": value, f"{kind}_{name}_interval": limits}
    return part


def _accuracy_part(
    scores: Floats, answer: np.ndarray, single: np.ndarray, replicates: int, seed: int
) -> dict[str, Any]:
    """Top-1 and top-5 accuracy over the images with one class; top-5 only where there are more than five."""
    count = single.astype(np.float64)
    wanted = {"top1": 1} | ({"top5": 5} if scores.shape[1] > 5 else {})
    statistics = {name: ratio(in_top(scores, answer, k) * count, count) for name, k in wanted.items()}
    found = _flat(estimate(statistics, len(scores), replicates, seed))
    return {"images": int(single.sum()), "top5": None, "top5_interval": None, **found}


def _sigmoid_calibration(
    logits: np.ndarray, scores: Floats, labels: np.ndarray, replicates: int, seed: int
) -> dict[str, Any]:
    """Over all pairs of image and class whose label is known."""
    known = labels != UNKNOWN
    present = (labels == 1).astype(np.float64)
    probability = np.exp(scores)
    against = -np.logaddexp(0, logits.astype(np.float64))
    likelihood = np.where(known, present * scores + (1 - present) * against, 0)
    square = np.where(known, (probability - present) ** 2, 0)
    count = known.sum(axis=1).astype(np.float64)
    proper = {"brier": ratio(square.sum(axis=1), count), "nll": ratio(-likelihood.sum(axis=1), count)}
    return _calibration_part("pairs of image and class", probability, present, known, proper, replicates, seed)


def _softmax_calibration(
    scores: Floats, answer: np.ndarray, single: np.ndarray, replicates: int, seed: int
) -> dict[str, Any]:
    """Over the most probable class of every image with one class."""
    count = single.astype(np.float64)
    probability = np.exp(scores)
    error = probability.copy()
    error[np.arange(len(answer)), answer] -= 1
    square = (error**2).sum(axis=1)
    likelihood = np.take_along_axis(scores, answer[:, None], axis=1)[:, 0]
    proper = {"brier": ratio(square * count, count), "nll": ratio(-likelihood * count, count)}
    best = probability.max(axis=1, keepdims=True)
    hit = in_top(scores, answer, 1)[:, None]
    return _calibration_part("most probable classes", best, hit, single[:, None], proper, replicates, seed)


def _calibration_part(
    over: str,
    probability: Floats,
    outcome: Floats,
    known: np.ndarray,
    proper: Mapping[str, Statistic],
    replicates: int,
    seed: int,
) -> dict[str, Any]:
    even, adaptive = (binned(probability, outcome, known, adaptive=kind) for kind in (False, True))
    statistics = {"ece": calibration_error(even), "adaptive_ece": calibration_error(adaptive), **proper}
    return {
        "over": over,
        "predictions": int(known.sum()),
        **_flat(estimate(statistics, len(known), replicates, seed)),
        "reliability": reliability(even),
        "adaptive_reliability": reliability(adaptive),
    }


def _flat(found: Mapping[str, Estimate]) -> dict[str, Any]:
    """`{name: value, name_interval: [low, high]}` of estimates of one number each."""
    flat: dict[str, Any] = {}
    for name, one in found.items():
        flat |= {name: one.values[0], f"{name}_interval": one.intervals[0]}
    return flat
