"""The U-Net classifier: an encoder, a decoder back to the image's resolution, a global mean and a linear layer.

Ronneberger et al. 2015 (arXiv:1505.04597) as a classifier, after paper 002 (Mascolini et al. 2022). The last feature
map has a position for every pixel of the image, and a global mean and a linear layer follow it, so class activation
maps are exact there. Without skip connections (`skips=false`) the decoder sees of the image what the bottleneck holds,
no more.

Ronneberger's convolutions have no padding and no batch norm, and learned 2x2 convolutions double the grid. Here
convolutions are padded, batch norms follow them, and grids are resized bilinearly to those of the encoder: any height
and width come back to themselves.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from xseg.classifier.config import Scalar
from xseg.classifier.encoder import (
    UNFIT,
    Preprocessing,
    load_published,
    published_preprocessing,
    reason_of,
    require_timm,
)
from xseg.classifier.shape import Shape
from xseg.classifier.sides import side_steps, takes_one_size
from xseg.classifier.weights import load_into
from xseg.errors import UsageError

FEATURES = "decoder"  # module path of the decoder, whose output is the last feature map
WHOLE = "decoder."  # how keys begin that a U-Net has and its encoder has not
PLAIN = "plain"  # the encoder of Ronneberger et al.
Size = tuple[int, int]
PRESETS: dict[str, dict[str, Scalar]] = {
    "small": {},
    "paper-002": {"encoder": PLAIN, "width": 64, "fine": 1, "depth": 4, "passing": False},
}


@dataclass(frozen=True)
class UNetShape(Shape):
    """What decides the layers of a U-Net.

    Args:
        encoder: a convolutional network of timm, or `plain`: two convolutions at each stride, of
            `width * stride` channels.
        skips: whether the decoder reads the encoder's finer features, too.
        width: channels of the last feature map.
        fine: stride up to which the decoder has `width` channels; at coarser ones `width * stride / fine`.
        depth: number of halvings; the bottleneck has the stride 2^depth.
        passing: whether a new decoder passes on what it is given, see `pass_on`; else its weights are drawn as
            Ronneberger et al. draw them.
        drop_rate: dropout before the head.

    Raises:
        UsageError: values out of range.
    """

    encoder: str = "tf_efficientnet_lite0"
    skips: bool = True
    width: int = 32
    fine: int = 4
    depth: int = 5
    passing: bool = True
    drop_rate: float = 0.0

    kind: ClassVar[str] = "unet"
    presets: ClassVar[Mapping[str, Mapping[str, Scalar]]] = PRESETS
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {
        "width": (1, 256), "fine": (1, 64), "depth": (1, 6), "drop_rate": (0, 0.99),
    }  # fmt: skip

    def channels(self, stride: int) -> int:
        """Channels of the decoder at a stride."""
        return max(self.width, self.width * stride // self.fine)


class DoubleConv(nn.Sequential):
    """Two 3x3 convolutions, each with a batch norm and a ReLU: (N,before,h,w) to (N,after,h,w)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(*_convolution(before, after), *_convolution(after, after))


def _convolution(before: int, after: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_in", nonlinearity="relu")
    return convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True)


def pass_on(level: DoubleConv, coarser: int) -> None:
    """Let a new level of a decoder begin as one that passes coarser features on.

    The middles of its kernels start as a matrix with orthonormal rows (the identity where it is square), twice for the
    ReLUs, and the rest at a tenth of what was drawn. Ten random layers in a row mix what the bottleneck knows until
    little of it can be told from their output; passed on, an encoder's knowledge is there from the first step.

    Args:
        level: whose first convolution reads the coarser features before those of a skip connection.
        coarser: channels of the coarser features.
    """
    first, second = level[0], level[3]
    assert isinstance(first, nn.Conv2d)
    assert isinstance(second, nn.Conv2d)
    with torch.no_grad():
        for convolution, read in ((first, coarser), (second, second.in_channels)):
            middle = convolution.weight.new_empty(convolution.out_channels, read)
            nn.init.eye_(middle) if read == len(middle) else nn.init.orthogonal_(middle)
            convolution.weight.mul_(0.1)
            convolution.weight[:, :read, 1, 1] += 2**0.5 * middle


