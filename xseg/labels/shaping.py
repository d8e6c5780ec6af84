"""Heatmaps of any range made scores in [0,1], as the CRF and the random walk need them."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from xseg.shapes import check_shapes

Sign = Literal["positive", "both"]
SMALL = 1e-12


@dataclass(frozen=True)
class Shaping:
    """What turns maps without a background into scores; recorded with the result.

    Attributes:
        sign: what counts as evidence: only positive values, or both by their magnitude.
        clip_percentile: values above this percentile of a map count as 1; 100 is the maximum.
        root: the scores are raised to 1/root; above 1 it lifts the small ones.
        blur: standard deviation of a Gaussian laid over the map first, pixels of the map; 0 for none.
    """

    sign: Sign = "positive"
    clip_percentile: float = 100.0
    root: float = 1.0
    blur: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what has no meaning.

        Raises:
            ValueError: an unknown sign, a percentile outside (0,100], a root not above 0, a negative blur.
        """
        if self.sign not in ("positive", "both"):
            raise ValueError(f"--sign {self.sign}: unknown, needed 'positive' or 'both'")
        if not (0 < self.clip_percentile <= 100 and self.root > 0 and self.blur >= 0):
            raise ValueError(f"found {self}, needed a percentile in (0,100], root above 0 and blur of at least 0")


def shape_maps(maps: Tensor, shaping: Shaping) -> Tensor:
    """Scores in [0,1] from maps of any range: sign, blur, clip at a percentile, divide by it, root.

    Args:
        maps: (K,H,W) float, raw.
        shaping: what to do.

    Returns:
        (K,H,W) float32 in [0,1]; a map without evidence stays zero.
    """
    check_shapes(maps=(maps, "K H W"))
    if not maps.numel():
        return maps.float()
    evidence = maps.float().clamp(min=0) if shaping.sign == "positive" else maps.float().abs()
    if shaping.blur:
        evidence = gaussian_blur(evidence, shaping.blur)
    top = _percentile(evidence.flatten(1), shaping.clip_percentile)[:, None, None]
    # A map whose percentile is zero but which has a few peaks is cut at its maximum instead of vanishing.
    top = torch.where(top > SMALL, top, evidence.amax((1, 2), keepdim=True))
    return (evidence / top.clamp(min=SMALL)).clamp(max=1).pow(1 / shaping.root)


def gaussian_blur(maps: Tensor, sigma: float) -> Tensor:
    """Gaussian of `sigma` pixels over `maps` (K,H,W) float, cut at 4 sigma, edges repeated."""
    reach = max(1, int(4 * sigma + 0.5))
    offsets = torch.arange(-reach, reach + 1, device=maps.device, dtype=maps.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).reshape(1, 1, 1, -1)
    rows = conv2d(pad(maps[:, None], (reach, reach, 0, 0), "replicate"), kernel)
    return conv2d(pad(rows, (0, 0, reach, reach), "replicate"), kernel.transpose(2, 3))[:, 0]


def _percentile(values: Tensor, percentile: float) -> Tensor:
    # torch.quantile refuses more than 2^24 values, so the k-th value is taken, without interpolation.
    count = values.shape[1]
    rank = min(count, max(1, round(percentile / 100 * count)))
    return values.amax(1) if rank == count else values.kthvalue(rank, dim=1).values
