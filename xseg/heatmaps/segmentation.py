"""What a network's own segmentation head says, as a heatmap."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from xseg.classifier.capture import capture
from xseg.classifier.model import Classifier
from xseg.classifier.multi_task import SEGMENT, MultiTaskUNet
from xseg.errors import UsageError
from xseg.heatmaps.layers import evaluating, single
from xseg.heatmaps.registry import Method, Query, methods


@methods.register("segmentation-head")
@dataclass(frozen=True)
class SegmentationHead(Method):
    """The logits that a multi-task U-Net's decoder has for each pixel.

    No explanation of what the classifier says: the decoder learns from masks, by `train-guided`. It is what guided
    heatmaps are compared with (Yu et al. 2024). In training (`create_graph`) the network runs in the mode it is in, as
    networks that segment are trained, and not in evaluation mode like the others.
    """

    signed: ClassVar[bool] = True
    class_specific: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True
    models: ClassVar[str] = "multi-task-unet"
    cost: ClassVar[str] = "1 f"
    summary: ClassVar[str] = "not an explanation: what the decoder of a multi-task U-Net says of each pixel"
    source: ClassVar[str] = "Ronneberger et al. 2015, arXiv:1505.04597"

    def serves(self, classifier: Classifier, layer: str | None = None) -> str | None:
        """Whether the network has such a head."""
        if isinstance(classifier.net, MultiTaskUNet):
            return None
        return "the network has no segmentation head; train-guided --heatmap segmentation-head gives it one"

    def __call__(self, classifier: Classifier, query: Query) -> Tensor:
        """Logits (P,H,W) at the resolution of the images.

        Raises:
            UsageError: the network has no such head.
        """
        if problem := self.serves(classifier):
            raise UsageError(f"--method segmentation-head: {problem}")
        graph = query.create_graph
        with (
            nullcontext() if graph else evaluating(classifier),
            torch.set_grad_enabled(graph),
            capture(classifier, [SEGMENT], graph) as features,
        ):
            classifier(query.images)
        return single(features[SEGMENT])[query.image, query.target]
