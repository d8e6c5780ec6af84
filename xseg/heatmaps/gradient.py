"""Maps from the gradient of a logit with respect to the picture."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from xseg.classifier.model import Classifier
from xseg.heatmaps.layers import answer_by_gradient, evaluating, image_leaf
from xseg.heatmaps.registry import Method, Query, methods


@methods.register("input-x-gradient")
@dataclass(frozen=True)
class InputTimesGradient(Method):
    """sum_rgb x * dy_k/dx with raw logits y and normalised pixels x (Shrikumar et al. 2016).

    For a network of linear layers without bias and ReLUs the map sums to the logit.

    Args:
        absolute: the absolute value of each colour's product instead, an unsigned map.
    """

    absolute: bool = False

    signed: ClassVar[bool] = True
    class_specific: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True
    models: ClassVar[str] = "any"
    cost: ClassVar[str] = "1 f + K b"
    summary: ClassVar[str] = "pixel times gradient, summed over colour: signed, at the picture's resolution"
    source: ClassVar[str] = "Shrikumar et al. 2016, arXiv:1605.01713"

    @property
    def is_signed(self) -> bool:
        """Unsigned with `absolute`."""
        return not self.absolute

    def __call__(self, classifier: Classifier, query: Query) -> Tensor:
        """Maps (P,H,W) at the resolution of the images; all classes share one forward pass."""
        with evaluating(classifier, query.create_graph), torch.enable_grad():
            leaf = image_leaf(query)
            logits = classifier(leaf.clone())  # a copy, so that the network may work in place
        return answer_by_gradient(query, leaf, logits, self._weigh)

    def _weigh(self, gradient: Tensor, pixels: Tensor) -> Tensor:
        product = gradient * pixels
        return (product.abs() if self.absolute else product).sum(1)
