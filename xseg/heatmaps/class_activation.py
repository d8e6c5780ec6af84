"""Class activation maps: the linear head applied at each place instead of to the mean."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from xseg.classifier.capture import capture
from xseg.classifier.model import Classifier
from xseg.errors import UsageError
from xseg.heatmaps.batches import sides_of
from xseg.heatmaps.layers import evaluating, maps_or_reason, probe_images, single, target_layer
from xseg.heatmaps.registry import Method, Query, instead, methods

# Largest difference between rebuilt and real logits, as a fraction of the sum of their terms' absolute values.
_AGREEMENT = {torch.float16: 1e-2, torch.bfloat16: 3e-2}
_AGREEMENT_FLOAT32 = 1e-3


def _run(
    classifier: Classifier, images: Tensor, layer: str | None, create_graph: bool = False
) -> tuple[Tensor | str, Tensor]:
    """Feature maps (N,F,h,w) of the target layer or why it has none, and logits (N,C), of one forward pass.

    Without gradients unless `create_graph`.
    """
    path, module = target_layer(classifier, layer)
    gradients = torch.enable_grad() if create_graph else torch.no_grad()
    with evaluating(classifier, create_graph), gradients, capture(classifier, [path], create_graph) as features:
        logits = classifier(images)
    if path not in features:
        raise UsageError(f"--layer {path}: this {type(module).__name__} is never run", "choose another layer")
    return maps_or_reason(classifier, layer, features[path], sides_of(images)), logits


def _head_weight(classifier: Classifier) -> tuple[Tensor, Tensor | None] | str:
    """Weight (C,F) and bias (C,) of a linear or 1x1 convolutional head; else why there is none."""
    path = classifier.config.head
    module = dict(classifier.net.named_modules()).get(path)
    linear = isinstance(module, nn.Linear) or (
        isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1
    )
    if linear:
        assert isinstance(module, nn.Linear | nn.Conv2d)
        return single(module.weight).flatten(1), None if module.bias is None else single(module.bias)
    found = f"{path!r} ({type(module).__name__})"
    return f"cam needs a linear layer or a 1x1 convolution as head, found {found}; {instead(classifier)}"


def _disagreement(classifier: Classifier, layer: str | None, features: Tensor | str, logits: Tensor) -> str | None:
    """Why `logits` (N,C) are not the head applied to the spatial mean of `features` (N,F,h,w), or None if they are."""
    head = _head_weight(classifier)
    if isinstance(head, str):
        return head
    if isinstance(features, str):
        return f"cam: {features}"
    weight, bias = head
    path, module = target_layer(classifier, layer)
    where = f"{path} ({type(module).__name__}) and the head {classifier.config.head}"
    if weight.shape != (logits.shape[1], features.shape[1]):
        return (
            f"cam needs only a global mean between {where}; the layer has {features.shape[1]} channels, "
            f"the head takes {weight.shape[1]}; {instead(classifier)}"
        )
    weight, features = weight.detach(), single(features.detach())
    pooled = features.mean((2, 3))
    offset = torch.zeros_like(weight[:, 0]) if bias is None else bias.detach()
    rebuilt = pooled @ weight.T + offset
    size = (pooled.abs() @ weight.T.abs() + offset.abs()).amax()
    if ((rebuilt - single(logits.detach())).abs() > _AGREEMENT.get(logits.dtype, _AGREEMENT_FLOAT32) * size).any():
        more = f"cam needs only a global mean between {where}, but the logits say there is more"
        return f"{more}; {instead(classifier)}"
    return None


@methods.register("cam")
@dataclass(frozen=True)
class ClassActivation(Method):
    """CAM_k = ReLU(sum_c W_kc f_c), the bias left out (Zhou et al. 2016; PSA's `sqrt` for VGG16).

    Exact where a global mean and a linear head follow the features; anything else is refused, by comparing the
    logits with the head applied to the mean of the features.

    Args:
        relu: drop evidence against the class.
        sqrt: square root of what remains, as PSA's VGG16 does.
    """

    relu: bool = True
    sqrt: bool = False

    signed: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True
    at_layer: ClassVar[bool] = True
    models: ClassVar[str] = "a global mean and a linear head after the target layer"
    cost: ClassVar[str] = "1 f"
    summary: ClassVar[str] = "class activation map: the head's weights applied at each place of the last feature map"
    source: ClassVar[str] = "Zhou et al. 2016, arXiv:1512.04150"

    def __post_init__(self) -> None:
        if self.sqrt and not self.relu:
            raise UsageError("--set sqrt=true: no square root of a signed map", "leave relu=true")

    @property
    def is_signed(self) -> bool:
        """Signed without ReLU."""
        return not self.relu

    def serves(self, classifier: Classifier, layer: str | None = None) -> str | None:
        """Compare the logits of a noise image with the head applied to the mean of the features."""
        features, logits = _run(classifier, probe_images(classifier), layer)
        return _disagreement(classifier, layer, features, logits)

    def __call__(self, classifier: Classifier, query: Query) -> Tensor:
        """Maps (P,h,w) at the resolution of the target layer.

        Raises:
            UsageError: the logits are not the head applied to the mean of the features.
        """
        features, logits = _run(classifier, query.images, query.layer, query.create_graph)
        with torch.set_grad_enabled(query.create_graph), torch.autocast(logits.device.type, enabled=False):
            problem = _disagreement(classifier, query.layer, features, logits)
            head = _head_weight(classifier)
            if problem or isinstance(head, str) or isinstance(features, str):
                raise UsageError(f"--method: {problem}")
            classes, column = query.target.unique(return_inverse=True)
            maps = torch.einsum("kf,nfhw->nkhw", head[0][classes], single(features))[query.image, column]
        maps = maps.relu() if self.relu else maps
        return maps.sqrt() if self.sqrt else maps
