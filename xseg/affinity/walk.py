"""Random walk of class maps along pair affinities (psa's infer_aff.py; Ahn and Kwak 2018, arXiv:1803.10464)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from xseg.affinity.network import grid_size, pad_to_multiple
from xseg.affinity.transition import transition
from xseg.shapes import check_shapes


@dataclass(frozen=True)
class WalkPreset:
    """Published parameters of a walk and of what comes before and after it."""

    beta: float
    """Power of the affinities."""
    steps: int
    """The t of T^t."""
    alpha: float | None
    """Background (1 - max_c)^alpha joined before the walk; None: no background is walked."""
    background: float | None = None
    """Constant background joined after the walk, see `with_constant_background`; None: not needed."""
    radius: float = 5
    """Pairs closer than this (exclusive), in nodes."""
    stride: int = 8
    """Pixels per node."""


PRESETS = {
    "psa": WalkPreset(beta=8, steps=2**8, alpha=16),
    # irn predicts its affinities from boundaries at stride 4; here the network's own take their place.
    "irn": WalkPreset(beta=10, steps=2**8, alpha=None, background=0.25, stride=4),
    # As printed. The paper's code walks like psa, so "t = 8" is most likely psa's log2 of the steps.
    "paper-003": WalkPreset(beta=16, steps=8, alpha=16),
}


@torch.no_grad()
def random_walk(
    maps: Tensor,
    affinities: Tensor,
    *,
    beta: float = 8,
    steps: int = 256,
    stride: int = 8,
    radius: float = 5,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Spread class maps of one image along its affinities: pool, walk, enlarge, crop, as psa does.

    Args:
        maps: (K, H, W), background channel included where it is to walk; float32 or float64. Pooled as means over
            stride x stride pixels after padding with zeros right and below.
        affinities: (O, ceil(H / stride), ceil(W / stride)) of the pairs within `radius`; float32 or float64.
        beta: power of the affinities.
        steps: the t of T^t (psa: 2^8); 0 gives the pooled and enlarged maps.
        stride: pixels per node.
        radius: the radius the affinities were computed with, in nodes.
        dtype: of the walk's arithmetic, float64 or (for devices without it) float32.

    Returns:
        (K, H, W) of the maps' dtype and in their range. Channels are not normalised against each other.

    Raises:
        ValueError: shapes or dtypes that do not fit together.
    """
    classes, height, width = check_shapes(maps=(maps, "K H W")).values()
    grid = grid_size((height, width), stride)
    if tuple(affinities.shape[1:]) != grid:
        found = tuple(affinities.shape)
        raise ValueError(
            f"affinities have shape {found}, needed (O, {grid[0]}, {grid[1]}) for maps {tuple(maps.shape)}"
        )
    if classes == 0:
        return maps.clone()
    pooled = functional.avg_pool2d(pad_to_multiple(maps, stride), stride)
    walked = transition(affinities, beta=beta, radius=radius, dtype=dtype).apply(pooled.flatten(1), steps)
    canvas = (grid[0] * stride, grid[1] * stride)
    nodes = walked.view(1, classes, *grid)
    full = functional.interpolate(nodes, size=canvas, mode="bilinear", align_corners=False)[0]
    return full[:, :height, :width].contiguous()


def with_constant_background(maps: Tensor, background: float = 0.25) -> Tensor:
    """Irn's last step: divide by the maximum over all classes and join a constant background in front.

    Args:
        maps: (K, H, W) walked without background, non-negative.
        background: its score on the scale where the highest map value is 1.

    Returns:
        (K + 1, H, W); all-zero maps stay zero.
    """
    check_shapes(maps=(maps, "K H W"))
    highest = maps.amax() if maps.numel() else maps.new_zeros(())
    scaled = maps / torch.where(highest > 0, highest, 1)
    return torch.cat([maps.new_full((1, *maps.shape[1:]), background), scaled])
