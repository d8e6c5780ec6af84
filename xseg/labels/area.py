"""The threshold at which a given share of the images is foreground: an area prior instead of true masks.

Weak supervision by size (Pathak et al. 2015, arXiv:1506.03648; Kervadec et al. 2019, arXiv:1805.04628) bounds the area
of the predicted foreground. Here the bound is on the mean over a set of images, and has one unknown: the threshold.
"""

import math

import numpy as np
import torch
from torch import Tensor

from xseg.labels.confident import BACKGROUND
from xseg.labels.shaping import SMALL
from xseg.shapes import check_shapes

STEPS = 2**16
"""Thresholds (k + 1/2) / 65536: between the values of float16 maps, so that none of those above 1/64 lies on one."""
_UNITS = 2.0**40  # shares are summed as integers, hence in any order the same


class ForegroundShares:
    """The mean share of pixels above every threshold, of images that come one by one; 512 KB however many.

    Attributes:
        images: how many were counted.
    """

    def __init__(self) -> None:
        self.images = 0
        self._sums = np.zeros(STEPS, np.int64)

    def add(self, scores: Tensor) -> None:
        """Count an image.

        Args:
            scores: (H,W) float32 in [0,1], as `foreground_scores` gives them.

        Raises:
            ValueError: shapes that do not fit, or scores outside [0,1].
        """
        check_shapes(scores=(scores, "H W"))
        low, high = (float(end) for end in torch.aminmax(scores))
        if not (low >= 0 and high <= 1):
            raise ValueError(f"scores from {low} to {high}, needed [0, 1]")
        below = (scores.float().flatten() * STEPS - 0.5).ceil().long().clamp(min=0)  # thresholds under each score
        counts = torch.bincount(below, minlength=STEPS + 1).cpu().numpy()
        above = counts[::-1].cumsum()[::-1][1:]  # pixels over threshold number k
        self._sums += np.rint(above / scores.numel() * _UNITS).astype(np.int64)
        self.images += 1

    def at(self, threshold: float) -> float:
        """The mean share in [0,1] above one of the thresholds."""
        return float(self._sums[round(threshold * STEPS - 0.5)] / _UNITS / max(1, self.images))

    def threshold(self, share: float) -> float:
        """The lowest threshold that leaves a mean share of at most `share`.

        Args:
            share: of an image's pixels that are foreground, in (0,1), the mean over images.

        Returns:
            In (0,1), exact to 1/65536.

        Raises:
            ValueError: no image, a share outside (0,1), or one that no threshold gives: more than has any evidence,
                or less than lies at the maximum.
        """
        if not 0 < share < 1 or not self.images:
            raise ValueError(f"a share of {share} of {self.images} images, needed one in (0, 1) of one image or more")
        enough = self._sums <= (share * _UNITS + 0.5) * self.images  # each image's share was rounded
        if not enough.any() or self._sums[0] < (share * _UNITS - 0.5) * self.images:
            most, least = self.at(0.5 / STEPS), self.at(1 - 0.5 / STEPS)
            raise ValueError(f"a share of {share:g} is foreground, but the maps allow {least:.4f} to {most:.4f}")
        return (int(enough.argmax()) + 0.5) / STEPS


def foreground_scores(maps: Tensor, class_id: Tensor) -> Tensor:
    """One number per pixel that is above t where a class beats the background.

    Args:
        maps: (K,H,W) float, not negative; without a background among them in [0,1].
        class_id: (K,) class ids; 0 is the background.

    Returns:
        (H,W) float32 in [0,1]: the highest class, which a background of constant score t is compared with, and of
        exponent `exponent(t)`; or with a background b among the maps highest / (highest + b), where t stands for a
        background of `weight(t)` times its value.
    """
    check_shapes(maps=(maps, "K H W"), class_id=(class_id, "K"))
    own = class_id.to(maps.device) == BACKGROUND
    classes = maps[~own].float()
    highest = classes.amax(0) if len(classes) else maps.new_zeros(maps.shape[1:], dtype=torch.float32)
    if not own.any():
        return highest
    return highest / (highest + maps[own][0].float()).clamp(min=SMALL)


def exponent(threshold: float) -> float:
    """The alpha of a background (1 - max)^alpha that is beaten by a class above `threshold` in (0,1)."""
    return math.log(threshold) / math.log1p(-threshold)


def weight(threshold: float) -> float:
    """The factor on a background b that is beaten where class / (class + b) is above `threshold` in (0,1)."""
    return threshold / (1 - threshold)
