"""How well class scores rank the images: average precision."""

import numpy as np

from xseg.shapes import check_shapes


def average_precision(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Average precision of each class: sum over distinct thresholds of (R_n - R_{n-1}) P_n, not interpolated.

    The definition of scikit-learn's `average_precision_score`; images with equal scores enter together.

    Args:
        scores: (N,C) any increasing function of the class probability.
        labels: (N,C) uint8: 1 present, 0 absent, 255 unknown (left out).

    Returns:
        (C,) float64 in [0, 1]; NaN for a class without a present image.
    """
    check_shapes(scores=(scores, "N C"), labels=(labels, "N C"))
    return np.array([_one_class(scores[:, c], labels[:, c]) for c in range(labels.shape[1])], np.float64)


def mean_average_precision(per_class: np.ndarray) -> float | None:
    """Mean of (C,) average precisions over the classes that have one; None if no class has."""
    known = per_class[~np.isnan(per_class)]
    return float(known.mean()) if len(known) else None


def _one_class(scores: np.ndarray, labels: np.ndarray) -> float:
    scores, labels = scores[labels != 255], labels[labels != 255]
    positives = int((labels == 1).sum())
    if not positives:
        return float("nan")
    order = np.argsort(-scores.astype(np.float64), kind="stable")
    hits = np.cumsum(labels[order] == 1, dtype=np.float64)
    # Only where a run of equal scores ends is there a threshold.
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    precision = hits[ends] / (ends + 1)
    recall = hits[ends] / positives
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))
