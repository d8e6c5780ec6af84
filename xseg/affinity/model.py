"""Backbone and AffinityNet together: pixels in, node features out."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from xseg.affinity.network import AffinityConfig, AffinityNet, pad_to_multiple, preset
from xseg.classifier.capture import capture
from xseg.classifier.features import feature_layers
from xseg.classifier.model import Classifier
from xseg.errors import UsageError

IMAGE = "image"  # in place of a layer: the colours themselves


class AffinityModel(nn.Module):
    """The classifier's multi-level features, reduced and mixed by an AffinityNet.

    Args:
        classifier: whose layers are read.
        net: made for those layers.
        finetune: whether gradients reach the classifier; without, it stays in evaluation mode.
    """

    def __init__(self, classifier: Classifier, net: AffinityNet, finetune: bool = False) -> None:
        super().__init__()
        self.classifier = classifier
        self.net = net
        self._finetune = finetune

    def train(self, mode: bool = True) -> "AffinityModel":
        """Training mode for the new layers; the classifier's statistics stay as they are."""
        super().train(mode)
        self.classifier.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Features of every node.

        Args:
            images: (B, 3, H, W) normalised.

        Returns:
            (B, features, ceil(H / stride), ceil(W / stride)) float32.
        """
        return self.net(self.levels_of(images), (images.shape[2], images.shape[3])).float()

    def levels_of(self, images: Tensor) -> list[Tensor]:
        """The classifier's feature maps that the AffinityNet reads; the normalised image itself where it is a level."""
        paths = self.net.config.layers
        stages = [path for path in paths if path != IMAGE]
        learns = self._finetune and torch.is_grad_enabled()
        with torch.set_grad_enabled(learns):
            with capture(self.classifier, stages, grad=learns) as features:
                self.classifier(images)
            return [images if path == IMAGE else features[path] for path in paths]

    def features_of(self, images: Tensor, flip: bool = False) -> Tensor:
        """Node features of whole images for the walk: padded to the backbone's stride, cut to the images' own grid.

        Args:
            images: (B, 3, H, W) normalised.
            flip: average with the features of the mirrored images.

        Returns:
            (B, features, ceil(H / stride), ceil(W / stride)).
        """
        height, width = images.shape[-2:]
        stride = self.net.config.stride
        padded = pad_to_multiple(images, max(stride, 32))
        features = self(padded)
        if flip:
            features = (features + self(padded.flip(3)).flip(3)) / 2
        return features[:, :, : -(-height // stride), : -(-width // stride)]


def configure(
    classifier: Classifier,
    *,
    name: str = "psa",
    layers: Sequence[str] | None = None,
    widths: Sequence[int] | None = None,
    features: int | None = None,
    groups: int | None = None,
    stride: int = 8,
    standardise: bool = False,
) -> AffinityConfig:
    """An AffinityNet for a classifier.

    Args:
        classifier: whose feature layers are looked up.
        name: published head to start from.
        layers: module paths to read instead of the last ones; `image` is the picture itself.
        widths: channels each of them is reduced to.
        features: channels of the result.
        groups: groups of the normalisation behind each reduction; 0 for none.
        stride: pixels per node.
        standardise: see `AffinityConfig`.

    Raises:
        UsageError: an unknown layer, or widths that do not go with the layers.
    """
    known = {layer.path: layer.channels for layer in feature_layers(classifier)}
    chosen = list(layers or known)
    if unknown := [path for path in chosen if path not in known and path != IMAGE]:
        raise UsageError(f"--layers: no stage {unknown[0]!r}", f"the classifier's stages: {', '.join(known)}, {IMAGE}")
    channels = [3 if path == IMAGE else known[path] for path in chosen]
    if widths is None:
        try:
            return replace(preset(name, chosen, channels, stride), standardise=standardise)
        except ValueError as error:
            raise UsageError(f"--preset {name}: {error}") from error
    if len(widths) != len(chosen):
        raise UsageError(f"--widths: {len(widths)} numbers for {len(chosen)} layers", f"layers: {', '.join(chosen)}")
    return AffinityConfig(
        layers=tuple(chosen),
        channels=tuple(channels),
        widths=tuple(widths),
        groups=(groups or 0,) * len(chosen),
        features=features or sum(widths),
        stride=stride,
        standardise=standardise,
    )
