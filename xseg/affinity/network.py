"""AffinityNet: features whose distances tell whether two nodes belong together (Ahn, Kwak 2018, arXiv:1803.10464)."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from xseg.errors import BadInput

Size = tuple[int, int]


@dataclass(frozen=True)
class AffinityConfig:
    """All that is needed to rebuild an AffinityNet; one entry per level of the classifier in the four tuples.

    Raises:
        ValueError: tuples of different lengths, none at all, or sizes that do not fit together.
    """

    layers: tuple[str, ...]
    """Module paths of the classifier whose outputs are read."""
    channels: tuple[int, ...]
    """Channels of those outputs."""
    widths: tuple[int, ...]
    """Channels each level is reduced to."""
    groups: tuple[int, ...]
    """Groups of the normalisation behind each reduction; 0: none."""
    features: int
    """Channels of the result."""
    stride: int = 8
    """Pixels of the input image per node of the result."""
    resize: Literal["last", "first"] = "last"
    """Whether a level is brought to the common grid after its reduction (cheaper) or before it (paper 003)."""
    standardise: bool = False
    """Whether each channel is first brought to mean 0 and deviation 1 over the training images. Not published; the
    channels of a network with linear bottlenecks differ by orders of magnitude, and a few would decide everything."""

    def __post_init__(self) -> None:
        levels = [len(field) for field in (self.layers, self.channels, self.widths, self.groups)]
        if levels[0] == 0 or len(set(levels)) != 1:
            raise ValueError(
                f"layers, channels, widths, groups have {levels} entries, needed equal numbers, one or more"
            )
        sizes = (*self.channels, *self.widths, self.features, self.stride)
        if min(sizes) < 1 or min(self.groups) < 0:
            raise ValueError(f"channels, widths, features and stride are {sizes}, needed positive numbers")
        for width, group in zip(self.widths, self.groups, strict=True):
            if group and width % group:
                raise ValueError(f"a width of {width} cannot be split into {group} groups")
        if self.resize not in ("first", "last"):
            raise ValueError(f"resize is {self.resize!r}, needed 'first' or 'last'")

    def to_json(self) -> str:
        """The configuration as one JSON object."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "AffinityConfig":
        """The configuration back from `to_json`.

        Raises:
            BadInput: not JSON, unknown or missing entries, or values that do not fit together.
        """
        try:
            entries: dict[str, Any] = json.loads(text)
            values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in entries.items()}
            return cls(**values)
        except (ValueError, TypeError, AttributeError) as error:
            raise BadInput(
                f"the configuration of the affinity network does not fit this version: {error}",
                "train it again with: xseg affinity-train",
            ) from error


@dataclass(frozen=True)
class HeadPreset:
    """Published sizes of the head; the levels are the classifier's last ones, in the direction of the data."""

    widths: tuple[int, ...]
    groups: tuple[int, ...]
    features: int
    resize: Literal["last", "first"] = "last"


PRESETS = {
    "psa": HeadPreset((64, 128, 256), (0, 0, 0), 448),
    "psa-vgg16": HeadPreset((64, 128, 256), (8, 16, 32), 448),
    "paper-003": HeadPreset((512,), (32,), 512, "first"),
}


def preset(name: str, layers: Sequence[str], channels: Sequence[int], stride: int = 8) -> AffinityConfig:
    """A published head on the last levels of a classifier.

    Args:
        name: one of `PRESETS`.
        layers: module paths of the classifier's levels, in the direction of the data.
        channels: their channels.
        stride: pixels per node.

    Raises:
        ValueError: unknown name, or fewer levels than the preset has.
    """
    if name not in PRESETS:
        raise ValueError(f"affinity preset is {name!r}, needed one of {', '.join(PRESETS)}")
    head = PRESETS[name]
    count = len(head.widths)
    if len(layers) < count:
        raise ValueError(f"preset {name} reads {count} levels, found {len(layers)}")
    return AffinityConfig(
        tuple(layers)[-count:], tuple(channels)[-count:], head.widths, head.groups, head.features, stride, head.resize
    )