class PlainEncoder(nn.Module):
    """The contracting path of Ronneberger et al.: double convolutions with 2x2 maximum pools between them.

    Args:
        width: channels at full resolution; they double with each pool.
        depth: number of pools.

    Attributes:
        channels: of each feature map, from fine to coarse.
        strides: pixels per position of each.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.strides = [2**level for level in range(depth + 1)]
        self.channels = [width * stride for stride in self.strides]
        pairs = zip([3, *self.channels], self.channels, strict=False)
        self.levels = nn.ModuleList(DoubleConv(before, after) for before, after in pairs)
        # Borders that do not fill a window are pooled, too, so that no image is too small.
        self.pools = nn.ModuleList(nn.MaxPool2d(2, ceil_mode=True) for _ in range(depth))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features (N,K_i,h_i,w_i) of images (N,3,H,W), from fine to coarse."""
        features = [self.levels[0](images)]
        for pool, level in zip(self.pools, self.levels[1:], strict=True):
            features.append(level(pool(features[-1])))
        return features


class TimmEncoder(nn.Module):
    """A network of timm, read at the end of each of its strides; `net` has timm's keys.

    Args:
        name: a convolutional network of timm.
        depth: the coarsest features have the stride 2^depth.
        classes: of its own head, which is kept with all that comes before it; None: neither is built.

    Attributes:
        channels: of each feature map, from fine to coarse.
        strides: pixels per position of each.
        unused: keys of the whole network that come after the coarsest features, and are not built.

    Raises:
        ValueError: no feature maps at that stride, or of a network that takes images of some sizes only.
    """

    def __init__(self, name: str, depth: int, classes: int | None = None) -> None:
        super().__init__()
        import timm

        ends = {"num_classes": 0, "global_pool": ""} if classes is None else {"num_classes": classes}
        net: Any = timm.create_model(name, pretrained=False, **ends)
        if takes_one_size(net) or side_steps(net) != (1, 1):
            raise ValueError("it takes images of some sizes only")
        if not hasattr(net, "forward_intermediates"):
            raise ValueError("timm offers none of its intermediate features")
        whole = net.state_dict().keys()
        self._indices = _ends_of_strides(net, 2**depth)
        if classes is None:
            net.prune_intermediate_layers(self._indices, prune_norm=True, prune_head=True)
        self.net = net
        self.unused = frozenset(whole - net.state_dict().keys())
        self.strides, self.channels = self._probed()

    def _probed(self) -> tuple[list[int], list[int]]:
        listed = _listed(self.net)
        with torch.no_grad():  # odd sides, which some networks do not take (HRNet, DLA)
            features = self.eval()(torch.zeros(1, 3, 97, 131))
        self.train()
        expected = [listed[index]["num_chs"] for index in self._indices]
        found = [values.shape[1] for values in features if values.ndim == 4]
        if found != expected:
            raise ValueError(f"features of {found} channels, timm lists {expected}")
        return [listed[index]["reduction"] for index in self._indices], found

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features (N,K_i,h_i,w_i) of images (N,3,H,W), from fine to coarse."""
        net: Any = self.net
        features: list[Tensor] = net.forward_intermediates(images, indices=self._indices, intermediates_only=True)
        return features

    def with_logits(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """The same features, and the logits (N,C) of the network's own head."""
        net: Any = self.net
        last, features = net.forward_intermediates(images, indices=self._indices)
        return features, net.forward_head(last)


