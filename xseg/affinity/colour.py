"""Affinity of neighbouring nodes by colour alone, to be multiplied with the learned one.

Not in the published pipeline: there the network must learn edges from confident labels. Where those are few or coarse,
the picture knows its edges better.
"""

import torch
from torch import Tensor
from torch.nn import functional

from xseg.affinity.network import pad_to_multiple
from xseg.affinity.pairs import half_offsets, windows
from xseg.shapes import check_shapes


def node_colours(image: Tensor, stride: int) -> Tensor:
    """Mean colour of each node's pixels; blocks that reach over the edge count the pixels they have.

    Args:
        image: (3, H, W) float.
        stride: pixels per node.

    Returns:
        (3, ceil(H / stride), ceil(W / stride)).
    """
    check_shapes(image=(image, "3 H W"))
    inside = torch.ones_like(image[:1])
    total = functional.avg_pool2d(pad_to_multiple(torch.cat([image, inside]), stride), stride)
    return total[:3] / total[3:]


def colour_affinities(image: Tensor, weight: float, stride: int, radius: float = 5) -> Tensor:
    """exp(-weight |c_i - c_j|) of every pair, |.| the Euclidean distance of mean colours.

    Args:
        image: (3, H, W) float in [0, 1].
        weight: per unit of distance; 0 gives ones.
        stride: pixels per node.
        radius: pairs closer than this (exclusive), in nodes.

    Returns:
        (O, ceil(H / stride), ceil(W / stride)) in (0, 1], 0 where there is no pair.
    """
    colours = node_colours(image, stride)
    height, width = colours.shape[1:]
    result = colours.new_zeros(len(half_offsets(radius)), height, width)
    for index, first, second in windows(height, width, radius):
        distance = (colours[:, *first] - colours[:, *second]).square().sum(0).sqrt()
        result[index, *first] = torch.exp(-weight * distance)
    return result
