"""Intersection over union and its complements, from pixel counts."""

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Average = Literal["present", "psa"]
Floats = npt.NDArray[np.float64]
PSA_EPSILON = 1e-10


def check_average(average: str) -> None:
    """Refuse an unknown way of averaging over classes.

    Raises:
        ValueError: not one of `Average`.
    """
    if average not in get_args(Average):
        raise ValueError(f"average is {average!r}, needed one of {get_args(Average)}")


def over_union(part: npt.ArrayLike, union: npt.ArrayLike, average: Average = "present") -> Floats:
    """`part / union` per class.

    Args:
        part: pixel counts, any shape: TP for the IoU, FP or FN for the error rates.
        union: TP + FP + FN, same shape.
        average: "present": a class with an empty union (absent from truth and prediction) gives NaN.
            "psa": `part / (union + 1e-10)` as in the scripts of SEAM and MCTformer, where it gives 0.

    Returns:
        Fractions, float64, same shape.
    """
    part, union = np.asarray(part, np.float64), np.asarray(union, np.float64)
    if average == "psa":
        return part / (union + PSA_EPSILON)
    return np.divide(part, union, out=np.full(union.shape, np.nan), where=union > 0)


def iou(true_positive: npt.ArrayLike, predicted: npt.ArrayLike, truth: npt.ArrayLike, average: Average) -> Floats:
    """Intersection over union per class: TP / (T + P - TP), over counts pooled from the whole set."""
    true_positive, predicted, truth = (np.asarray(x) for x in (true_positive, predicted, truth))
    return over_union(true_positive, truth + predicted - true_positive, average)


def mean_over_classes(values: Floats) -> Floats:
    """Mean over the last axis, NaN left out; NaN where nothing is left.

    Args:
        values: (..., L) per-class fractions.

    Returns:
        (...) float64.
    """
    known = ~np.isnan(values)
    count = known.sum(-1)
    total = np.where(known, values, 0.0).sum(-1)
    return np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
