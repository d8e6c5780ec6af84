"""Relative attributing propagation (Nam et al. 2020)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from xseg.classifier.model import Classifier
from xseg.heatmaps.registry import methods
from xseg.heatmaps.relevance.affine import Affine
from xseg.heatmaps.relevance.composites import bounds_of_image, first_layers, require_one_of
from xseg.heatmaps.relevance.method import RelevanceMethod, one_hot
from xseg.heatmaps.relevance.operations import AFFINE
from xseg.heatmaps.relevance.rules import Box, Place, divide_as_published, share_by_magnitude
from xseg.heatmaps.relevance.tape import Step, Tape
from xseg.heatmaps.relevance.walk import Walker, nonnegative


@methods.register("rap")
@dataclass(frozen=True)
class Rap(RelevanceMethod):
    """Relevance shared out by the size of contributions, then shifted evenly so that their sign tells their rank.

    What the code of RAP and of AGF computes, biases without a share, z-box with the image's own bounds at the image.
    For networks with basic residual blocks, where the published code fails, branches are added up (our extension).

    Args:
        start: `logit`: the class starts with its logit, as in the comparisons of AGF; `one`: with 1, which in the code
            of RAP makes the last layer share out its signed contributions by their size, the bias's share included.
        pointwise: 1x1 convolutions share by |x||w| (`magnitude`, the code of AGF) or like the others (`full`, RAP's).
    """

    start: Literal["logit", "one"] = "logit"
    pointwise: Literal["magnitude", "full"] = "magnitude"

    signed: ClassVar[bool] = True
    summary: ClassVar[str] = "relevance by the size of contributions, shifted so that unimportant ones become negative"
    source: ClassVar[str] = "Nam et al. 2020, arXiv:1904.00605"
    cost: ClassVar[str] = "3 f + 2 K b"

    def __post_init__(self) -> None:
        require_one_of("start", self.start, ("logit", "one"))
        require_one_of("pointwise", self.pointwise, ("magnitude", "full"))

    def walker(self, classifier: Classifier, tape: Tape) -> "RapWalker":
        """RAP's rules."""
        return RapWalker(tape, self)

    def explain(self, walker: Walker, logits: Tensor, target: Tensor) -> Tensor:
        """Relevance (K,N,H,W), summed over colours."""
        hot = one_hot(target, logits.shape[1], logits)
        return walker.walk(hot * logits if self.start == "logit" else hot).sum(2)


class RapWalker(Walker):
    """RAP's rules for layers with weights.

    Args:
        tape: the forward pass.
        options: how the last layer and 1x1 convolutions share.
    """

    def __init__(self, tape: Tape, options: Rap) -> None:
        super().__init__(tape, divide_as_published)
        self._options = options
        self._nonnegative = nonnegative(tape)
        self._firsts = first_layers(tape)
        last = next((step for step in reversed(tape.steps) if step.kind in AFFINE), None)
        self._last = None if last is None else last.target
        self._dense_ending = last is None or last.kind == "dense"

    def refusal(self) -> str | None:
        """With `start=one` the published first step needs a linear layer to begin with."""
        if self._options.start == "one" and not self._dense_ending:
            return "start=one begins with the rule of a linear layer, and another one makes the logits: use start=logit"
        return super().refusal()

    def affine(self, step: Step, layer: Affine, r: Tensor) -> Tensor:
        """The rule for the layer's place."""
        place = Place(layer, self.source(step), self.value(step), step.sources[0] in self._nonnegative)
        if step.target in self._firsts:
            return Box(bounds_of_image, divide_as_published, bias=False)(place, r)
        if step.target == self._last and self._options.start == "one":
            return _last_layer(place, r)
        pointwise = step.kind == "convolution" and max(layer.weight.shape[2:]) == 1
        if pointwise and self._options.pointwise == "magnitude":
            return share_by_magnitude(place, r)
        up, down = layer.weight.clamp(min=0), layer.weight.clamp(max=0)
        result = _half(place, r, place.x.clamp(min=0), up, -down)
        return result if place.nonnegative else result + _half(place, r, place.x.clamp(max=0), -up, down)


def _half(place: Place, r: Tensor, x: Tensor, favoured: Tensor, other: Tensor) -> Tensor:
    """The inputs of one sign: x W >= 0 for both weights, of which the favoured one raises the output.

    Positive relevance goes in full to what raises the output, and the share of the rest once more to the rest;
    negative relevance of a convolution goes to the rest, of a linear layer to what raises the output. The surplus is
    then taken away evenly.
    """
    divide = divide_as_published
    raised, lowered = place.layer(x, favoured), place.layer(x, other)
    total = raised + lowered
    whole, share = r * divide(total, total), r * divide(lowered, total)
    if place.layer.kind == "dense":
        first, second = whole, share
    else:
        first, second = whole.clamp(min=0), share + whole.clamp(max=0)
    spread = x * (place.back(divide(first, raised), favoured) + place.back(divide(second, lowered), other))
    axes = tuple(range(2, spread.ndim)) if place.layer.kind != "dense" else (-1,)
    where = (spread != 0).to(spread)
    surplus = spread.sum(axes, keepdim=True) - r.sum(axes, keepdim=True)
    return spread - where * divide(surplus, where.sum(axes, keepdim=True))


def _last_layer(place: Place, r: Tensor) -> Tensor:
    """Signed contributions to the class, the bias in proportion, then their sum shared out by their size."""
    layer, divide = place.layer, divide_as_published
    up, down = layer.weight.clamp(min=0), layer.weight.clamp(max=0)
    high, low = place.x.clamp(min=0), place.x.clamp(max=0)
    raising = ((layer(high, up) + layer(low, down)) * r).sum(-1, keepdim=True)
    lowering = ((layer(high, down) + layer(low, up)) * r).sum(-1, keepdim=True)
    contributions = place.x * place.back(r, layer.weight)
    if layer.bias is not None:
        bias, total = layer.bias * r, raising + lowering
        for part, weight in ((raising, up), (lowering, down)):
            share = divide(bias * divide(part, total), layer(high, weight))
            contributions = contributions + high * place.back(share, weight)
    size = contributions.abs()
    return divide(size, size.sum(-1, keepdim=True)) * contributions.sum(-1, keepdim=True)
