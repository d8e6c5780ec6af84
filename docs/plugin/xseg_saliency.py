"""The first saliency maps, max_rgb |dy_k/dx| (Simonyan et al. 2014), as a method of xseg."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from xseg.heatmaps.layers import answer_by_gradient, evaluating, image_leaf
from xseg.heatmaps.registry import Method, methods


@methods.register("saliency")
@dataclass(frozen=True)
class Saliency(Method):
    power: float = 1.0  # --set power=0.5 lifts what is weak

    signed: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    models: ClassVar[str] = "any"
    cost: ClassVar[str] = "1 f + K b"
    summary: ClassVar[str] = "largest absolute gradient of the three colours"
    source: ClassVar[str] = "Simonyan et al. 2014, arXiv:1312.6034"

    def __call__(self, classifier, query):
        with evaluating(classifier), torch.enable_grad():
            leaf = image_leaf(query)
            logits = classifier(leaf.clone())
        return answer_by_gradient(query, leaf, logits, lambda gradient, _: gradient.abs().amax(1) ** self.power)
