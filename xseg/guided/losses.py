"""Losses on heatmaps; all pure, in the type of the maps, differentiable, 0 at best.

Axes: maps of all classes are (N,K,H,W), target (N,H,W) long with the place of the class among the K maps and -1 where
nothing is known. Maps of questions are (P,H,W), one class of one image each, with `inside` and `known` (P,H,W) bool.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from xseg.shapes import check_shapes

IGNORE = -1
_NOTHING = 1e-7  # as published: less positive evidence than this on a whole map is none

Normalise = Literal["none", "max", "rms"]


def normalised(maps: Tensor, how: Normalise, temperature: float = 1.0) -> Tensor:
    """Maps (N,K,H,W) of all classes as logits of a softmax over the classes.

    Args:
        maps: raw.
        how: `none`, as Yu et al. 2024; `max` or `rms`: divided by the largest absolute value, or by the root of the
            mean square, over all maps of an image. The class with the largest value at a place stays the same.
        temperature: they are divided by it, too.

    Returns:
        (N,K,H,W); maps that are 0 everywhere stay so.
    """
    check_shapes(maps=(maps, "N K H W"))
    if how != "none":
        over = (1, 2, 3)
        size = maps.abs().amax(over, keepdim=True) if how == "max" else maps.square().mean(over, keepdim=True)
        size = torch.where(size == 0, 1, size)  # before the root, whose slope at 0 is infinite
        maps = maps / (size if how == "max" else size.sqrt())
    return maps / temperature


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over the known pixels of -log softmax(logits) at the target's class (Yu et al. 2024, section 3).

    Args:
        logits: (N,K,H,W).
        target: (N,H,W).

    Returns:
        A scalar, at least 0; 0 if no pixel is known.
    """
    check_shapes(logits=(logits, "N K H W"), target=(target, "N H W"))
    total = functional.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum")
    return total / (target != IGNORE).sum().clamp(min=1)


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """1 - soft Dice of the softmax, over the classes present in an image, then over images.

    Dice = (2 sum p g + 1) / (sum p + sum g + 1) over the known pixels (Milletari et al. 2016, arXiv:1606.04797, with
    plain sums and one pixel of smoothing). Images without a known pixel do not count.

    Args:
        logits: (N,K,H,W).
        target: (N,H,W).

    Returns:
        A scalar in [0, 1); 0 if no image counts.
    """
    sizes = check_shapes(logits=(logits, "N K H W"), target=(target, "N H W"))
    known = target != IGNORE
    shares = logits.softmax(1) * known[:, None]
    truth = functional.one_hot(target.clamp(min=0), sizes["K"]).movedim(-1, 1) * known[:, None]
    sums = shares.sum((2, 3)) + truth.sum((2, 3))
    scores = (2 * (shares * truth).sum((2, 3)) + 1) / (sums + 1)
    present = truth.sum((2, 3)) > 0
    counted = present.any(1)
    each = ((1 - scores) * present).sum(1) / present.sum(1).clamp(min=1)
    return each.sum() / counted.sum().clamp(min=1)


def energy(maps: Tensor, inside: Tensor, known: Tensor) -> Tensor:
    """(P,) 1 - share of the positive evidence that lies inside, in [0, 1] (Rao et al. 2023, arXiv:2303.11932).

    Where there is no positive evidence (below 1e-7) it is 1 less what is inside, as published.
    """
    positive = maps.relu() * known
    within, total = (positive * inside).sum((1, 2)), positive.sum((1, 2))
    some = total >= _NOTHING
    return 1 - torch.where(some, within / torch.where(some, total, 1), within)


def l1(maps: Tensor, inside: Tensor, known: Tensor) -> Tensor:
    """(P,) mean over the known pixels of |A+ / max A+ - inside|, in [0, 1] (Rao et al. 2023)."""
    difference = (_over_largest(maps.relu() * known) - inside.to(maps)).abs() * known
    return difference.sum((1, 2)) / known.sum((1, 2)).clamp(min=1)


def rrr(maps: Tensor, inside: Tensor, known: Tensor) -> Tensor:
    """(P,) sum of (A / max |A|)^2 over the known pixels outside, at least 0: right for the right reasons.

    Ross et al. 2017 (arXiv:1703.03717, Eq. 1) for any map, scaled by its largest value as Rao et al. 2023 do.
    """
    return (_over_largest(maps * known).square() * ~inside).sum((1, 2))


def ppce(maps: Tensor, inside: Tensor, known: Tensor) -> Tensor:
    """(P,) mean over the known pixels inside of -log(A+ / max A+), at least 0 (Rao et al. 2023).

    A ratio below 1e-7 counts as that, so a pixel without evidence costs 16.1 and has no slope; torch's binary cross
    entropy, which is published, lets it cost 100. Nothing outside is penalised.
    """
    chosen = inside & known
    surprise = -_over_largest(maps.relu() * known).clamp(min=_NOTHING).log() * chosen
    return surprise.sum((1, 2)) / chosen.sum((1, 2)).clamp(min=1)


def similarity(maps: Tensor, others: Tensor) -> Tensor:
    """(P,) mean over others of the squared cosine between two maps, in [0, 1]; 0 for a map that is 0 everywhere.

    What an ensemble pays for members that look at the same (Ross et al. 2020, arXiv:1911.01291, for any map).

    Args:
        maps: (P,H,W).
        others: (M,P,H,W) of the classifiers against which this one is trained.
    """
    check_shapes(maps=(maps, "P H W"), others=(others, "M P H W"))
    own, theirs = maps.flatten(1), others.flatten(2)
    product = (own * theirs).sum(2)
    sizes = own.square().sum(1) * theirs.square().sum(2)
    return (product.square() / torch.where(sizes == 0, 1, sizes)).mean(0)


def _over_largest(maps: Tensor) -> Tensor:
    largest = maps.abs().amax((1, 2), keepdim=True)
    return maps / torch.where(largest == 0, 1, largest)


#: Losses of all classes of an image at once, against its mask.
SEGMENTATION: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cross-entropy": cross_entropy, "dice": dice}
#: Losses of one class of an image, against where it is.
LOCALISATION: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "energy": energy,
    "rrr": rrr,
    "l1": l1,
    "ppce": ppce,
}
DIVERSITY = "diversity"
LOSSES = (*SEGMENTATION, *LOCALISATION, DIVERSITY)
