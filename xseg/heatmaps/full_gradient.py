"""FullGrad: the logit split exactly into what the pixels and what the biases of every layer add to it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from xseg.classifier.model import Classifier
from xseg.heatmaps.batches import sides_of
from xseg.heatmaps.layers import evaluating, gradient_seeds, image_leaf, in_order, single
from xseg.heatmaps.registry import Method, Query, methods


class _Layer(NamedTuple):
    """One run of a layer that adds a constant.

    Args:
        bias: (F,), the constant.
        output: (N,F,h,w), or (N,...,F) of a linear layer.
        axis: that of the F channels in `output`.
    """

    bias: Tensor
    output: Tensor
    axis: int

    @property
    def has_places(self) -> bool:
        return self.output.ndim == 4 and self.axis == 1

    def times(self, gradient: Tensor) -> Tensor:
        """Bias times gradient (p,F,h,w) or (p,...,F)."""
        shape = [1] * gradient.ndim
        shape[self.axis] = -1
        return gradient * single(self.bias).reshape(shape)


class _Biases(TorchFunctionMode):
    """Collects every convolution, batch norm and linear layer with a bias that runs inside.

    Calls are caught, not modules: layers that hold batch norm and activation in one (timm's BatchNormAct2d), that
    compute their weights first, or that run twice need no case of their own.

    Args:
        fold: a layer and the batch norm that follows it count as one, with one bias.
    """

    def __init__(self, fold: bool = False) -> None:
        super().__init__()
        self.found: list[_Layer] = []
        self._fold = fold
        self._passed_on: Tensor | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the function returns
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func not in _AFFINE or not output.requires_grad:
            if output is self._passed_on:  # worked on in place, so no longer the layer's own output
                self._passed_on = None
            return output
        bias = self._bias(func, *args, **kwargs)
        if bias is None:
            return output
        self.found.append(_Layer(bias, output, -1 if func is functional.linear else 1))
        self._passed_on = output.clone()  # a copy, so that the network may go on in place
        return self._passed_on

    def _bias(self, func: Callable[..., Any], input: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:  # noqa: ANN401
        if func is not functional.batch_norm:
            return _plain_bias(*args, **kwargs)
        before = self.found[-1].bias if self._fold and input is self._passed_on else None
        bias = _batch_norm_bias(before, *args, **kwargs)
        if before is not None and bias is not None:
            self.found.pop()
        return bias


_AFFINE = {
    functional.conv1d,
    functional.conv2d,
    functional.conv3d,
    functional.conv_transpose1d,
    functional.conv_transpose2d,
    functional.conv_transpose3d,
    functional.linear,
    functional.batch_norm,
}


def _plain_bias(_weight: Tensor, bias: Tensor | None = None, *_: object, **__: object) -> Tensor | None:
    return bias


def _batch_norm_bias(
    before: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    """What a batch norm with fixed statistics makes of an input of zeros, or of a bias `before` it."""
    if training or running_mean is None or running_var is None:
        return None
    constant = torch.zeros_like(running_mean) if before is None else before
    return functional.batch_norm(constant[None], running_mean, running_var, weight, bias, False, momentum, eps)[0]


def _terms(
    classifier: Classifier, query: Query, fold: bool = False
) -> Iterator[tuple[Tensor, Tensor, list[tuple[_Layer, Tensor]]]]:
    """The terms that sum to the logits, one round of questions at a time.

    Layers that do not run on one row per image (windows, patches) are left out.

    Yields:
        The round's questions (p,), pixels times gradient (p,3,H,W), and for each layer in order of execution bias
        times gradient of its output (p,F,h,w), or (p,...,F) of a linear layer.
    """
    with evaluating(classifier, query.create_graph), torch.enable_grad():
        leaf = image_leaf(query)
        with _Biases(fold) as biases:
            logits = classifier(leaf.clone())  # a copy, so that the network may work in place
    layers = [layer for layer in biases.found if len(layer.output) == len(leaf)]
    pixels = single(leaf if query.create_graph else leaf.detach())
    rounds = query.rounds()
    seeds, scale = gradient_seeds(query, rounds, logits)
    for number, chosen in enumerate(rounds):
        image = query.image[chosen]
        gradients = torch.autograd.grad(
            logits,
            [leaf, *(layer.output for layer in layers)],
            seeds[number],
            retain_graph=query.create_graph or number + 1 < len(rounds),
            create_graph=query.create_graph,
            materialize_grads=True,  # zeros for layers that do not lead to the logits
        )
        with torch.set_grad_enabled(query.create_graph):
            first, *rest = (single(gradient[image]) / scale for gradient in gradients)
            terms = [(layer, layer.times(gradient)) for layer, gradient in zip(layers, rest, strict=True)]
            product = first * pixels[image]
        yield chosen, product, terms


def rebuilt_logits(classifier: Classifier, query: Query, fold: bool = False) -> Tensor:
    """The sum (P,) of everything FullGrad splits the logits asked for into: the pixels' and all biases' terms.

    It equals the logits where the network is piecewise linear (see `FullGradient`), with layers and batch norms apart
    or, with `fold`, as one.
    """
    sums: list[Tensor] = []
    rounds: list[Tensor] = []
    for chosen, pixels, layers in _terms(classifier, query, fold):
        rounds.append(chosen)
        sums.append(torch.stack([term.flatten(1).sum(1) for term in (pixels, *(term for _, term in layers))]).sum(0))
    return in_order(sums, rounds)


@methods.register("full-grad")
@dataclass(frozen=True)
class FullGradient(Method):
    """sum_c psi(x * dy_k/dx) + sum_layers sum_c psi(b * dy_k/dz), raw logits y (Srinivas and Fleuret 2019).

    z is the output of a convolution or batch norm, b its bias (of a batch norm also what its fixed mean subtracts),
    and psi the absolute value, scaled to [0,1] over each image's channels and places, resized to the image. Linear
    layers have no places and no part in the map.

    Without psi all terms, the linear layers' included, sum to the logit, exactly where the network is piecewise
    linear: convolutions, linear layers, batch norms, ReLUs, maximum and mean pools, sums, concatenations. Smooth
    activations (SiLU, GELU), gates (squeeze-and-excitation), attention and norms with statistics of the image (layer
    or group norm) break the sum; the map is then computed all the same, of the terms there are.

    Args:
        variant: `official`, the authors' code: scaled by the maximum + 1e-6, corners aligned in resizing; or `agf`,
            the baseline of Gur et al. 2021, one image per call: a convolution and the batch norm after it count as
            one, scaled by the maximum, corners not aligned.
    """

    variant: Literal["official", "agf"] = "official"

    signed: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True
    models: ClassVar[str] = "any; exact where piecewise linear"
    cost: ClassVar[str] = "1 f + K b, the outputs of all layers in memory"
    summary: ClassVar[str] = "pixels and every layer's biases times their gradients, absolute and scaled, summed"
    source: ClassVar[str] = "Srinivas and Fleuret 2019, arXiv:1905.00780"

    def __call__(self, classifier: Classifier, query: Query) -> Tensor:
        """Maps (P,H,W) >= 0 at the resolution of the images; all classes share one forward pass."""
        maps: list[Tensor] = []
        rounds: list[Tensor] = []
        for chosen, pixels, layers in _terms(classifier, query, fold=self.variant == "agf"):
            rounds.append(chosen)
            with torch.set_grad_enabled(query.create_graph):
                total = self._scaled(pixels).sum(1)
                for layer, term in layers:
                    if layer.has_places:
                        total = total + self._resized(self._scaled(term).sum(1), sides_of(pixels))
            maps.append(total)
        return in_order(maps, rounds)

    def _scaled(self, terms: Tensor) -> Tensor:
        """Absolute values of (p,F,h,w), brought to [0,1] per image; a constant one is all zeros."""
        values = terms.abs()
        values = values - values.amin((1, 2, 3), keepdim=True)
        peak = values.amax((1, 2, 3), keepdim=True)
        return values / (peak + 1e-6 if self.variant == "official" else torch.where(peak == 0, 1, peak))

    def _resized(self, maps: Tensor, shape: tuple[int, int]) -> Tensor:
        """Maps (p,h,w) as (p,*shape), bilinear."""
        corners = self.variant == "official"
        return functional.interpolate(maps[:, None], shape, mode="bilinear", align_corners=corners)[:, 0]
