"""The cases of `xseg bench` for scores: counting pixels and ranking them."""

import importlib.util
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from xseg.bench.measure import Case
from xseg.scores.average_precision import average_precision
from xseg.scores.confusion import Ints, confusion_matrix

_UNKNOWN = 255


def scoring_cases() -> list[Case]:
    """Confusion matrices and average precision, against scikit-learn only where it is installed."""
    found = [bincount_case()]
    if importlib.util.find_spec("sklearn"):
        found += [confusion_case(), ranking_case("distinct"), ranking_case("tied")]
    return found


def bincount_case(height: int = 375, width: int = 500, classes: int = 21) -> Case:
    """Counting one confusion matrix, against numpy's bincount over a boolean mask, as segmentation scripts do."""

    def masked(truth: Ints, prediction: Ints) -> Ints:
        known = (truth >= 0) & (truth < classes)
        codes = classes * truth[known].astype(int) + prediction[known]
        return np.bincount(codes, minlength=classes**2).reshape(classes, classes)

    return _confusion("a masked bincount", masked, height, width, classes)


def confusion_case(height: int = 375, width: int = 500, classes: int = 21) -> Case:
    """Counting one confusion matrix, against scikit-learn."""
    from sklearn.metrics import confusion_matrix as peer

    def counted(truth: Ints, prediction: Ints) -> Ints:
        known = truth != _UNKNOWN
        return peer(truth[known], prediction[known], labels=range(classes))

    return _confusion("scikit-learn", counted, height, width, classes)


def ranking_case(kind: str, side: int = 224) -> Case:
    """Average precision of one map, against scikit-learn; `tied` values take 256 levels, as a map of bytes does."""
    from sklearn.metrics import average_precision_score as peer

    rng = np.random.default_rng(0)
    truth = rng.random(side * side) < 0.3
    scores = rng.random(side * side) + 0.3 * truth
    if kind == "tied":
        scores = np.round(scores * 196)
    return Case(
        f"average precision {side}x{side}, {kind} scores, against scikit-learn",
        lambda: torch.tensor([peer(truth, scores)], dtype=torch.float64),
        lambda: torch.tensor([average_precision(scores, truth)], dtype=torch.float64),
        1e-9,
    )


def _confusion(name: str, count: Callable[[Ints, Ints], Ints], height: int, width: int, classes: int) -> Case:
    """Ten pairs of label maps of blocks of 15 x 20 pixels; one is too short to be timed."""
    pairs = [_label_maps(seed, height, width, classes) for seed in range(10)]

    def reference() -> Tensor:
        return torch.from_numpy(np.stack([count(truth, prediction) for truth, prediction in pairs]))

    def ours() -> Tensor:
        found = [confusion_matrix(prediction, truth, classes)[:, :classes] for truth, prediction in pairs]
        return torch.from_numpy(np.stack(found))

    return Case(
        f"10 confusion matrices {height}x{width}, {classes} classes and unknown, against {name}", reference, ours, 0
    )


def _label_maps(seed: int, height: int, width: int, classes: int) -> tuple[Ints, Ints]:
    """Truth with a share of unknown pixels, and a prediction: (H,W) uint8 each."""
    blocks = np.random.default_rng(seed).integers(0, classes + 1, (2, -(-height // 15), -(-width // 20)))
    truth, prediction = np.kron(blocks, np.ones((15, 20), int))[:, :height, :width]
    truth = np.where(truth == classes, _UNKNOWN, truth)
    return truth.astype(np.uint8), (prediction % classes).astype(np.uint8)
