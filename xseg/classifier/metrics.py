"""How well class scores rank the images: average precision."""

import numpy as np

from xseg.scores import average_precision as binary
from xseg.shapes import check_shapes


def average_precision(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Average precision of each class; images with equal scores enter together.

    Args:
        scores: (N,C) any increasing function of the class probability.
        labels: (N,C) uint8: 1 present, 0 absent, 255 unknown (left out).

    Returns:
        (C,) float64 in [0, 1]; NaN for a class without a present image.

    Raises:
        BadInput: a score that is not a number.
    """
    check_shapes(scores=(scores, "N C"), labels=(labels, "N C"))
    found = []
    for c in range(labels.shape[1]):
        known = labels[:, c] != 255
        found.append(binary.average_precision(scores[known, c], labels[known, c] == 1))
    return np.array(found, np.float64)


def mean_average_precision(per_class: np.ndarray) -> float | None:
    """Mean of (C,) average precisions over the classes that have one; None if no class has."""
    known = per_class[~np.isnan(per_class)]
    return float(known.mean()) if len(known) else None
