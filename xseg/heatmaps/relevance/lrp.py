"""Layer-wise relevance propagation and its contrastive variants."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from xseg.classifier.model import Classifier
from xseg.errors import UsageError
from xseg.heatmaps.registry import methods
from xseg.heatmaps.relevance.composites import (
    COMPOSITES,
    CompositeName,
    RuleName,
    RuleSettings,
    RuleWalker,
    bounds_of_image,
    bounds_of_pixels,
    require_one_of,
)
from xseg.heatmaps.relevance.folding import folded
from xseg.heatmaps.relevance.method import RelevanceMethod, one_hot
from xseg.heatmaps.relevance.tape import Tape
from xseg.heatmaps.relevance.walk import Walker

#: The composite's own rule for a place, or another one.
Choice = Literal["composite", RuleName]


@dataclass(frozen=True)
class _Rules(RelevanceMethod):
    """The parameters of a composite; see `Lrp`."""

    composite: CompositeName = "epsilon-plus"
    conv: Choice = "composite"
    dense: Choice = "composite"
    first: Choice = "composite"
    epsilon: float = 1e-6
    gamma: float = 0.25
    alpha: float = 2.0
    stabiliser: float = 1e-6
    bias: bool = True
    batch_norm: Literal["folded", "identity"] = "folded"
    bounds: Literal["pixels", "image"] = "pixels"

    signed: ClassVar[bool] = True
    cost: ClassVar[str] = "2 f + K b (z-plus, epsilon)"

    def __post_init__(self) -> None:
        require_one_of("composite", self.composite, get_args(CompositeName))
        for name in ("conv", "dense", "first"):
            require_one_of(name, getattr(self, name), get_args(Choice))
        require_one_of("batch_norm", self.batch_norm, ("folded", "identity"))
        require_one_of("bounds", self.bounds, ("pixels", "image"))
        for name, least in (("epsilon", 0), ("gamma", 0), ("stabiliser", 0), ("alpha", 1)):
            if not least <= getattr(self, name) < float("inf"):
                raise UsageError(f"--set {name}={getattr(self, name)}: needs a number of at least {least}")

    def walker(self, classifier: Classifier, tape: Tape) -> Walker:
        """Rules by the composite, single rules by their own parameters; as published where that is asked for."""
        published = self.composite == "published"
        folds = self.batch_norm == "folded" and not published
        image = self.bounds == "image" or published
        settings = RuleSettings(
            epsilon=self.epsilon,
            gamma=self.gamma,
            alpha=self.alpha,
            stabiliser=self.stabiliser,
            published=published,
            bias=self.bias and not published,
            bounds=bounds_of_image if image else bounds_of_pixels(classifier.config),
        )
        rules = tuple(
            given if own == "composite" else own
            for own, given in zip((self.conv, self.dense, self.first), COMPOSITES[self.composite], strict=True)
        )
        return RuleWalker(folded(tape) if folds else tape, rules, settings)  # type: ignore[arg-type]


@methods.register("lrp")
@dataclass(frozen=True)
class Lrp(_Rules):
    """Layer-wise relevance propagation: the logit shared out over the pixels, layer by layer (Bach et al. 2015).

    Sums of branches, means and up-sampling share in proportion to what each part contributes, a maximum gives all to
    the winner, activations and layer norms pass relevance on, gates (squeeze and excitation) give all to the feature.

    Args:
        composite: the rules of convolutions, linear layers and the layers that read the image; `published` is what
            the code of AGF calls LRP: alpha-beta everywhere, z-box with the image's own bounds, no biases.
        conv: rule of the convolutions, the `composite`'s or another: zero, epsilon, gamma, z-plus, alpha-beta, z-box,
            flat or w-square; likewise `dense` for linear layers and `first` for the layers that read the image.
        dense: see `conv`.
        first: see `conv`.
        epsilon: of the epsilon rule, in units of the layer's output.
        gamma: of the gamma rule.
        alpha: of the alpha-beta rule; beta is alpha - 1.
        stabiliser: added to the other rules' denominators, with their sign.
        bias: the biases take their share, which is then lost; without, relevance is conserved.
        batch_norm: folded into the convolution before it, or passed unchanged (identity).
        bounds: of the z-box: black and white pixels, or each image's own least and largest value.
        start: the relevance at the class: its logit, or one.
    """

    start: Literal["logit", "one"] = "logit"

    summary: ClassVar[str] = "the logit shared out over the pixels layer by layer; rules and composites by name"
    source: ClassVar[str] = "Bach et al. 2015, doi:10.1371/journal.pone.0130140"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("start", self.start, ("logit", "one"))

    def explain(self, walker: Walker, logits: Tensor, target: Tensor) -> Tensor:
        """Relevance (K,N,H,W), summed over colours."""
        hot = one_hot(target, logits.shape[1], logits)
        return walker.walk(hot * logits if self.start == "logit" else hot).sum(2)


@dataclass(frozen=True)
class _Contrastive(_Rules):
    """The difference of two relevance maps, of the class and of the others, scaled to equal sums."""

    composite: CompositeName = "published"
    alpha: float = 1.0

    cost: ClassVar[str] = "2 f + 2 K b"

    def starts(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Relevance (K,N,C) of the class and of the others."""
        raise NotImplementedError

    def explain(self, walker: Walker, logits: Tensor, target: Tensor) -> Tensor:
        """Difference (K,N,H,W); where the others' map sums to 0 nothing is subtracted."""
        own, others = walker.walk(torch.cat(self.starts(logits, target))).sum(2).chunk(2)
        total, against = (maps.sum((2, 3), keepdim=True) for maps in (own, others))
        factor = torch.where(against == 0, 0, total / torch.where(against == 0, 1, against))
        return own - others * factor


@methods.register("clrp")
@dataclass(frozen=True)
class Clrp(_Contrastive):
    """Contrastive LRP: relevance of the class less that of all others (Gu et al. 2018).

    Args:
        others: what the other classes start with: the class's own logit in equal shares (`shared`, the code of AGF),
            or their own logits over their number (`logits`, the text of the AGF paper).
    """

    others: Literal["shared", "logits"] = "shared"

    summary: ClassVar[str] = "LRP of the class less LRP of all others, scaled to the same sum: what sets it apart"
    source: ClassVar[str] = "Gu et al. 2018, arXiv:1812.02100"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("others", self.others, ("shared", "logits"))

    def starts(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The logit at the class; the rest as `others` says."""
        classes = logits.shape[1]
        hot = one_hot(target, classes, logits)
        own = hot * logits
        shared = own.sum(2, keepdim=True) if self.others == "shared" else logits
        return own, (1 - hot) * shared / max(classes - 1, 1)


@methods.register("sglrp")
@dataclass(frozen=True)
class Sglrp(_Contrastive):
    """Softmax-gradient LRP: starts from the gradient of the class's softmax probability (Iwana et al. 2019).

    The softmax is taken over the logits also of a multi-label classifier, as in the published comparisons.
    """

    summary: ClassVar[str] = "contrastive LRP started from the gradient of the softmax probability"
    source: ClassVar[str] = "Iwana et al. 2019, arXiv:1908.04351"

    def starts(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """p_t (1 - p_t) + 1e-8 at the class, p_t p_j at the others."""
        hot = one_hot(target, logits.shape[1], logits)
        probability = logits.softmax(1)
        own = (hot * probability).sum(2, keepdim=True)
        return hot * (own * (1 - own) + 1e-8), (1 - hot) * own * probability
