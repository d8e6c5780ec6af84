"""Feature maps weighted by what the classifier says about the picture seen through each of them; no gradients."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from xseg.classifier.model import Classifier
from xseg.errors import UsageError
from xseg.heatmaps.batches import sides_of
from xseg.heatmaps.layers import LayerMaps, evaluating, single
from xseg.heatmaps.registry import Query, methods
from xseg.registry import memory_only

Variant = Literal["official", "pytorch-grad-cam"]


@methods.register("score-cam")
@dataclass(frozen=True)
class ScoreCam(LayerMaps):
    """ReLU(sum_c w_c A_c), w_c the class's score for the picture times A_c scaled to [0,1] (Wang et al. 2020).

    Two computations were published, and they differ:

    - `official` (the authors' code): w_c is the class's probability, by the classifier's own activation; channels
      that are constant over the picture are left out. The sum is upsampled before the ReLU.
    - `pytorch-grad-cam`: w is the softmax over the channels of the raw logits, a constant channel counting as a mask
      of zeros; masks are upsampled with aligned corners. The paper's formula, the increase of the logit over that of
      a blank picture and then a softmax over the channels, is this one up to the masks' corners: the softmax cancels
      the blank picture's share.

    All classes of a picture share its masked forward passes.

    Args:
        variant: which published computation.
        channels: our extension: only as many channels of each picture, those of the largest mean absolute activation,
            which no class decides; none: all.
        chunk: masked pictures per forward pass; it bounds memory and does not change the result.
    """

    variant: Variant = "official"
    channels: int | None = None
    chunk: int = memory_only(16)

    signed: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True
    cost: ClassVar[str] = "1 f + one f per channel of the target layer, whatever K"
    summary: ClassVar[str] = "feature maps weighted by the class's score for the picture masked by each; no gradients"
    source: ClassVar[str] = "Wang et al. 2020, arXiv:1910.01279"

    def __post_init__(self) -> None:
        if self.channels is not None and self.channels < 1:
            raise UsageError(f"--set channels={self.channels}: needs at least 1, or none for all")
        if self.chunk < 1:
            raise UsageError(f"--set chunk={self.chunk}: needs at least 1 picture per forward pass")

    def __call__(self, classifier: Classifier, query: Query) -> Tensor:
        """Maps (P,H,W) at the resolution of the images, or (P,h,w) of the target layer for `pytorch-grad-cam`.

        Raises:
            UsageError: the layer's output is no feature map, or the logits do not depend on it.
        """
        graph = query.create_graph
        with evaluating(classifier, graph):
            leaf, _ = self.features(classifier, query)
            with torch.set_grad_enabled(graph):
                features = self._chosen(single(self.maps(classifier, query, leaf)))
                weights = self._weights(classifier, query.images, features)
                classes, column = query.target.unique(return_inverse=True)
                with torch.autocast(leaf.device.type, enabled=False):
                    maps = torch.einsum("nkc,nchw->nkhw", weights[:, classes], features)[query.image, column]
                if self.variant == "official":
                    maps = _upsampled(maps[:, None], sides_of(query.images), corners=False)[:, 0]
                return maps.relu()

    def _chosen(self, features: Tensor) -> Tensor:
        """The `channels` strongest of the feature maps (N,F,h,w) of each image, in their order."""
        if self.channels is None or self.channels >= features.shape[1]:
            return features
        strongest = features.abs().mean((2, 3)).topk(self.channels).indices.sort().values
        return features.take_along_dim(strongest[:, :, None, None], 1)

    def _weights(self, classifier: Classifier, images: Tensor, features: Tensor) -> Tensor:
        """Weights (N,C,F) of the feature maps (N,F,h,w) for each class."""
        varying = features.amax((2, 3)) > features.amin((2, 3))
        scores = features.new_zeros(*varying.shape, len(classifier.config.classes))
        pairs = varying.nonzero()
        found = [self._scores(classifier, images, features, pair) for pair in pairs.split(self.chunk) if len(pair)]
        if found:
            scores[varying] = torch.cat(found)
        if self.variant == "official":
            return scores.mT
        if not varying.all():
            scores[~varying] = single(classifier(torch.zeros_like(images[:1])))
        return scores.softmax(1).mT

    def _scores(self, classifier: Classifier, images: Tensor, features: Tensor, pairs: Tensor) -> Tensor:
        """Scores (V,C) of the images of `pairs` (V,2), index of image and of channel, times the channel's mask."""
        image, channel = pairs.unbind(1)
        official = self.variant == "official"
        masks = _upsampled(features[image, channel][:, None], sides_of(images), corners=not official)
        low, high = masks.amin((2, 3), keepdim=True), masks.amax((2, 3), keepdim=True)
        span = (high - low).clamp_min(torch.finfo(masks.dtype).tiny) if official else high - low + 1e-8
        masks = (masks - low) / span
        logits = single(classifier(images[image] * masks.to(images.dtype)))
        return classifier.probabilities(logits) if official else logits


def _upsampled(maps: Tensor, shape: tuple[int, int], corners: bool) -> Tensor:
    """Maps (V,1,h,w) as (V,1,*shape), bilinear, with the corners aligned or the pixels' centres."""
    return functional.interpolate(maps, shape, mode="bilinear", align_corners=corners)
