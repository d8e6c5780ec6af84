"""A feature map as a mixture of a foreground and a background vector of channels (Gur et al. 2021, section 3.2)."""

import torch
from torch import Tensor

from xseg.heatmaps.relevance.rules import divide_as_published


def foreground(features: Tensor, phi: Tensor, paper: bool = False) -> Tensor:
    """How much more each place looks like the places with attribution than like those against it, if it does.

    With R the mean channels of the two regions and H the squashed features, the weights at each place are the
    non-negative part of the ridge solution (R^T R + I)^-1 R^T H; the foreground's less the background's is returned.

    Args:
        features: (K or 1,N,C,h,w).
        phi: (K,N,1,h,w) attribution; its sign tells the regions.
        paper: sigmoid(Y), places with phi = 0 in the background and no ridge, as in the text; else sigmoid(10 Y), in
            neither and the ridge, as in the code.

    Returns:
        (K,N,1,h,w) >= 0.
    """
    top = features.amax((2, 3, 4), keepdim=True)
    squashed = (divide_as_published(features, top) * (1 if paper else 10)).sigmoid()
    inside = (phi > 0).to(squashed)
    outside = (phi <= 0).to(squashed) if paper else (phi < 0).to(squashed)
    flat = squashed.flatten(3).expand(len(phi), -1, -1, -1)
    regions = torch.cat([outside, inside], 2).flatten(3)  # (K,N,2,hw)
    counts = regions.sum(3, keepdim=True)
    means = torch.where(counts == 0, 0, regions @ flat.transpose(2, 3) / counts.clamp(min=1))  # R^T (K,N,2,C)
    gram = means @ means.transpose(2, 3)
    a, b, c = gram[..., 0, 0], gram[..., 0, 1], gram[..., 1, 1]
    ridge = 0 if paper else 1
    a, c = a + ridge, c + ridge
    determinant = a * c - b * b
    # without the ridge a region may be empty, or both alike: then nothing can be told apart
    solvable = determinant > torch.finfo(a.dtype).eps * a * c
    scale = torch.where(solvable, 1 / torch.where(solvable, determinant, 1), 0)
    inverse = torch.stack([torch.stack([c, -b], -1), torch.stack([-b, a], -1)], -2) * scale[..., None, None]
    weights = (inverse @ means @ flat).relu()  # (K,N,2,hw)
    difference = weights[:, :, 1:] - weights[:, :, :1]
    return difference.relu().unflatten(3, features.shape[3:])