def grid_size(image_size: Size, stride: int) -> Size:
    """Nodes (rows, columns) that cover an image of (height, width) pixels, the last ones possibly in part."""
    return -(-image_size[0] // stride), -(-image_size[1] // stride)


def pad_to_multiple(images: Tensor, multiple: int, value: float = 0.0) -> Tensor:
    """Images (..., H, W) padded right and below with `value` to multiples of `multiple`, as psa does after normalising.

    Use the coarsest stride among the levels, so that their grids cover the same area.
    """
    height, width = images.shape[-2:]
    return functional.pad(images, (0, -width % multiple, 0, -height % multiple), value=value)


class AffinityNet(nn.Module):
    """Reduces each level by a 1x1 convolution, joins them on one grid and mixes them.

    New weights are drawn as published: Kaiming normal for the reductions, Xavier uniform with gain 4 for the mix.
    """

    def __init__(self, config: AffinityConfig) -> None:
        super().__init__()
        self.config = config
        sizes = zip(config.channels, config.widths, config.groups, strict=True)
        self.levels = nn.ModuleList(_reduction(*size) for size in sizes)
        for index, channels in enumerate(config.channels if config.standardise else ()):
            self.register_buffer(f"centre_{index}", torch.zeros(1, channels, 1, 1))
            self.register_buffer(f"spread_{index}", torch.ones(1, channels, 1, 1))
        self.mix = nn.Conv2d(sum(config.widths), config.features, 1, bias=False)
        nn.init.xavier_uniform_(self.mix.weight, gain=4)

    def forward(self, levels: Sequence[Tensor], image_size: Size) -> Tensor:
        """Features of every node.

        Args:
            levels: feature maps (B, C_i, h_i, w_i) in the order of the configuration, each covering the whole image.
            image_size: (H, W) of the images that went into the classifier, in pixels.

        Returns:
            (B, features, ceil(H / stride), ceil(W / stride)).

        Raises:
            ValueError: another number of levels or of channels than configured.
        """
        found = tuple(level.shape[1] for level in levels)
        if found != self.config.channels:
            raise ValueError(f"levels have {found} channels, needed {self.config.channels}")
        grid = grid_size(image_size, self.config.stride)
        standard = [self._standard(index, level) for index, level in enumerate(levels)]
        reduced = [self._to_grid(reduce, level, grid) for reduce, level in zip(self.levels, standard, strict=True)]
        return functional.elu(self.mix(torch.cat(reduced, 1)))

    def _standard(self, index: int, level: Tensor) -> Tensor:
        if not self.config.standardise:
            return level
        return (level - self.get_buffer(f"centre_{index}")) / self.get_buffer(f"spread_{index}")

    @torch.no_grad()
    def fit(self, batches: Iterable[Sequence[Tensor]]) -> None:
        """Set the statistics of a network that standardises.

        Args:
            batches: levels (B, C_i, h_i, w_i) of training images, as `forward` takes them.
        """
        sums = [torch.zeros(3, channels, dtype=torch.float64) for channels in self.config.channels]
        for levels in batches:
            for total, level in zip(sums, levels, strict=True):
                values = level.double().transpose(0, 1).flatten(1).cpu()
                total += torch.stack(
                    [torch.full_like(values[:, 0], values.shape[1]), values.sum(1), values.square().sum(1)]
                )
        for index, (count, first, second) in enumerate(sums):
            mean = first / count
            deviation = (second / count - mean.square()).clamp(min=0).sqrt()
            self.get_buffer(f"centre_{index}").copy_(mean[None, :, None, None])
            self.get_buffer(f"spread_{index}").copy_(deviation.clamp(min=1e-3)[None, :, None, None])

    def _to_grid(self, reduce: nn.Module, level: Tensor, grid: Size) -> Tensor:
        # A finer level is averaged first: fewer positions to reduce, and bilinear sampling would skip most of them.
        if self.config.resize == "first" or _is_finer(level, grid):
            return reduce(_resized(level, grid))
        return _resized(reduce(level), grid)


def _reduction(channels: int, width: int, groups: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, 1, bias=False)
    nn.init.kaiming_normal_(convolution.weight)
    norm = nn.GroupNorm(groups, width) if groups else nn.Identity()
    return nn.Sequential(convolution, norm, nn.ELU())


def _resized(level: Tensor, grid: Size) -> Tensor:
    if tuple(level.shape[-2:]) == grid:
        return level
    if _is_finer(level, grid):
        return functional.adaptive_avg_pool2d(level, grid)
    return functional.interpolate(level, size=grid, mode="bilinear", align_corners=False)


def _is_finer(level: Tensor, grid: Size) -> bool:
    return level.shape[-2] > grid[0] and level.shape[-1] > grid[1]
