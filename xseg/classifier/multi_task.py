"""The multi-task U-Net: a published classifier as it is, and a decoder with a head of its own that segments.

What segmentation is usually trained with where labels are many and masks few, and so what paper 000 (Yu et al. 2024)
compares with: both tasks share the encoder. The logits are the classifier's own, by its own head; the decoder is that
of `xseg.classifier.unet`, and a 1x1 convolution makes of its features a map for each logit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from xseg.classifier.config import Scalar
from xseg.classifier.encoder import Preprocessing, published_preprocessing
from xseg.classifier.unet import PLAIN, Decoder, TimmEncoder, UNetShape, refuse_stride, timm_encoder
from xseg.errors import UsageError

SEGMENT = "segment"  # module path of what makes the maps
PRESETS: dict[str, dict[str, Scalar]] = {"small": {}}
PART = "encoder.net"  # module path of the classifier, which has timm's keys


@dataclass(frozen=True)
class MultiTaskShape(UNetShape):
    """What decides the layers: see `UNetShape`; the encoder is a network of timm."""

    kind: ClassVar[str] = "multi-task-unet"
    presets: ClassVar[Mapping[str, Mapping[str, Scalar]]] = PRESETS

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoder == PLAIN:
            raise UsageError("--set encoder=plain: it has no head", "name a convolutional network of timm")


class MultiTaskUNet(nn.Module):
    """Images (N,3,H,W) to logits (N,C) by the encoder's head; `segment` makes maps (N,C,H,W) on the way.

    Args:
        shape: of the decoder.
        encoder: with its head.
        classes: number of logits.
    """

    def __init__(self, shape: UNetShape, encoder: TimmEncoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = Decoder(shape, encoder.channels, encoder.strides)
        self.drop = nn.Dropout(shape.drop_rate)
        self.segment = nn.Conv2d(shape.width, classes, 1)
        nn.init.normal_(self.segment.weight, std=0.01)
        assert self.segment.bias is not None
        nn.init.zeros_(self.segment.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N,C) of normalised images (N,3,H,W); the maps are for whoever listens to `segment`.

        They are made in any case: their batch norms learn what features are like in these passes, in training mode.
        """
        features, logits = self.encoder.with_logits(images)
        self.segment(self.drop(self.decoder(features, images.shape[2:])))
        return logits


def multi_task_unet(shape: MultiTaskShape, classes: int, output_stride: int | None = None) -> nn.Module:
    """A multi-task U-Net with random weights and `classes` logits.

    Raises:
        UsageError: no such encoder, one without feature maps at that depth, or an output stride.
    """
    refuse_stride(output_stride)
    return MultiTaskUNet(shape, timm_encoder(shape, classes), classes)


def preprocessing_of(net: nn.Module) -> Preprocessing:
    """Input size, mean and std that the encoder's weights expect."""
    return published_preprocessing(net.get_submodule(PART), Preprocessing())
