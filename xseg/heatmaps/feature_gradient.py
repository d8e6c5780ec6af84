"""Feature maps of one layer weighted by the gradient of a logit with respect to them."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from xseg.classifier.model import Classifier
from xseg.errors import UsageError
from xseg.heatmaps.layers import LayerMaps, answer_by_gradient, evaluating
from xseg.heatmaps.registry import Query, methods

# Of Grad-CAM++'s denominators, as in pytorch-grad-cam.
_SMALLEST = 1e-6


# Classes whose gradients are taken at once: what lies above the target layer is small, its weights are not.
_TOGETHER = 32


class _FeatureGradient(LayerMaps):
    """What the CAM family shares: gradients of raw logits with respect to one layer's feature maps."""

    relu: bool
    signed: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True
    cost: ClassVar[str] = "1 f + K b of the layers above the target layer"

    @property
    def is_signed(self) -> bool:
        """Signed without ReLU."""
        return not self.relu

    def __call__(self, classifier: Classifier, query: Query) -> Tensor:
        """Maps (P,h,w) at the resolution of the target layer; all classes share one forward pass.

        Raises:
            UsageError: the layer's output is no feature map, or the logits do not depend on it.
        """

        def weigh(gradient: Tensor, features: Tensor) -> Tensor:
            return self._weigh(self.maps(classifier, query, gradient), self.maps(classifier, query, features))

        with evaluating(classifier, query.create_graph):
            leaf, logits = self.features(classifier, query)
            maps = answer_by_gradient(query, leaf, logits, weigh, _TOGETHER)
        return maps.relu() if self.relu else maps

    def _weigh(self, gradient: Tensor, features: Tensor) -> Tensor:
        raise NotImplementedError


@methods.register("grad-cam")
@dataclass(frozen=True)
class GradCam(_FeatureGradient):
    """ReLU(sum_c mean_hw(dy_k/dA_c) A_c) with raw logits y (Selvaraju et al. 2017, Eq. 1-2, mean instead of sum).

    Args:
        relu: drop evidence against the class.
    """

    relu: bool = True

    summary: ClassVar[str] = "feature maps weighted by the mean gradient of the logit; any network with feature maps"
    source: ClassVar[str] = "Selvaraju et al. 2017, arXiv:1610.02391"

    def _weigh(self, gradient: Tensor, features: Tensor) -> Tensor:
        return torch.einsum("pc,pchw->phw", gradient.mean((2, 3)), features)


@methods.register("layer-cam")
@dataclass(frozen=True)
class LayerCam(_FeatureGradient):
    """ReLU(sum_c max(dy_k/dA_c, 0) * A_c), each place weighted by its own gradient (Jiang et al. 2021).

    The paper's tanh scaling of shallow layers is not applied.

    Args:
        relu: drop evidence against the class.
    """

    relu: bool = True

    summary: ClassVar[str] = "feature maps weighted place by place by the positive gradient; also for shallow layers"
    source: ClassVar[str] = "Jiang et al. 2021, doi:10.1109/TIP.2021.3089943"

    def _weigh(self, gradient: Tensor, features: Tensor) -> Tensor:
        return (gradient.relu() * features).sum(1)


@methods.register("hires-cam")
@dataclass(frozen=True)
class HiResCam(_FeatureGradient):
    """ReLU(sum_c dy_k/dA_c * A_c), each place weighted by its own gradient of either sign (Draelos and Carin 2020).

    Where a global mean and a linear head follow the layer this is Grad-CAM, and where a single linear layer follows,
    the map sums to the logit without its bias.

    Args:
        relu: drop evidence against the class; the paper shows the signed map.
    """

    relu: bool = True

    summary: ClassVar[str] = "feature maps weighted place by place by the gradient; shows only places the logit used"
    source: ClassVar[str] = "Draelos and Carin 2020, arXiv:2011.08891"

    def _weigh(self, gradient: Tensor, features: Tensor) -> Tensor:
        return (gradient * features).sum(1)


@methods.register("grad-cam++")
@dataclass(frozen=True)
class GradCamPlusPlus(_FeatureGradient):
    """ReLU(sum_c w_c A_c) with w_c = sum_hw a_c max(g_c, 0), g = dy_k/dA (Chattopadhyay et al. 2018, Eq. 19).

    a_c = g_c^2 / (2 g_c^2 + S_c g_c^3 + 1e-6) with S_c = sum_hw A_c and raw logits y, as pytorch-grad-cam has it; the
    paper's exp(y) in place of y would only scale the map. Features that may be negative (no ReLU before the target
    layer) can bring the denominator near zero; it is then kept 1e-6 away from it.

    Args:
        relu: drop evidence against the class.
        epsilon: in place of 1e-6. With 0, the paper's formula, a_c is 1 / (2 + S_c g_c). A mean over many places makes
            g_c^2 far smaller than 1e-6 (1e-12 in a U-Net), and w_c then goes with the cube of the gradient.
    """

    relu: bool = True
    epsilon: float = _SMALLEST

    summary: ClassVar[str] = "feature maps weighted by their positive gradients, more where several places count"
    source: ClassVar[str] = "Chattopadhyay et al. 2018, arXiv:1710.11063"

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon < float("inf"):
            raise UsageError(f"--set epsilon={self.epsilon:g}: needs a number from 0, which is the paper's formula")

    def _weigh(self, gradient: Tensor, features: Tensor) -> Tensor:
        positive = gradient.relu()  # places without a positive gradient have no weight, whatever their a
        total = features.sum((2, 3), keepdim=True)
        # without epsilon the squares cancel: they would vanish where gradients are small
        square = positive * positive if self.epsilon else torch.ones_like(positive)
        below = square * (2 + total * positive) + self.epsilon
        least = self.epsilon or _SMALLEST
        below = torch.where(below.abs() < least, least, below)
        return torch.einsum("pc,pchw->phw", (square * positive / below).sum((2, 3)), features)
