"""Segmentation heads: features of a backbone in, one logit per class and place out.

`deeplabv3` (Chen et al. 2017, arXiv:1706.05587), `deeplabv3+` (Chen et al. 2018, arXiv:1802.02611) and the light
`lraspp` (Howard et al. 2019, arXiv:1905.02244, section 6.4).
"""

from collections.abc import Sequence
from math import gcd

import torch
from torch import Tensor, nn
from torch.nn import functional

from xseg.segmenter.config import Norm, SegmenterConfig

_FINE_WIDTH = 48  # channels that DeepLabv3+ reduces the fine features to
_GROUPS = 32


def make_head(config: SegmenterConfig) -> nn.Module:
    """The head of a configuration, with random weights drawn from torch's generator.

    Its forward takes features (N, channels, h, w) and finer ones (N, fine_channels, H, W) or None, and returns logits
    (N, C + 1, h', w'), on the finer grid where there is one and the head uses it.
    """
    outputs = len(config.classes) + 1
    if config.head == "lraspp":
        return LRASPP(config.channels, config.fine_channels, outputs, config.width, config.norm)
    aspp = ASPP(config.channels, config.width, config.rates, config.norm, config.dropout)
    if config.head == "deeplabv3":
        return DeepLabV3(aspp, config.width, outputs, config.norm)
    return DeepLabV3Plus(aspp, config.fine_channels, config.width, outputs, config.norm)


def conv_norm(
    channels: int, width: int, kernel: int, norm: Norm, *, dilation: int = 1, activation: bool = True
) -> nn.Sequential:
    """A convolution that keeps the grid, without bias, a normalisation and a ReLU."""
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(channels, width, kernel, padding=padding, dilation=dilation, bias=False)
    # Groups of a size that divides the width, 32 of them where that goes (Wu and He 2018).
    normalise = nn.BatchNorm2d(width) if norm == "batch" else nn.GroupNorm(gcd(_GROUPS, width), width)
    return nn.Sequential(convolution, normalise, *([nn.ReLU(inplace=True)] if activation else []))


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: a 1x1 and dilated 3x3 convolutions and the image's mean, joined and mixed.

    The branch of the mean has a bias and no normalisation: it has a single place per image, of which a batch norm
    learns nothing where few images share a batch.

    Args:
        channels: of the features.
        width: of each branch and of the result.
        rates: dilations of the 3x3 convolutions.
        norm: `batch` or `group`.
        dropout: probability, of the result.
    """

    def __init__(self, channels: int, width: int, rates: Sequence[int], norm: Norm, dropout: float) -> None:
        super().__init__()
        dilated = [conv_norm(channels, width, 3, norm, dilation=rate) for rate in rates]
        self.branches = nn.ModuleList([conv_norm(channels, width, 1, norm), *dilated])
        self.mean = nn.Conv2d(channels, width, 1)
        self.mix = conv_norm((len(rates) + 2) * width, width, 1, norm)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        """(N, width, h, w) of (N, channels, h, w)."""
        mean = functional.relu(self.mean(features.mean((2, 3), keepdim=True)))
        found = [branch(features) for branch in self.branches]
        return self.dropout(self.mix(torch.cat([*found, mean.expand_as(found[0])], 1)))


class DeepLabV3(nn.Module):
    """ASPP, a 3x3 convolution and the logits."""

    def __init__(self, aspp: ASPP, width: int, outputs: int, norm: Norm) -> None:
        super().__init__()
        self.aspp = aspp
        self.refine = conv_norm(width, width, 3, norm)
        self.classify = nn.Conv2d(width, outputs, 1)

    def forward(self, features: Tensor, fine: Tensor | None = None) -> Tensor:
        """Logits (N, outputs, h, w) of features (N, channels, h, w)."""
        return self.classify(self.refine(self.aspp(features)))


class DeepLabV3Plus(nn.Module):
    """ASPP, brought to the grid of finer features and joined with them, two 3x3 convolutions and the logits."""

    def __init__(self, aspp: ASPP, fine_channels: int, width: int, outputs: int, norm: Norm) -> None:
        super().__init__()
        self.aspp = aspp
        self.reduce = conv_norm(fine_channels, _FINE_WIDTH, 1, norm)
        self.refine = nn.Sequential(
            conv_norm(width + _FINE_WIDTH, width, 3, norm), conv_norm(width, width, 3, norm)
        )  # fmt: skip
        self.classify = nn.Conv2d(width, outputs, 1)

    def forward(self, features: Tensor, fine: Tensor) -> Tensor:
        """Logits (N, outputs, H, W) of features (N, channels, h, w) and finer ones (N, fine_channels, H, W)."""
        coarse = resize(self.aspp(features), (fine.shape[2], fine.shape[3]))
        return self.classify(self.refine(torch.cat([coarse, self.reduce(fine)], 1)))


class LRASPP(nn.Module):
    """Features gated by a projection of their mean; finer ones add their own logits."""

    def __init__(self, channels: int, fine_channels: int, outputs: int, width: int, norm: Norm) -> None:
        super().__init__()
        self.reduce = conv_norm(channels, width, 1, norm)
        self.gate = nn.Conv2d(channels, width, 1, bias=False)
        self.classify = nn.Conv2d(width, outputs, 1)
        self.classify_fine = nn.Conv2d(fine_channels, outputs, 1) if fine_channels else None

    def forward(self, features: Tensor, fine: Tensor | None = None) -> Tensor:
        """Logits (N, outputs, H, W), on the grid of the finer features if there are any."""
        gated = self.reduce(features) * self.gate(features.mean((2, 3), keepdim=True)).sigmoid()
        if self.classify_fine is None or fine is None:
            return self.classify(gated)
        return self.classify(resize(gated, (fine.shape[2], fine.shape[3]))) + self.classify_fine(fine)


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resampling of (N,K,h,w) to `size` (height, width), align_corners=False."""
    return functional.interpolate(maps, size, mode="bilinear", align_corners=False)