def _listed(net: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - timm's networks
    info = net.feature_info
    return list(info if isinstance(info, list) else info.info)


def _ends_of_strides(net: Any, coarsest: int) -> list[int]:  # noqa: ANN401 - timm's networks
    """Of the features that timm lists, the last of each stride."""
    ends = {entry["reduction"]: index for index, entry in enumerate(_listed(net))}
    if coarsest not in ends:
        raise ValueError(f"features of stride {', '.join(map(str, sorted(ends)))}, needed {coarsest} = 2^depth")
    return [index for stride, index in sorted(ends.items()) if stride <= coarsest]


class Decoder(nn.Module):
    """From the bottleneck back to the image's resolution, one double convolution at each stride of the encoder.

    Args:
        shape: widths, and whether there are skip connections.
        encoder: of which `channels` and `strides` are read.
    """

    def __init__(self, shape: UNetShape, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        finer = [*zip(channels, strides, strict=True)][-2::-1]
        if not finer or finer[-1][1] != 1:
            finer.append((0, 1))  # the image's own resolution, at which most encoders have no features
        self.skips = shape.skips
        levels, before = [], channels[-1]
        for more, stride in finer:
            after = shape.channels(stride)
            levels.append(DoubleConv(before + (more if shape.skips else 0), after))
            if shape.passing:
                pass_on(levels[-1], before)
            before = after
        self.levels = nn.ModuleList(levels)

    def forward(self, features: Sequence[Tensor], size: Size) -> Tensor:
        """Features (N,width,H,W) of every pixel.

        Args:
            features: (N,K_i,h_i,w_i) from fine to coarse, the bottleneck last. Without skip connections only the
                sizes of the finer ones are read.
            size: (H,W) of the images.
        """
        x, finer = features[-1], [*features[-2::-1], None]
        for level, skip in zip(self.levels, finer, strict=False):
            x = functional.interpolate(x, size if skip is None else skip.shape[2:], mode="bilinear")
            x = level(x if skip is None or not self.skips else torch.cat([x, skip], 1))
        return x


class UNet(nn.Module):
    """Images (N,3,H,W) to logits (N,C), by a global mean over the pixels of the decoder's features.

    Args:
        shape: what decides the layers.
        encoder: images to features from fine to coarse.
        classes: number of logits.
    """

    def __init__(self, shape: UNetShape, encoder: PlainEncoder | TimmEncoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = Decoder(shape, encoder.channels, encoder.strides)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(shape.drop_rate)
        self.head = nn.Linear(shape.width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N,C) of normalised images (N,3,H,W)."""
        features = self.decoder(self.encoder(images), images.shape[2:])
        return self.head(self.drop(self.pool(features).flatten(1)))


def unet(shape: UNetShape, classes: int, output_stride: int | None = None) -> nn.Module:
    """A U-Net with random weights and `classes` logits.

    Raises:
        UsageError: no such encoder, one without feature maps at that depth, or an output stride.
    """
    refuse_stride(output_stride)
    encoder = PlainEncoder(shape.width, shape.depth) if shape.encoder == PLAIN else timm_encoder(shape)
    return UNet(shape, encoder, classes)


def refuse_stride(output_stride: int | None) -> None:
    """Refuse any other stride than that of the pixels."""
    if output_stride not in (None, 1):
        raise UsageError(
            f"--output-stride {output_stride}: a U-Net's last features have a position for every pixel", "leave it out"
        )


def timm_encoder(shape: UNetShape, classes: int | None = None) -> TimmEncoder:
    """The encoder of a shape that names one of timm; see `TimmEncoder`.

    Raises:
        UsageError: no such encoder, or one without feature maps at that depth.
    """
    require_timm(shape.encoder, f"--set encoder={shape.encoder}")
    try:
        return TimmEncoder(shape.encoder, shape.depth, classes)
    except UNFIT as error:
        raise UsageError(
            f"--set encoder={shape.encoder}: it cannot be one ({reason_of(error)})",
            "choose a convolutional network of timm, or another --set depth=N",
        ) from error


def preprocessing_of(net: nn.Module) -> Preprocessing:
    """Input size, mean and std that the encoder's weights expect; ImageNet's for the plain one."""
    return (
        published_preprocessing(net.get_submodule("encoder.net"), Preprocessing()) if _of_timm(net) else Preprocessing()
    )


def load_unet(net: nn.Module, state: Mapping[str, Tensor], source: str, skip: str | None = None) -> None:
    """Load the weights of a whole U-Net, or those of its encoder as timm has them.

    Of an encoder's weights its head is left out, and what comes after the coarsest features that the decoder reads (the
    last 1x1 convolution of an EfficientNet): `TimmEncoder.unused`. All others must fit. The decoder stays as it is.

    Args:
        net: from `unet`.
        state: tensors by state-dict key.
        source: where they came from, for messages.
        skip: module path of a new head, whose parameters keep their values.

    Raises:
        BadInput: they fit neither.
    """
    if any(key.startswith(WHOLE) for key in state) or not _of_timm(net):
        load_into(net, state, source, skip)
        return
    encoder = net.get_submodule("encoder")
    assert isinstance(encoder, TimmEncoder)
    unused: Collection[str] = encoder.unused
    load_published(encoder.net, state, source, "encoder", unused)


def _of_timm(net: nn.Module) -> bool:
    return isinstance(net.get_submodule("encoder"), TimmEncoder)
