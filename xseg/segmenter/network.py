"""The segmenter: a backbone, a head, and logits at the size of the image."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xseg.classifier.model import Classifier, build
from xseg.errors import BadInput, UsageError
from xseg.heatmaps.batches import sides_of
from xseg.heatmaps.views import smallest_side
from xseg.seeding import key_seed
from xseg.segmenter.backbone import Backbone, finer_layer, last_layer, level_at
from xseg.segmenter.config import Head, Norm, SegmenterConfig
from xseg.segmenter.heads import make_head, resize

WIDTH = {"deeplabv3": 256, "deeplabv3+": 256, "lraspp": 128}  # as published
_FINE_STRIDE = {"deeplabv3": 0, "deeplabv3+": 4, "lraspp": 8}  # of the finer features, as published


class Segmenter(nn.Module):
    """Pixels in, one logit per pixel and class out.

    Args:
        config: what rebuilds it.
        classifier: made by the config's `backbone`; what comes after `layer` is taken out of it.
    """

    def __init__(self, config: SegmenterConfig, classifier: Classifier) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(classifier, config.layer, config.fine_layer)
        self.head = make_head(config)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, C + 1, H, W) float32 of normalised images (N, 3, H, W); the background first."""
        features, fine = self.backbone(images)
        return resize(self.head(features, fine).float(), sides_of(images))

    def normalise(self, images: Tensor) -> Tensor:
        """RGB (N,3,H,W), uint8 or float in [0, 1], as the float32 input of the network."""
        return self.backbone.classifier.normalise(images)

    @property
    def trunk(self) -> nn.Module:
        """The backbone's network up to the layer."""
        return self.backbone.trunk.net


@dataclass(frozen=True)
class HeadOptions:
    """The head's shape; None: as published, or what the backbone gives.

    Attributes:
        head: None: `deeplabv3+` where the backbone has features of 4 pixels per place or fewer, else `deeplabv3`.
        layer: module path of the features to read.
        width: channels inside the head.
        rates: dilations of the ASPP; None: 96, 192 and 288 pixels, which are 6, 12, 18 at stride 16.
        norm: `batch`, or `group`, whose result does not depend on how a batch is split.
        dropout: behind the ASPP.
    """

    head: Head | None = None
    layer: str | None = None
    width: int | None = None
    rates: tuple[int, ...] | None = None
    norm: Norm = "batch"
    dropout: float = 0.1


def configure(classifier: Classifier, classes: tuple[str, ...], options: HeadOptions) -> SegmenterConfig:
    """The recipe of a segmenter on a classifier, which stays as it is.

    Raises:
        UsageError: a layer it does not have, or options that do not fit together.
    """
    level = level_at(classifier, options.layer or last_layer(classifier))
    fine = finer_layer(classifier, level, _FINE_STRIDE[options.head or "deeplabv3+"])
    head = options.head or ("deeplabv3+" if fine else "deeplabv3")
    if head == "deeplabv3+" and fine is None:
        raise UsageError(
            f"--head deeplabv3+: {classifier.config.model} has no features of 4 pixels per place or fewer",
            "use --head deeplabv3",
        )
    if head == "lraspp" and options.rates is not None:
        raise UsageError("--rates with --head lraspp: it has no dilated convolutions", "leave --rates out")
    rates = options.rates or tuple(max(1, round(pixels / level.stride)) for pixels in (96, 192, 288))
    try:
        return SegmenterConfig(
            classes=classes,
            backbone=classifier.config,
            layer=level.path,
            channels=level.channels,
            fine_layer=fine.path if fine else None,
            fine_channels=fine.channels if fine else 0,
            head=head,
            width=options.width or WIDTH[head],
            rates=() if head == "lraspp" else rates,
            norm=options.norm,
            dropout=options.dropout,
            smallest=smallest_side(classifier),
        )
    except ValueError as error:
        raise UsageError(f"the head cannot be made: {error}", "see xseg train-seg --help") from error


def create(classifier: Classifier, classes: tuple[str, ...], options: HeadOptions, seed: int = 0) -> Segmenter:
    """A segmenter whose backbone has the classifier's weights and whose head is drawn by `seed`.

    The classifier's network becomes part of it and makes no logits any more.

    Raises:
        UsageError: see `configure`.
    """
    config = configure(classifier, classes, options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key_seed(seed, "segmentation head"))
        return Segmenter(config, classifier)


def rebuild(config: SegmenterConfig) -> Segmenter:
    """A fresh segmenter from its config alone, with random weights.

    Raises:
        BadInput: the config names layers that its backbone does not have.
        UsageError, Unavailable: the backbone cannot be constructed here.
    """
    classifier = build(config.backbone)
    try:
        return Segmenter(config, classifier)
    except UsageError as error:
        raise BadInput(f"segmenter config: {error.problem}", error.hint) from error
