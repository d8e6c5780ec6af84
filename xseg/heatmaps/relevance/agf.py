"""Attribution-guided factorization (Gur, Ali and Wolf 2021), as the published code computes it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from xseg.classifier.model import Classifier
from xseg.heatmaps.layers import single
from xseg.heatmaps.registry import methods
from xseg.heatmaps.relevance.affine import Affine
from xseg.heatmaps.relevance.composites import bounds_of_image, first_layers, require_one_of
from xseg.heatmaps.relevance.factorization import foreground
from xseg.heatmaps.relevance.method import RelevanceMethod, own_logits
from xseg.heatmaps.relevance.operations import AFFINE
from xseg.heatmaps.relevance.rules import Box, Place, divide_as_published, share_by_magnitude, sum_of
from xseg.heatmaps.relevance.tape import Step, Tape
from xseg.heatmaps.relevance.walk import Walker


@methods.register("agf")
@dataclass(frozen=True)
class Agf(RelevanceMethod):
    """Attribution guided by a factorization of inputs and gradients into foreground and background, layer by layer.

    Two streams go back together, attribution and the gradient of a contrast of the logits. The published code serves
    VGG and ResNet. In other networks, as our extension, convolutions with kernels larger than 1 and depthwise ones get
    the full update, 1x1 convolutions and the last convolution of a residual branch only the relevance term C (as the
    published ResNet does), batch norms, layer norms and smooth activations pass attribution on.

    Where the logit of the class is negative, the class has the least of the published contrast, and what speaks for a
    rival counts for the class instead of against it. `start=logit` asks for the class alone, whatever its logit.

    Args:
        variant: `code`, or `paper`: sigmoid(Y) for sigmoid(10 Y), phi <= 0 for phi < 0, no ridge in the factorization,
            and residual and shift of Definition 2 everywhere, not only where C is not 0.
        start: the contrast of the logits (`contrast`), or the class's own logit.
        no_a: ablation: without the input-agnostic term A; the others likewise.
        no_fx: without the factorization of the input.
        no_fdx: without the factorization of the gradient.
        no_m: without the mask M of convolutions, where input and gradient agree.
        no_reg: the input's factorization and M are not weighted by sigmoid(C).
        gradcam: Grad-CAM's map of each layer in place of the input's factorization and M.
    """

    variant: Literal["code", "paper"] = "code"
    start: Literal["contrast", "logit"] = "contrast"
    no_a: bool = False
    no_fx: bool = False
    no_fdx: bool = False
    no_m: bool = False
    no_reg: bool = False
    gradcam: bool = False

    signed: ClassVar[bool] = True
    summary: ClassVar[str] = "attribution guided by factorizing inputs and gradients, layer by layer: sharp, per class"
    source: ClassVar[str] = "Gur, Ali and Wolf 2021, arXiv:2012.02166"
    cost: ClassVar[str] = "2 f + 3 or 4 K b"

    def __post_init__(self) -> None:
        require_one_of("variant", self.variant, ("code", "paper"))
        require_one_of("start", self.start, ("contrast", "logit"))

    @property
    def needs_gradients(self) -> bool:
        """Of one of the two streams."""
        return True

    def walker(self, classifier: Classifier, tape: Tape) -> "AgfWalker":
        """The two streams."""
        return AgfWalker(tape, self)

    def explain(self, walker: Walker, logits: Tensor, target: Tensor) -> Tensor:
        """Maps (K,N,H,W): attribution over its largest value, summed over colours."""
        assert isinstance(walker, AgfWalker)
        attribution = walker.attribute(target, torch.is_grad_enabled())
        top = attribution.amax((2, 3, 4), keepdim=True)
        # The published code divides by a maximum that is not positive too, which would turn all signs around.
        size = torch.where(top > 0, top, attribution.abs().amax((2, 3, 4), keepdim=True))
        return divide_as_published(attribution, size).sum(2)


def contrast(logits: Tensor, target: Tensor) -> Tensor:
    """softmax_j(Y_t exp(-((Y_j - Y_t) / sigma)^2 / 2)) at j = t, with sigma the largest |Y_j - Y_t| (paper, Eq. 18).

    Equal logits contrast with nothing: their gradient is 0. A single class has nothing to contrast with: its logit.

    Args:
        logits: (N,C).
        target: (K,N) classes.

    Returns:
        (K,N).
    """
    own = own_logits(logits, target)
    if logits.shape[1] == 1:
        return own
    away = logits - own[..., None]
    sigma = away.abs().amax(2, keepdim=True)
    weighted = own[..., None] * torch.exp(-0.5 * (away / torch.where(sigma == 0, 1, sigma)) ** 2)
    return weighted.softmax(2).gather(2, target[..., None])[..., 0]


class AgfWalker(Walker):
    """Attribution (Phi in the paper) goes back step by step; the gradients of all values are taken at once before it.

    Args:
        tape: with the graph of its values.
        options: the ablations.
    """

    def __init__(self, tape: Tape, options: Agf) -> None:
        super().__init__(tape, divide_as_published)
        self._options = options
        self._uses = tape.uses()
        self._makers = tape.makers()
        self._firsts = first_layers(tape)
        self._last = next((step for step in reversed(tape.steps) if step.kind in AFFINE), None)
        self._plain = _end_of_branch(tape)
        self._gradients: dict[int, Tensor] = {}

    def attribute(self, target: Tensor, create_graph: bool) -> Tensor:
        """Attribution (K,N,3,H,W) of the classes `target` (K,N)."""
        if self._last is None:
            return self.walk(torch.zeros_like(self.tape.logits)[None])  # refused there
        with torch.enable_grad():
            logits = single(self.tape.logits)
            scores = contrast(logits, target) if self._options.start == "contrast" else own_logits(logits, target)
            totals = scores.sum(1).unbind()  # images do not influence each other
        self._take_gradients(totals, create_graph)
        number = self._last.sources[0]
        return self.walk(self.source(self._last) * self._gradients[number], number)

    def _take_gradients(self, totals: Sequence[Tensor], create_graph: bool) -> None:
        numbers = sorted({number for step in self.tape.steps if step.kind in AFFINE for number in self._ends(step)})
        self._gradients = self.tape.gradients(totals, numbers, create_graph)

    def _ends(self, step: Step) -> tuple[int, ...]:
        source = step.sources[0]
        # the gradient at the input is that through this layer alone only if no other step reads the input
        return (source, step.target) if self._uses[source] == 1 or step is self._last else (step.target,)

    def activation(self, step: Step, r: Tensor) -> Tensor:
        """X dZ/dX Phi / Z for ReLUs, which is Phi where Z is not 0; smooth ones pass it on (our extension)."""
        return self.divide.kept(r, self.value(step)) if "relu" in getattr(step.function, "__name__", "") else r

    def affine(self, step: Step, layer: Affine, r: Tensor) -> Tensor:
        """The full update, or C alone, or the z-box at the image."""
        place = Place(layer, self.source(step), self.value(step), False)
        if step.target in self._firsts:
            return Box(bounds_of_image, divide_as_published, bias=False)(place, r)
        if step.kind == "dense":
            return self._dense(step, place, r)
        full = step.kind == "convolution" and step.target not in self._plain and _spatial(layer)
        return self._full(step, place, r) if full else share_by_magnitude(place, r)

    def _dense(self, step: Step, place: Place, r: Tensor) -> Tensor:
        relevance = share_by_magnitude(place, r)
        shape = self._map_before(step.sources[0])
        if shape is None:
            return relevance
        gradient = self._gradient_at_input(step, place)
        relevance, gradient = relevance.unflatten(2, shape[1:]), gradient.unflatten(2, shape[1:])
        mask = _agreement(place.x.unflatten(1, shape[1:]), gradient)
        if self._options.variant == "code":
            mask = mask * (relevance != 0)  # before its largest value is looked for
        mask = divide_as_published(mask, mask.amax((2, 3, 4), keepdim=True))
        return self._shifted(relevance, mask).flatten(2)

    def _map_before(self, number: int) -> torch.Size | None:
        """The shape (N,C,h,w) of what a linear layer reads flattened; None if that is no feature map."""
        maker = self._makers.get(number)
        if maker is None or maker.kind != "reshape":
            return None
        shape = self.tape.values[maker.sources[0]].shape
        return shape if len(shape) == 4 else None

    def _full(self, step: Step, place: Place, r: Tensor) -> Tensor:
        options, x = self._options, place.x
        weight = place.layer.weight.abs()
        shares = [divide_as_published.above(r, place.layer(x.abs(), weight))]
        if not options.no_a:
            shares.append(divide_as_published.above(r, _count(place, weight)))
        back = place.back(torch.cat(shares), weight)
        relevance = x.abs() * back[: len(r)]
        residual = torch.zeros_like(relevance) if options.no_a else back[len(r) :]
        gradient = self._gradient_at_input(step, place)
        masked = self._masked_gradient(step, place, r, gradient)
        phi, paper = relevance.mean(2, keepdim=True), options.variant == "paper"
        if not options.no_fdx:
            residual = residual + foreground(masked, phi, paper)
        guides = self._guides(x, gradient, masked, phi)
        if guides:
            total = sum_of(guides)
            residual = residual + (total if options.no_reg else total * relevance.sigmoid())
        return self._shifted(relevance, residual)

    def _guides(self, x: Tensor, gradient: Tensor, masked: Tensor, phi: Tensor) -> list[Tensor]:
        """What is weighted by sigmoid(C): (K,N,1,h,w) each."""
        options = self._options
        if options.gradcam:
            return [_agreement(x, masked.mean((3, 4), keepdim=True))]
        guides = [] if options.no_fx else [foreground(x[None], phi, options.variant == "paper")]
        if not options.no_m:
            mask = _agreement(x, gradient)
            guides.append(divide_as_published(mask, mask.amax((2, 3, 4), keepdim=True)))
        return guides

    def _gradient_at_input(self, step: Step, place: Place) -> Tensor:
        source = step.sources[0]
        if source in self._gradients and self._uses[source] == 1:
            return self._gradients[source]
        return place.back(self._gradients[step.target], place.layer.weight)

    def _masked_gradient(self, step: Step, place: Place, r: Tensor, gradient: Tensor) -> Tensor:
        """The gradient at the input that comes from outputs with attribution."""
        out = self._gradients[step.target]
        lost = out * (r == 0)
        return place.back(out - lost, place.layer.weight) if lost.any() else gradient

    def _shifted(self, relevance: Tensor, residual: Tensor) -> Tensor:
        """The residual added and its sum taken away again evenly (paper, Definition 2)."""
        present = (relevance != 0).to(relevance)
        # The code changes nothing where C is 0; the paper's text has no such exception in Equations 4 and 13.
        where = 1 if self._options.variant == "paper" else present
        residual = residual * where
        share = residual.sum((2, 3, 4), keepdim=True) / present.sum((2, 3, 4), keepdim=True).clamp(min=1)
        return relevance + residual - where * share


def _agreement(x: Tensor, gradient: Tensor) -> Tensor:
    """M before scaling: (K,N,1,h,w), the positive part of the mean over channels of input times gradient."""
    return (x * gradient).mean(2, keepdim=True).relu()


def _count(place: Place, weight: Tensor) -> Tensor:
    """|W| applied to ones: (1,out,h,w), through one channel, since all are alike."""
    ones = torch.ones_like(place.x[:1, :1])
    options = place.layer.options | {"groups": 1}
    return place.layer.function(ones, weight.sum(1, keepdim=True), None, **options)


def _spatial(layer: Affine) -> bool:
    return max(layer.weight.shape[2:]) > 1 or layer.weight.shape[1] == 1 < layer.weight.shape[0]


def _end_of_branch(tape: Tape) -> frozenset[int]:
    """Targets of the convolutions whose output, but for a batch norm, is a term of a sum."""
    makers = tape.makers()
    found = set()
    for step in tape.steps:
        if step.kind != "sum":
            continue
        for source in step.sources:
            maker = makers.get(source)
            while maker is not None and maker.kind in ("batch-norm", "constant"):
                maker = makers.get(maker.sources[0])
            if maker is not None and maker.kind == "convolution":
                found.add(maker.target)
    return frozenset(found)
