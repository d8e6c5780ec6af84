"""Losses of image-level labels, unknown ones left out."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from xseg.shapes import check_shapes

Loss = Literal["soft-margin", "bce", "cross-entropy"]
UNKNOWN = 255


def label_loss(logits: Tensor, labels: Tensor, kind: Loss = "soft-margin", smoothing: float = 0.0) -> Tensor:
    """Loss of a batch against image-level labels.

    `soft-margin` is torch's multilabel_soft_margin_loss (psa): the logistic loss averaged over the known classes of
    an image, then over images. `bce` averages it over all known labels at once. Without unknown labels they agree.
    `cross-entropy` takes the one present class of an image against the softmax.

    Args:
        logits: (N,C) float.
        labels: (N,C) uint8: 1 present, 0 absent, 255 unknown.
        kind: which loss.
        smoothing: in [0, 1): share of the target spread evenly (over absent/present, or over the classes).

    Returns:
        A scalar; 0 if nothing is known.
    """
    check_shapes(logits=(logits, "N C"), labels=(labels, "N C"))
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if kind == "cross-entropy":
        target = torch.where((labels == 1).any(1), (labels == 1).long().argmax(1), -100)
        total = functional.cross_entropy(logits, target, ignore_index=-100, reduction="sum", label_smoothing=smoothing)
        return total / max(loss_weight(labels, kind), 1.0)
    known = labels != UNKNOWN
    target = (labels == 1).to(logits.dtype) * (1 - smoothing) + smoothing / 2
    each = functional.binary_cross_entropy_with_logits(logits, target, reduction="none") * known
    if kind == "bce":
        return each.sum() / known.sum().clamp(min=1)
    return (each.sum(1) / known.sum(1).clamp(min=1)).sum() / max(loss_weight(labels, kind), 1.0)


def loss_weight(labels: Tensor, kind: Loss) -> float:
    """How many terms `label_loss` averages over: two parts of a batch weighted so make up the whole batch's loss."""
    if kind == "cross-entropy":
        return float((labels == 1).any(1).sum())
    known = labels != UNKNOWN
    return float(known.sum() if kind == "bce" else known.any(1).sum())
