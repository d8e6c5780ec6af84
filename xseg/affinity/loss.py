"""Affinity of neighbouring nodes and psa's three-part loss (Ahn and Kwak 2018, arXiv:1803.10464, section 3.2).

The distances of all pairs are summed over channels offset by offset, from two shifted views of the features, and the
backward pass recomputes the signs. So nothing of the size channels x offsets x nodes is ever held, which is what
makes gathering the pairs slow and large.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from xseg.affinity.pairs import Border, PairLabels, half_offsets, windows
from xseg.shapes import check_shapes

# Bytes of features worked on at once: on a CPU they, their difference and the gradient stay in the second-level cache.
_BLOCK_CPU, _BLOCK_OTHER = 1_500_000, 64_000_000


def _blocks(features: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices (images, channels) that cut features (B, C, h, w) into pieces of a suitable size."""
    batch, channels, height, width = features.shape
    on_cpu = features.device.type == "cpu"
    images = 1 if on_cpu else max(batch, 1)
    plane = max(images * height * width * features.element_size(), 1)
    step = max((_BLOCK_CPU if on_cpu else _BLOCK_OTHER) // plane, 1)
    for image in range(0, batch, images):
        for channel in range(0, channels, step):
            yield slice(image, image + images), slice(channel, channel + step)


class _PairDistance(torch.autograd.Function):
    """Mean over channels of |f_i - f_j| for every pair: (B, C, h, w) -> (B, O, h, w), 0 where there is no pair."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, radius: float, border: Border) -> Tensor:  # noqa: ANN401 - torch's context
        batch, channels, height, width = features.shape
        ctx.save_for_backward(features)
        ctx.rule = radius, border
        distance = features.new_zeros(batch, len(half_offsets(radius)), height, width)
        for images, part in _blocks(features):
            block, target = features[images, part], distance[images]
            for index, first, second in windows(height, width, radius, border):
                target[:, index, *first] += (block[..., *first] - block[..., *second]).abs_().sum(1)
        return distance.div_(channels)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401 - torch's context
        (features,) = ctx.saved_tensors
        channels, height, width = features.shape[1:]
        per_pair = grads[0] / channels
        total = torch.zeros_like(features)
        for images, part in _blocks(features):
            block, target, weight = features[images, part], total[images, part], per_pair[images]
            for index, first, second in windows(height, width, *ctx.rule):
                sign = (block[..., *first] - block[..., *second]).sign_()
                share = weight[:, index : index + 1, *first]
                target[..., *first].addcmul_(sign, share)
                target[..., *second].addcmul_(sign, share, value=-1)
        return total, None, None


def pair_affinity(features: Tensor, radius: float = 5, border: Border = "all") -> Tensor:
    """exp(-mean_c |f_i - f_j|) of every pair, differentiable once.

    Args:
        features: (B, C, h, w) floating; below float32 they are raised to it, since small distances matter.
        radius: pairs closer than this (exclusive), in nodes.
        border: which pairs exist.

    Returns:
        (B, O, h, w) in (0, 1], float32 or float64. Entries outside the grid are 1; the pair labels leave them out.

    Raises:
        ValueError: `features` does not have four axes.
    """
    check_shapes(features=(features, "B C h w"))
    wide = features if features.dtype == torch.float64 else features.float()
    return torch.exp(-_PairDistance.apply(wide, radius, border))


class AffinityLoss(NamedTuple):
    """The loss and its three parts, each the mean over its pairs (0 where there are none)."""

    total: Tensor
    background: Tensor
    foreground: Tensor
    negative: Tensor


class PairCounts(NamedTuple):
    """How many pairs of each kind there are."""

    background: float
    foreground: float
    negative: float

    @classmethod
    def of(cls, labels: PairLabels) -> "PairCounts":
        """Counted over the whole batch."""
        return cls(*(float(mask.sum()) for mask in (labels.background, labels.foreground, labels.negative)))


def affinity_loss(
    affinity: Tensor, labels: PairLabels, counts: PairCounts | None = None, *, epsilon: float = 1e-5
) -> AffinityLoss:
    """Cross-entropy of pairs: background / 4 + foreground / 4 + negative / 2, each over (count + 1e-5).

    Paper 003 prints L_fg + L_bg + 2 L_neg, four times this, and log(W) for negatives, a misprint for log(1 - W).

    Args:
        affinity: (B, O, h, w) from `pair_affinity`.
        labels: masks of the same shape.
        counts: pairs of the whole batch, if this is a part of it; losses of parts add up. None: this is the whole.
        epsilon: added inside both logarithms (1e-5 in psa, 1e-6 in paper 003's code).

    Returns:
        Four scalars.

    Raises:
        ValueError: shapes differ.
    """
    check_shapes(
        affinity=(affinity, "B O h w"),
        background=(labels.background, "B O h w"),
        foreground=(labels.foreground, "B O h w"),
        negative=(labels.negative, "B O h w"),
    )
    joined, parted = -torch.log(affinity + epsilon), -torch.log(1 + epsilon - affinity)
    known: tuple[float | None, ...] = counts or (None, None, None)
    background = _mean(joined, labels.background, known[0])
    foreground = _mean(joined, labels.foreground, known[1])
    negative = _mean(parted, labels.negative, known[2])
    return AffinityLoss(background / 4 + foreground / 4 + negative / 2, background, foreground, negative)


def _mean(values: Tensor, mask: Tensor, count: float | None) -> Tensor:
    total = mask.sum().to(values.dtype) if count is None else count
    return torch.where(mask, values, 0).sum() / (total + 1e-5)


@torch.no_grad()
def affinities(features: Tensor, radius: float = 5, border: Border = "all") -> Tensor:
    """Affinities of one image for the random walk.

    Args:
        features: (D, h, w) floating.
        radius: pairs closer than this (exclusive), in nodes.
        border: which pairs exist.

    Returns:
        (O, h, w) in [0, 1], 0 where there is no pair.

    Raises:
        ValueError: `features` does not have three axes.
    """
    _, height, width = check_shapes(features=(features, "D h w")).values()
    everywhere = pair_affinity(features[None], radius, border)[0]
    inside = torch.zeros_like(everywhere)
    for index, first, _ in windows(height, width, radius, border):
        inside[index, *first] = everywhere[index, *first]
    return inside
